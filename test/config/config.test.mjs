import assert from 'node:assert/strict';
import { test } from 'node:test';
import config from '../../dist/config/config.js';
import options from '../../dist/config/options.js';
import { presets, Trainer } from '../../dist/index.js';

const { expandConfig, optionsOf, resumeOptions } = config;
const { parseTrainerOptions } = options;

test('every preset expands to a network that fits its input', () => {
  for (const preset of Object.keys(presets)) {
    const { unet, input, diffusion } = expandConfig({ preset, channels: 'gray' });
    assert.equal(unet.inChannels, 1);
    assert.equal(unet.outChannels, 2);
    assert.equal(unet.resblockUpdown, true);
    assert.equal(unet.useScaleShiftNorm, true);
    assert.equal(unet.imageSize, input.size);
    assert.equal(input.size % 2 ** (unet.channelMult.length - 1), 0);
    assert.deepEqual([diffusion.schedule, diffusion.steps], ['linear', 1000]);
  }
});

test('the published preset has the published network', () => {
  const { unet, training } = expandConfig({ preset: 'paper-256' });
  assert.deepEqual(unet.channelMult, [1, 1, 2, 2, 4, 4]);
  assert.deepEqual(unet.attentionResolutions, [32, 16, 8]);
  assert.deepEqual([unet.modelChannels, unet.numResBlocks, unet.numHeadChannels], [256, 2, 64]);
  assert.deepEqual([training.batchSize, training.steps, training.lr, training.ema], [2, 10000, 1e-4, 0.997]);
});

test('defaults', () => {
  const { preset, score, training } = expandConfig({});
  assert.equal(preset, 'lite');
  assert.equal(score.scaleIndexing, 'original');
  assert.equal(score.respacing, null);
  assert.equal(score.normalization, 'calibration');
  assert.deepEqual(score.topPixels, { count: 64 });
  assert.deepEqual([training.holdOut, training.quantile, training.seed], [0.1, 0.99, 0]);
  assert.equal(expandConfig({ scaleIndexing: 'respaced' }).score.respacing, '250');
});

test('an undefined option is one that is not given', () => {
  const given = parseTrainerOptions({ preset: 'nano', lr: undefined, unet: { numResBlocks: undefined } });
  assert.deepEqual(expandConfig(given), expandConfig({ preset: 'nano' }));
});

test('unknown options are refused by name, with the nearest known one', () => {
  for (const [options, message] of [
    [{ sise: 64 }, /unknown option "sise"; did you mean "size"\?/],
    [{ unet: { depth: 3 } }, /unknown option "unet\.depth"/],
    [{ somethingElse: 1 }, /^unknown option "somethingElse"$/],
  ]) {
    assert.throws(() => new Trainer(options), { name: 'DdadError', code: 'ERR_OPTION', message });
  }
});

