// What the model remembers of good images: which patches, and what becomes of them.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import config from '../../dist/config/config.js';
import { Detector, Trainer } from '../../dist/index.js';
import engineJson from '../../dist/config/engine-json.js';
import memory from '../../dist/training/memory-bank.js';
import {
  makeDataset,
  png,
  readSafetensors,
  run,
  temporaryFolder,
  tinyFlags,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const { defaultMemoryBank, expandConfig, optionsOf, resumeOptions } = config;
const { fillBanks, bankViews } = memory;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 12);
const resized = { mode: 'resize', smoothing: 0, topPixels: { count: 8 } };

const settings = (patches, seed = 0) => ({
  input: { mode: 'resize', size: 16, channels: 1 },
  features: null,
  unet: { featureChannels: 2 },
  score: { memoryBank: patches === null ? null : { patches, weight: 0.5 } },
  training: { seed, flip: 'none' },
});

const asTheyAre = (files) => files.map((file) => ({ file, view: 0 }));

/** What a detector of images with `cells` residuals remembers; residual i of image k is (k, i). */
async function drawn(patches, images, cells, seed) {
  const files = await Promise.all(
    Array.from({ length: images }, async (_, i) => {
      const file = at(`image-${i}.png`);
      await png({ data: new Uint8Array(256).fill(i), width: 16, height: 16, channels: 1 }).toFile(file);
      return file;
    }),
  );
  let given;
  const detector = {
    score: ({ data: [image] }) => {
      const residuals = Float32Array.from({ length: 2 * cells }, (_, i) => (i % 2 ? (i - 1) / 2 : image));
      return Promise.resolve({ residuals });
    },
    setMemory: (label, values, count) => Promise.resolve(void (given = { label, values, count })),
  };
  let steps = 0;
  for await (const _ of fillBanks(detector, settings(patches, seed), asTheyAre(files), { label: 3 })) steps += 1;
  assert.equal(steps, images);
  assert.deepEqual([given.label, given.values.length], [3, 2 * given.count]);
  return Array.from({ length: given.count }, (_, i) => [given.values[2 * i], given.values[2 * i + 1]]);
}

test('as many patches as asked for, evenly from all images, none twice', async () => {
  const patches = await drawn(23, 5, 9);
  assert.equal(patches.length, 23);
  assert.equal(new Set(patches.map(String)).size, 23);
  const counts = Array.from({ length: 5 }, (_, image) => patches.filter(([of]) => of === image).length);
  assert.deepEqual(counts, [5, 5, 5, 4, 4]);
  assert.deepEqual(await drawn(23, 5, 9), patches, 'the same again');
  assert.notDeepEqual(await drawn(23, 5, 9, 1), patches, 'others with another seed');
  assert.equal((await drawn(100, 5, 9)).length, 45, 'all where there are fewer');
});

test('no more images than patches, and none without a memory', () => {
  const files = Array.from({ length: 2000 }, (_, i) => String(i));
  assert.equal(bankViews(settings(7), files).length, 7);
  assert.equal(new Set(bankViews(settings(20_000), files).map(({ file }) => file)).size, 1000);
  assert.deepEqual(bankViews(settings(null), files), []);
  assert.notDeepEqual(bankViews(settings(7), files, 1), bankViews(settings(7), files, 0));
});

test('whole images are remembered by default, and options that contradict it are refused', () => {
  const lite = expandConfig({ channels: 'gray' });
  assert.deepEqual(lite.score.memoryBank, defaultMemoryBank);
  assert.deepEqual(expandConfig(optionsOf(lite)), lite);
  for (const none of [{ mode: 'crop' }, { backbone: null }, { normalization: 'per-image' }, { memoryBank: null }]) {
    const expanded = expandConfig({ channels: 'gray', ...none });
    assert.equal(expanded.score.memoryBank, null);
    assert.deepEqual(expandConfig(optionsOf(expanded)), expanded);
  }
  assert.deepEqual(resumeOptions(lite, { memoryBank: null }).memoryBank, null);
  const wanted = { patches: 10, weight: 0.5 };
  for (const [options, message] of [
    [{ memoryBank: wanted, backbone: null }, /option "memoryBank": goes with features only/],
    [{ memoryBank: wanted, normalization: 'none' }, /option "memoryBank": goes with normalization "calibration" only/],
    [{ memoryBank: { patches: 0, weight: 0.5 } }, /option "memoryBank.patches"/],
    [{ memoryBank: { patches: 10, weight: 1.5 } }, /option "memoryBank.weight"/],
    [{ memoryBank: 10 }, /option "memoryBank"/],
  ]) {
    assert.throws(() => new Trainer(options), { code: 'ERR_OPTION', message });
  }
});

