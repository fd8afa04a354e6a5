import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import engineJson from '../../dist/config/engine-json.js';
import { Detector, importModel, Trainer } from '../../dist/index.js';
import {
  makeDataset,
  makeProducts,
  readSafetensors,
  root,
  run,
  temporaryFolder,
  writeSafetensors,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const fixtures = path.join(root, 'test', 'fixtures', 'checkpoints');
for (const form of ['zip', 'legacy', 'shared']) {
  await writeFile(at(`${form}.pt`), gunzipSync(await readFile(path.join(fixtures, `unet-${form}.pt.gz`))));
}
const parts = await makeDataset(at('parts'), 4, 32, 32);
const few = { steps: 2, batchSize: 2, threads: 1 };

/** Element i of a parameter, as test/fixtures/checkpoints.py has it. */
const valueOf = (name, i) => (((i * 37 + Buffer.from(name).reduce((a, b) => a + b, 0)) % 251) - 125) / 128;

function floats({ data, header }, name) {
  const [begin, end] = header[name].data_offsets;
  return new Float32Array(data.buffer.slice(data.byteOffset + begin, data.byteOffset + end));
}

const named = ({ header }) => Object.keys(header).filter((name) => name !== '__metadata__');
const isNetwork = (name) => !/^(backbone\.|feat_rec1\.|feature_)/.test(name);

/** Fails unless every parameter of the network has the script's values. */
async function checkValues(file, count) {
  const model = await readSafetensors(file);
  const names = named(model).filter(isNetwork);
  assert.equal(names.length, count);
  for (const name of names) {
    const values = floats(model, name);
    assert.equal(model.header[name].dtype, 'F32');
    for (let i = 0; i < values.length; i++) if (values[i] !== valueOf(name, i)) assert.fail(`${name}, element ${i}`);
  }
  return model;
}

async function fit(options, dataset = parts, fitOptions = {}) {
  const trainer = new Trainer({ ...few, ...options });
  for await (const progress of trainer.fit(dataset, fitOptions)) void progress;
  return trainer;
}

const expected = {
  imageSize: 32,
  inChannels: 1,
  modelChannels: 32,
  outChannels: 2,
  numResBlocks: 1,
  attentionResolutions: [8],
  channelMult: [1, 1, 1],
  numHeads: 1,
  numHeadChannels: 32,
  useScaleShiftNorm: true,
  resblockUpdown: true,
  useNewAttentionOrder: false,
  numClasses: 3,
};

test('a checkpoint in either form of PyTorch: network, values and configuration', async () => {
  for (const [form, dtype] of [
    ['zip', 'F32'],
    ['legacy', 'F16'],
  ]) {
    const told = [];
    const out = at(`${form}.safetensors`);
    const found = await importModel(at(`${form}.pt`), out, { onProgress: (done) => told.push(done) });
    assert.deepEqual([found.format, found.prefix, found.dtypes, found.leftOut], [form, '', [dtype], []]);
    assert.deepEqual(found.assumed.sort(), ['imageSize', 'numHeadChannels', 'useNewAttentionOrder']);
    assert.equal(found.featureHead, 'fresh');
    const { featureChannels, ...unet } = found.config.unet;
    assert.deepEqual(unet, expected);
    assert.equal(featureChannels, 192);
    assert.equal(told.at(-1), 1);
    const model = await checkValues(out, found.tensors);
    assert.deepEqual(engineJson.fromEngineJson(model.header.__metadata__.config), found.config);
    const head = floats(model, 'feat_rec1.2.weight');
    assert.ok(head.every((v) => Math.abs(v) <= 1 / Math.sqrt(32)) && new Set(head).size > 1000);
    assert.ok(floats(model, 'feature_std').every((v) => v === 1));
  }
});

test('a safetensors file is imported to the same model, twice to the same bytes; labels are dropped on request', async () => {
  await importModel(at('zip.pt'), at('first.safetensors'));
  const found = await importModel(at('first.safetensors'), at('second.safetensors'));
  assert.equal(found.format, 'safetensors');
  assert.equal(found.featureHead, 'imported');
  assert.ok(found.leftOut.every((name) => /^(backbone\.|feature_)/.test(name)) && found.leftOut.length > 10);
  await checkValues(at('second.safetensors'), found.tensors);
  await importModel(at('zip.pt'), at('again.safetensors'));
  assert.ok((await readFile(at('again.safetensors'))).equals(await readFile(at('first.safetensors'))));

  const dropped = await importModel(at('zip.pt'), at('dropped.safetensors'), { dropLabels: true, backbone: null });
  assert.equal(dropped.config.unet.numClasses, null);
  assert.deepEqual([dropped.leftOut, dropped.featureHead], [['label_emb.weight'], 'none']);
  assert.ok(!named(await checkValues(at('dropped.safetensors'), dropped.tensors)).includes('label_emb.weight'));
});

test('prefixes are found; of several networks the average is taken, or the one asked for', async () => {
  const model = await readSafetensors(at('dropped.safetensors'));
  const several = async (name, prefixes) => {
    const header = {};
    for (const [p, prefix] of prefixes.entries()) {
      for (const inner of named(model)) {
        const { dtype, shape, data_offsets } = model.header[inner];
        header[prefix + inner] = { dtype, shape, data_offsets: data_offsets.map((n) => n + p * model.data.length) };
      }
    }
    await writeSafetensors(at(name), { header, data: Buffer.concat(prefixes.map(() => model.data)) });
    return at(name);
  };
  const out = at('prefixed.safetensors');
  const options = { backbone: null };
  assert.equal((await importModel(await several('module.st', ['module.']), out, options)).prefix, 'module.');
  const two = await several('two.st', ['model.', 'ema_model.']);
  const average = await importModel(two, out, options);
  assert.equal(average.prefix, 'ema_model.');
  assert.equal(average.leftOut.length, average.tensors);
  assert.equal((await importModel(two, out, { ...options, prefix: 'model.' })).prefix, 'model.');
  await assert.rejects(importModel(two, out, { ...options, prefix: 'x' }), {
    code: 'ERR_OPTION',
    message: /"ema_model\."/,
  });
  const twins = await several('twins.st', ['a.', 'b.']);
  await assert.rejects(importModel(twins, out, options), { code: 'ERR_MODEL_FORMAT', message: /one of "a\.", "b\."/ });
});

test('options win over what is assumed, and are refused where the checkpoint shows otherwise', async () => {
  const out = at('options.safetensors');
  const given = { imageSize: 64, numHeads: 2, useNewAttentionOrder: true, attentionResolutions: [16] };
  const chain = { schedule: 'cosine', diffusionSteps: 4000, scales: [5, 50], normalization: 'per-image', size: 32 };
  const { config, assumed } = await importModel(at('zip.pt'), out, { ...given, ...chain });
  assert.deepEqual(assumed, []);
  assert.deepEqual(config.unet.attentionResolutions, [16]);
  const { imageSize, numHeads, numHeadChannels, useNewAttentionOrder } = config.unet;
  assert.deepEqual([imageSize, numHeads, numHeadChannels, useNewAttentionOrder], [64, 2, -1, true]);
  assert.deepEqual([config.diffusion.schedule, config.diffusion.steps], ['cosine', 4000]);
  assert.deepEqual([config.score.scales, config.score.normalization, config.input.size], [[5, 50], 'per-image', 32]);
  for (const [options, code, message] of [
    [
      { attentionResolutions: [16, 8] },
      'ERR_OPTION',
      /attentionResolutions": expected \[8\], as the checkpoint shows, got \[16,8\]/,
    ],
    [{ imageSize: 33 }, 'ERR_OPTION', /unet\.imageSize": expected a multiple of 4/],
    [{ numHeads: 5 }, 'ERR_OPTION', /unet\.numHeads": expected a divisor of 32, got 5/],
    [{ numHeadChannels: 24 }, 'ERR_OPTION', /numHeadChannels/],
    [{ size: 30 }, 'ERR_OPTION', /option "size"/],
    [{ normalization: 'calibration' }, 'ERR_OPTION', /option "normalization"/],
  ]) {
    await assert.rejects(importModel(at('zip.pt'), out, options), { code, message }, JSON.stringify(options));
  }
});

test('an aborted or failed import leaves nothing', async () => {
  const before = (await readdir(folder)).length;
  const controller = new AbortController();
  controller.abort();
  const { signal } = controller;
  await assert.rejects(importModel(at('zip.pt'), at('none.safetensors'), { signal }), { code: 'ERR_ABORTED' });
  const model = await readSafetensors(at('dropped.safetensors'));
  model.data.writeFloatLE(NaN, model.header['out.2.bias'].data_offsets[0]);
  await writeSafetensors(at('nan.st'), model);
  await assert.rejects(importModel(at('nan.st'), at('none.safetensors')), {
    code: 'ERR_MODEL_FORMAT',
    message: /"out\.2\.bias": expected finite values, got NaN at element 0/,
  });
  await assert.rejects(importModel(at('shared.pt'), at('none.safetensors')), {
    code: 'ERR_MODEL_FORMAT',
    message: /expected a storage for each parameter, got \d+ bytes of them in a file of \d+/,
  });
  assert.equal((await readdir(folder)).length, before + 1);
});

test('an import that is aborted between two pieces leaves nothing', async () => {
  const header = {};
  const model = await readSafetensors(at('dropped.safetensors'));
  for (const name of named(model)) header[name] = model.header[name];
  // an embedding of many classes, so that there are several pieces
  const classes = 150_000;
  header['label_emb.weight'] = {
    dtype: 'F16',
    shape: [classes, 128],
    data_offsets: [model.data.length, model.data.length + classes * 256],
  };
  await writeSafetensors(at('large.st'), { header, data: Buffer.concat([model.data, Buffer.alloc(classes * 256)]) });
  const before = (await readdir(folder)).length;
  const controller = new AbortController();
  const seen = [];
  const onProgress = (done) => {
    seen.push(done);
    controller.abort();
  };
  const options = { signal: controller.signal, onProgress, backbone: null };
  await assert.rejects(importModel(at('large.st'), at('none.safetensors'), options), { code: 'ERR_ABORTED' });
  assert.ok(seen.length === 1 && seen[0] > 0.5 && seen[0] < 1);
  assert.equal((await readdir(folder)).length, before);
});

test('an imported model scores by its pixel-level score alone, without a threshold', async () => {
  await importModel(at('zip.pt'), at('start.safetensors'), { dropLabels: true });
  const image = path.join(parts, 'test', 'bad', '00.png');
  const detector = await Detector.load(at('start.safetensors'), { threads: 1 });
  const { score, threshold, anomalous, map, pixelMap } = await detector.score(image);
  detector.dispose();
  assert.ok(Number.isFinite(score));
  assert.deepEqual([threshold, anomalous], [null, null]);
  assert.deepEqual(map.data, pixelMap.data);
  for (const scoring of [{ kind: 'feature' }, { kind: 'ensemble' }, { alpha: 0.5 }]) {
    await assert.rejects(Detector.load(at('start.safetensors'), { scoring }), { code: 'ERR_OPTION' });
  }
  await assert.rejects(Detector.load(at('start.safetensors'), { scoring: { normalization: 'calibration' } }), {
    code: 'ERR_OPTION',
    message: /the model has no calibration/,
  });
  const labelled = await Detector.load(at('first.safetensors'), { threads: 1 });
  await assert.rejects(labelled.score(image), { code: 'ERR_OPTION', message: /one of 3 classes/ });
  labelled.dispose();
});

test('training starts from it: its network and weights; the same bytes again, and when resumed', async () => {
  const init = at('start.safetensors');
  const checkpoint = at('whole.checkpoint.safetensors');
  const trainer = await fit({ init }, parts, { checkpoint });
  const { unet, diffusion, input, features, training } = trainer.config;
  assert.deepEqual({ ...unet, featureChannels: 192 }, { ...expected, numClasses: null, featureChannels: 192 });
  assert.deepEqual([diffusion.steps, input.size, features.trained, training.batchSize], [1000, 32, undefined, 2]);
  await trainer.save(at('whole.safetensors'));
  trainer.dispose();

  // what training begins with is what the file has
  const first = at('first.checkpoint.safetensors');
  const other = new Trainer({ ...few, init });
  for await (const { step } of other.fit(parts, { checkpoint: first })) if (step === 1) break;
  const [started, whole] = [await readSafetensors(first), await readSafetensors(at('whole.safetensors'))];
  assert.equal(JSON.parse(started.header.__metadata__.config).checkpoint.step, 1);
  const moved = floats(started, 'model.input_blocks.1.0.in_layers.2.weight');
  // AdamW moves a weight by about the learning rate
  for (let i = 0; i < moved.length; i++) {
    assert.ok(Math.abs(moved[i] - valueOf('input_blocks.1.0.in_layers.2.weight', i)) < 1e-3);
  }
  const resumed = await fit({}, parts, { resume: first });
  await resumed.save(at('resumed.safetensors'));
  resumed.dispose();
  assert.ok((await readFile(at('resumed.safetensors'))).equals(await readFile(at('whole.safetensors'))));
  assert.ok(floats(whole, 'feature_std').some((v) => v !== 1));
  const scored = await Detector.load(at('whole.safetensors'), { threads: 1 });
  const { threshold } = await scored.score(path.join(parts, 'test', 'bad', '00.png'));
  assert.ok(Number.isFinite(threshold));
  scored.dispose();
});

test('what cannot start from a model is refused, what it does not have is fresh', async () => {
  const init = at('start.safetensors');
  const products = await makeProducts(at('products'), { bottle: 2, screw: 2 }, 32, 32);
  const unified = await fit({ init }, products); // an embedding of its own
  assert.equal(unified.config.unet.numClasses, 2);
  unified.dispose();
  const plain = await fit({ init, backbone: null });
  assert.equal(plain.config.features, null);
  plain.dispose();
  const other = await fit({ init: at('dropped.safetensors') }); // a model without a feature head
  assert.equal(other.config.unet.featureChannels, 192);
  other.dispose();
  const checkpoint = at('whole.checkpoint.safetensors');
  for (const [options, code, message, more] of [
    [{ init: at('first.safetensors') }, 'ERR_OPTION', /3 classes, and the images are of a single product/],
    [{ init, unet: { numResBlocks: 2 } }, 'ERR_OPTION', /option "unet"/],
    [{ init, channels: 'rgb' }, 'ERR_OPTION', /option "channels".*is gray, got "rgb"/],
    [{ init, size: 30 }, 'ERR_OPTION', /option "size"/],
    [{ init }, 'ERR_OPTION', /option "init": the checkpoint has weights/, { resume: checkpoint }],
    [{ init: checkpoint }, 'ERR_MODEL_FORMAT', /expected a model, got a checkpoint/],
    [{ init: at('zip.pt') }, 'ERR_MODEL_FORMAT', /zip archive; import reads/],
    [{ init: at('nowhere') }, 'ERR_FILE_READ', /nowhere/],
  ]) {
    await assert.rejects(fit(options, parts, more), { code, message }, JSON.stringify(options));
  }
  const broken = await readSafetensors(init);
  broken.header['out.2.bias'].shape = [2, 1];
  await writeSafetensors(at('broken.safetensors'), broken);
  await assert.rejects(fit({ init: at('broken.safetensors') }), { code: 'ERR_MODEL_FORMAT', message: /out\.2\.bias/ });
});

test('the command line says what it found, and prints it as JSON', async () => {
  const said = await run(['import', at('legacy.pt'), '--out', at('cli/model.safetensors'), '--drop-label-emb']);
  assert.equal(said.code, 0, said.stderr);
  assert.match(said.stdout, /PyTorch's old form, \d+ tensors, \d+ parameters in F16/);
  assert.match(said.stdout, /network: 1 to 2 channels.*width 32 x 1,1,1, 1 blocks a level, attention at 8, no classes/);
  assert.match(said.stdout, /assumed.*image size 32.*--image-size/);
  assert.match(said.stdout, /feature head: fresh, for 192 features of efficientnet-lite0/);
  assert.match(said.stdout, /left out: label_emb\.weight/);
  const json = await run([
    'import',
    at('zip.pt'),
    '--out',
    at('cli/model.safetensors'),
    '--json',
    '--backbone',
    'none',
  ]);
  assert.equal(json.code, 0, json.stderr);
  const found = JSON.parse(json.stdout);
  assert.deepEqual([found.config.unet.numClasses, found.featureHead], [3, 'none']);
  const flags = ['--steps', '1', '--batch-size', '2', '--threads', '1', '--backbone', 'none'];
  const init = ['--init', at('cli/dropped.safetensors'), '--out', at('cli/trained.safetensors')];
  const drop = ['--drop-label-emb', '--backbone', 'none'];
  assert.equal((await run(['import', at('zip.pt'), '--out', at('cli/dropped.safetensors'), ...drop])).code, 0);
  const trained = await run(['train', parts, ...init, ...flags]);
  assert.equal(trained.code, 0, trained.stderr);
  const missing = await run(['import', at('nowhere.pt'), '--out', at('cli/x.safetensors')]);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /ERR_FILE_READ: cannot read .*nowhere\.pt/);
  const bad = await run(['import', at('zip.pt'), '--out', at('cli/x.safetensors'), '--attention-resolutions', 'all']);
  assert.equal(bad.code, 2);
});