test('bad values are refused with what was expected and what came', () => {
  for (const [options, message] of [
    [{ preset: 'huge' }, /option "preset": expected one of "nano"\|.*, got "huge"/],
    [{ steps: 0 }, /option "steps": expected number to be >=1, got 0/],
    [{ steps: 1.5 }, /option "steps": .*int.*, got 1\.5/],
    [{ lr: '1e-4' }, /option "lr": expected number, got "1e-4"/],
    [{ preset: 'nano', size: 66 }, /option "size": expected a multiple of 4, .*got 66/],
    [{ topPixels: { share: 1.5 } }, /option "topPixels\.share": .*<=1, got 1\.5/],
    [{ topPixels: 'all' }, /option "topPixels": expected \{ count.*got "all"/],
    [{ scales: [5, 5] }, /option "scales": a noise scale is given twice/],
    [{ scales: [1000] }, /option "scales\.0": .*got 1000/],
    [{ respacing: '250' }, /option "respacing"/],
    [
      { preset: 'nano', unet: { numHeadChannels: 24 } },
      /option "unet\.numHeadChannels": expected a divisor of 64, got 24/,
    ],
    [{ unet: { modelChannels: 40 } }, /option "unet\.modelChannels": .*multiple of 32, got 40/],
    [null, /got null/],
  ]) {
    assert.throws(() => new Trainer(options), { name: 'DdadError', code: 'ERR_OPTION', message });
  }
});

test('options lead to a configuration and back', () => {
  const options = { preset: 'nano', mode: 'resize', channels: 'rgb', size: 32, lr: 3e-4, flip: 'both', seed: 7 };
  const expanded = expandConfig(options);
  assert.deepEqual(expandConfig(optionsOf(expanded)), expanded);
});

test('a resumed run may change what training has not used, nothing else', () => {
  const saved = expandConfig({ preset: 'nano', channels: 'gray', lr: 2e-4, steps: 100 });
  const merged = resumeOptions(saved, { steps: 200, topPixels: { share: 0.5 }, channels: 'auto' });
  assert.deepEqual([merged.steps, merged.lr, merged.channels], [200, 2e-4, 'gray']);
  assert.deepEqual(resumeOptions(saved, { lr: 2e-4, preset: 'nano' }).lr, 2e-4);
  assert.throws(() => resumeOptions(saved, { lr: 1e-4 }), {
    code: 'ERR_OPTION',
    message: 'option "lr": the checkpoint was trained with 0.0002, got 0.0001',
  });
  assert.throws(() => resumeOptions(saved, { preset: 'lite' }), { code: 'ERR_OPTION', message: /option "preset"/ });
  assert.throws(() => resumeOptions(saved, { unet: { numResBlocks: 2 } }), { code: 'ERR_OPTION', message: /"unet"/ });
});

test('features: what they are by default, and without a backbone', () => {
  const lite = expandConfig({ channels: 'gray' });
  assert.deepEqual(lite.features, { backbone: 'efficientnet-lite0', strides: [8, 16], scale: 2, depth: 32, weight: 1 });
  assert.deepEqual(lite.score.evidence, {
    banks: [
      [4, 8],
      [8, 16],
      [8, 16, 32],
    ],
    rows: 4000,
    image: true,
    placeStride: 16,
  });
  assert.deepEqual([lite.unet.featureChannels, lite.score.alpha, lite.score.positions], [40 + 112, 0.1, true]);
  assert.deepEqual(lite.training.focus, { share: 0.75, below: 500 });
  const crop = expandConfig({ mode: 'crop' });
  assert.deepEqual([crop.features.scale, crop.score.alpha], [1, 0]);
  const none = expandConfig({ backbone: null });
  assert.deepEqual([none.features, none.unet.featureChannels, none.score.alpha], [null, 0, 1]);
  const wide = [4, 8, 16].map((stride) => ({ stride, channels: 10 * stride }));
  const other = expandConfig({ backbone: 'weights/lite4.safetensors', featureStrides: [8, 4] }, wide);
  assert.deepEqual([other.features.backbone, other.features.strides], ['lite4', [4, 8]]);
  assert.equal(other.unet.featureChannels, 120);
});

test('features lead back to their options, and a resumed run must have the same', () => {
  for (const options of [
    { backbone: null },
    { featureStrides: [8, 16], featureScale: 3, featureWeight: 0.5, alpha: 0.3, focus: null, mode: 'resize' },
  ]) {
    const expanded = expandConfig({ preset: 'lite', channels: 'gray', ...options });
    assert.deepEqual(expandConfig(optionsOf(expanded)), expanded);
  }
  const saved = expandConfig({ channels: 'gray' });
  assert.equal(resumeOptions(saved, { alpha: 0.7 }).alpha, 0.7);
  resumeOptions(saved, { backbone: '/elsewhere/efficientnet-lite0-backbone.safetensors' });
  for (const [options, message] of [
    [{ backbone: null }, /option "backbone": the checkpoint was trained with "efficientnet-lite0", got null/],
    [{ backbone: 'lite4.safetensors' }, /trained with "efficientnet-lite0", got "lite4\.safetensors"/],
    [{ featureScale: 1 }, /option "featureScale"/],
    [{ focus: null }, /option "focus"/],
  ]) {
    assert.throws(() => resumeOptions(saved, options), { code: 'ERR_OPTION', message });
  }
  const without = expandConfig({ channels: 'gray', backbone: null });
  assert.throws(() => resumeOptions(without, { backbone: 'x.safetensors' }), { code: 'ERR_OPTION' });
});

test('features that do not fit are refused', () => {
  for (const [options, message] of [
    [{ preset: 'lite', size: 104, featureScale: 1 }, /option "size": expected a multiple of 16, the features'/],
    [{ preset: 'nano', unet: { channelMult: [1, 2] } }, /"unet\.channelMult": expected at least 3 levels/],
    [{ featureStrides: [3] }, /featureStrides/],
    [{ featureScale: 5 }, /featureScale.*got 5/],
    [{ alpha: 1.2 }, /alpha.*got 1\.2/],
    [{ focus: { share: 2, below: 5 } }, /focus\.share/],
  ]) {
    assert.throws(() => expandConfig(parseTrainerOptions(options)), { code: 'ERR_OPTION', message });
  }
});