test('the model keeps its memory, which tells known images from others', async (t) => {
  const file = at('model.safetensors');
  const trained = await trainTiny({ Trainer }, parts, file, { ...resized, memoryBank: { patches: 100, weight: 1 } });
  const { header } = await readSafetensors(file);
  assert.deepEqual(header['residual_memory.0'].shape, [100, trained.unet.featureChannels]);
  assert.ok(trained.calibration.memoryBankStd > 0);
  await trainTiny({ Trainer }, parts, at('none.safetensors'), { ...resized, memoryBank: null });
  const detector = await Detector.load(file);
  const without = await Detector.load(at('none.safetensors'));
  t.after(() => [detector, without].forEach((one) => one.dispose()));
  assert.ok(detector.memoryUsage.memoryBank > 100 * 4 * trained.unet.featureChannels);
  assert.equal(without.memoryUsage.memoryBank, 0);
  const good = await detector.score(path.join(parts, 'train', 'good', '05.png'));
  const bad = await detector.score(path.join(parts, 'test', 'bad', '00.png'));
  assert.ok(bad.score > good.score, `${bad.score} ${good.score}`);
  assert.ok(bad.anomalous);
  const other = await without.score(path.join(parts, 'test', 'bad', '00.png'));
  assert.notDeepEqual(other.featureMap, bad.featureMap);
  assert.deepEqual(other.pixelMap, bad.pixelMap);
});

test('a model without the memory that it names, or with another one, is refused', async () => {
  const file = at('whole.safetensors');
  await trainTiny({ Trainer }, parts, file, { ...resized, memoryBank: { patches: 20, weight: 0.5 } });
  const { header, data } = await readSafetensors(file);
  const refused = {
    code: 'ERR_MODEL_FORMAT',
    message: /residual_memory\.0: expected residuals of the model's features/,
  };
  const broken = at('broken.safetensors');
  const own = header['residual_memory.0'];
  for (const change of [
    (copy) => ((copy['other'] = own), delete copy['residual_memory.0']),
    (copy) => (copy['residual_memory.0'] = { ...own, shape: [own.shape[1], own.shape[0]] }),
    (copy) => (copy['residual_memory.0'] = { ...own, shape: [own.shape[0] * own.shape[1]] }),
  ]) {
    const copy = structuredClone(header);
    change(copy);
    await writeSafetensors(broken, { header: copy, data });
    await assert.rejects(Detector.load(broken), refused);
  }
});

test('the bank has one name here, and the older one in files and for the engine', async () => {
  const config = { score: { memoryBank: { patches: 3, weight: 1 } }, perProduct: { memory: { calibration: null } } };
  const json = engineJson.toEngineJson(config);
  assert.deepEqual(JSON.parse(json), { score: { memory: { patches: 3, weight: 1 } }, perProduct: config.perProduct });
  assert.deepEqual(engineJson.fromEngineJson(json), config);
  assert.deepEqual(engineJson.fromEngineJson('{"calibration":{"memoryMean":1,"memoryStd":2}}'), {
    calibration: { memoryBankMean: 1, memoryBankStd: 2 },
  });
});

test('what was called memory is refused with its new name', async () => {
  assert.throws(() => new Trainer({ memory: null }), {
    code: 'ERR_OPTION',
    message: 'unknown option "memory"; did you mean "memoryBank"?',
  });
  for (const [flag, now] of [
    ['--memory=5', '--memory-bank'],
    ['--no-memory', '--no-memory-bank'],
  ]) {
    const { code, stderr } = await run(['train', parts, '--out', at('never.safetensors'), flag]);
    assert.deepEqual([code, stderr.trimEnd().endsWith(`did you mean "${now}"?`)], [2, true], stderr);
  }
});

test('--no-memory-bank trains a model without one', async () => {
  const file = at('flag.safetensors');
  const flags = ['--mode', 'resize', ...tinyFlags, '--steps', '2', '--no-memory-bank'];
  const { code, stderr } = await run(['train', parts, '--out', file, ...flags]);
  assert.equal(code, 0, stderr);
  assert.equal(JSON.parse((await run(['info', file, '--json'])).stdout).score.memoryBank, null);
});
