// Exported graphs against the engine, by onnxruntime; exported weights against the file they come from.
import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { Detector, exportOnnx, exportSafetensors, Trainer } from '../../dist/index.js';
import { addon, configOf, token } from '../helpers/addon.mjs';
import {
  makeDataset,
  makeProducts,
  pattern,
  random,
  readSafetensors,
  run,
  temporaryFolder,
  trainTiny,
} from '../helpers/common.mjs';
import { distance, engineNoise, klMap, noised, normalized, openGraph, tensor } from '../helpers/onnx.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 6);
// float32 on both sides, sums in another order
const tolerance = 1e-4;
const learned = { steps: 8, lr: 0.01 };

const [model, checkpoint, whole] = [at('model.safetensors'), at('checkpoint.safetensors'), at('whole.safetensors')];
await trainTiny({ Trainer }, parts, model, { ...learned, smoothing: 1.5 }, { checkpoint });
// whole images: places are told apart, residuals of good images are remembered, the backbone sees them twice as fine
const resized = { mode: 'resize', featureScale: 2, memoryBank: { patches: 60, weight: 0.75 }, alpha: 0.3 };
await trainTiny({ Trainer }, parts, whole, { ...learned, ...resized });

/** Images of a side as the model takes them in, each another. */
function imagesOf(side, count, channels = 1) {
  const next = random(side + count);
  return Array.from({ length: count }, (_, i) => {
    const { data } = pattern(side, side, 3 * i, i % 2 === 1);
    const pixels = Uint8Array.from({ length: side * side * channels }, (_, p) =>
      Math.min(255, data[Math.floor(p / channels)] + 40 * next()),
    );
    return { data: pixels, width: side, height: side, channels };
  });
}

const batchOf = (images) => {
  const { width, height, channels } = images[0];
  const values = images.flatMap((image) => [...normalized(image)]);
  return tensor(Float32Array.from(values), [images.length, channels, height, width]);
};

/** Holds the graph's outputs for a batch of images against the engine's results, image by image. */
async function assertScores(graph, detector, images, { product, feeds = {} } = {}) {
  const found = await graph.run({ x0: batchOf(images), ...feeds });
  for (const [i, image] of images.entries()) {
    const expected = await detector.score(image, product === undefined ? {} : { product });
    const maps = { map: expected.map, pixelMap: expected.pixelMap, featureMap: expected.featureMap };
    for (const [name, map] of Object.entries(maps)) {
      if (!map) continue;
      const { values, shape } = found[name];
      assert.deepEqual(shape, [images.length, image.height, image.width], name);
      const error = distance(values.subarray(i * map.data.length, (i + 1) * map.data.length), map.data);
      assert.ok(error <= tolerance, `${name} of image ${i}: ${error}`);
    }
    const error = Math.abs(found.score.values[i] - expected.score) / Math.abs(expected.score);
    assert.ok(error <= tolerance, `score of image ${i}: ${error}`);
  }
  return found;
}

let files = 0;

/** Exports the scoring graph and opens it, and a detector beside it. */
async function both(file, options = {}, scoring = undefined) {
  const out = at(`${(files += 1)}.onnx`);
  const written = await exportOnnx(file, out, { graph: 'score', ...options });
  const detector = await Detector.load(file, { threads: 1, ...(scoring && { scoring }) });
  after(() => detector.dispose());
  return { written, detector, graph: await openGraph(out), out };
}

test('the scoring graph gives the maps and scores of the engine', async (t) => {
  await t.test('crops: features, smoothing', async () => {
    const { graph, detector, written } = await both(model);
    assert.deepEqual(graph.inputs, ['x0']);
    assert.deepEqual(
      written.outputs.map(({ name }) => name),
      graph.outputs,
    );
    assert.deepEqual(written.scales, detector.config.score.scales);
    await assertScores(graph, detector, imagesOf(16, 3));
  });
  await t.test('whole images: places, residuals of good images, finer features', async () => {
    const { graph, detector } = await both(whole);
    await assertScores(graph, detector, imagesOf(32, 2));
  });
  await t.test('another size', async () => {
    const { graph, detector } = await both(model, { size: { width: 32, height: 48 } });
    const image = { ...pattern(32, 48, 5, true), channels: 1 };
    await assertScores(graph, detector, [image]);
  });
});

test('the scoring graph of one noise scale', async () => {
  const { graph, detector, written } = await both(whole, { scale: 50 }, { scales: [50] });
  assert.deepEqual(written.scales, [50]);
  const { kl } = await assertScores(graph, detector, imagesOf(32, 2));
  assert.deepEqual(kl.shape, [2, 1, 16, 16]);
});

test('noise as an input: with the numbers of the engine, the scores of the engine', async () => {
  const { graph, detector } = await both(model, { noise: 'input' });
  assert.deepEqual(graph.inputs, ['x0', 'noise']);
  const scales = [0, 1, 2].map((scale) => engineNoise(scale, 1, 16, 16));
  const noise = tensor(concat([...scales, ...scales]), [2, 3, 16, 16]);
  await assertScores(graph, detector, imagesOf(16, 2), { feeds: { noise } });
});

function concat(arrays) {
  const whole = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const array of arrays) {
    whole.set(array, offset);
    offset += array.length;
  }
  return whole;
}

test('a product of a unified model', async () => {
  const products = await makeProducts(at('products'), { bottle: 4, screw: 4 }, 24, 20);
  const unified = at('unified.safetensors');
  await trainTiny({ Trainer }, products, unified, learned);
  for (const product of ['bottle', 'screw']) {
    const { graph, detector } = await both(unified, { product });
    await assertScores(graph, detector, imagesOf(16, 2), { product });
  }
});

/** Networks that guided-diffusion has, beyond those that presets train; each model is trained a little. */
const networks = {
  'attention after each block, heads split first': {
    unet: { attentionResolutions: [16, 8], useNewAttentionOrder: true, numHeads: 4 },
  },
  'residual up- and down-sampling, heads first': {
    unet: { attentionResolutions: [8], resblockUpdown: true, numHeadChannels: 16, channelMult: [1, 2] },
  },
  'an added embedding, two blocks, colour': {
    channels: 3,
    unet: { useScaleShiftNorm: false, numResBlocks: 2, inChannels: 3, outChannels: 6 },
  },
  classes: { unet: { numClasses: 3 } },
};

async function trainNetwork(name, { unet, channels = 1 }, score = {}) {
  const config = JSON.parse(configOf());
  Object.assign(config.unet, { channelMult: [1, 1] }, unet);
  config.input.channels = channels;
  Object.assign(config.score, score);
  const text = JSON.stringify(config);
  const trainer = new addon.NativeTrainer(text, JSON.stringify({ device: 'cpu', threads: 1 }));
  after(() => trainer.dispose());
  await trainer.open(token());
  const next = random(7);
  const labels = unet.numClasses ? new Int32Array([0, 2]) : null;
  for (let i = 0; i < 6; i++) {
    const pixels = Float32Array.from({ length: 2 * 16 * 16 * channels }, () => 2 * next() - 1);
    await trainer.step(pixels, labels, 0.01, token());
  }
  const detector = await trainer.toDetector(text);
  after(() => detector.dispose());
  const file = at(`${name.replace(/\W+/g, '-')}.safetensors`);
  await detector.save(file, text, token());
  return { detector, file };
}

for (const [name, network] of Object.entries(networks)) {
  test(`the network alone: ${name}`, async () => {
    const { detector, file } = await trainNetwork(name, network, { scales: [50] });
    const out = at(`${name.replace(/\W+/g, '-')}.onnx`);
    await exportOnnx(file, out);
    const graph = await openGraph(out);
    const channels = network.channels ?? 1;
    const [image] = imagesOf(16, 1, channels);
    const x0 = normalized(image);
    const xt = noised(x0, engineNoise(0, channels, 16, 16), 50);
    const classes = network.unet.numClasses ? [0, 2] : [undefined];
    for (const label of classes) {
      // a batch of two: the other row must not matter
      const feeds = {
        x: tensor(concat([xt.map(() => 0.1), xt]), [2, channels, 16, 16]),
        t: tensor(new BigInt64Array([900n, 50n]), [2]),
        ...(label !== undefined && { y: tensor(new BigInt64Array([1n, BigInt(label)]), [2]) }),
      };
      assert.deepEqual(graph.inputs, Object.keys(feeds));
      const { out: output } = await graph.run(feeds);
      assert.deepEqual(output.shape, [2, 2 * channels, 16, 16]);
      const own = output.values.subarray(output.values.length / 2);
      const { map } = await detector.score({ ...image, ...(label !== undefined && { label }) }, token());
      const error = distance(klMap(x0, xt, own, 50, channels), map);
      assert.ok(error <= tolerance, `class ${label}: ${error}`);
      assert.ok(
        own.some((value) => Math.abs(value) > 0.01),
        'the network says something',
      );
    }
  });
}

test('the network alone takes images of any size and has the feature head, or not', async () => {
  const out = at('sizes.onnx');
  const { outputs, inputs } = await exportOnnx(model, out);
  assert.deepEqual(
    outputs.map(({ name }) => name),
    ['out', 'fhat'],
  );
  assert.deepEqual(inputs[0].shape, ['batch', 1, 'height', 'width']);
  const graph = await openGraph(out);
  const { detector } = await both(model, {}, { scales: [50], normalization: 'none', smoothing: 0, kind: 'pixel' });
  const image = { ...pattern(32, 16, 2, true), channels: 1 };
  const x0 = normalized(image);
  const xt = noised(x0, engineNoise(0, 1, 16, 32), 50);
  const found = await graph.run({ x: tensor(xt, [1, 1, 16, 32]), t: tensor(new BigInt64Array([50n]), [1]) });
  assert.deepEqual(found.fhat.shape.slice(2), [4, 8]);
  const { map } = await detector.score(image);
  assert.ok(distance(klMap(x0, xt, found.out.values, 50, 1), map.data) <= tolerance);

  const bare = await exportOnnx(model, at('bare.onnx'), { head: false });
  assert.deepEqual(
    bare.outputs.map(({ name }) => name),
    ['out'],
  );
  assert.ok(!(await readFile(at('bare.onnx'))).includes('feat_rec1'));
});

test('every way to score that the engine has', async (t) => {
  const variants = {
    'per-image normalisation': { normalization: 'per-image' },
    'no normalisation': { normalization: 'none' },
  };
  for (const [name, scoring] of Object.entries(variants)) {
    await t.test(name, async () => {
      const file = at(`${name}.safetensors`);
      await trainTiny({ Trainer }, parts, file, { ...learned, ...scoring, topPixels: { share: 0.1 } });
      const { graph, detector } = await both(file);
      await assertScores(graph, detector, imagesOf(16, 2));
    });
  }
  await t.test('without features', async () => {
    const file = at('plain.safetensors');
    await trainTiny({ Trainer }, parts, file, { ...learned, backbone: null, memoryBank: null });
    const { graph, detector } = await both(file);
    assert.ok(!graph.outputs.includes('featureMap'));
    await assertScores(graph, detector, imagesOf(16, 2));
  });
});

test('weights in a file of their own give the same outputs', async () => {
  const { graph, detector, written, out } = await both(whole, { externalData: true });
  assert.deepEqual(
    written.files.map((file) => file.path),
    [out, `${out}.data`],
  );
  for (const { path: file, bytes } of written.files) assert.equal((await stat(file)).size, bytes);
  assert.ok(written.files[0].bytes < written.files[1].bytes);
  await assertScores(graph, detector, imagesOf(32, 1));
  // equal arguments, equal bytes
  const before = await readFile(out);
  await exportOnnx(whole, out, { graph: 'score', externalData: true });
  assert.deepEqual(await readFile(out), before);
});

/** The tensors of a file as bytes by name. */
async function tensorsOf(file) {
  const { header, data } = await readSafetensors(file);
  const { __metadata__: metadata, ...tensors } = header;
  const bytes = Object.entries(tensors).map(
    ([
      name,
      {
        dtype,
        shape,
        data_offsets: [from, to],
      },
    ]) => [name, { dtype, shape, data: data.subarray(from, to) }],
  );
  return { metadata, tensors: Object.fromEntries(bytes) };
}

test('exported weights are those of the model, byte for byte, and nothing else', async () => {
  const out = at('weights.safetensors');
  const { tensors, metadata } = await tensorsOf(model);
  const written = await exportSafetensors(model, out);
  const exported = await tensorsOf(out);
  const wanted = Object.keys(tensors).filter((name) => !/^(backbone|feature_|residual_memory)/.test(name));
  assert.deepEqual(Object.keys(exported.tensors).sort(), wanted.sort());
  for (const name of wanted) assert.deepEqual(exported.tensors[name], tensors[name], name);
  assert.equal(written.tensors, wanted.length);
  assert.deepEqual(JSON.parse(exported.metadata.config), JSON.parse(metadata.config));
  const statistics = JSON.parse(exported.metadata.featureStatistics);
  for (const [key, values] of Object.entries({ feature_mean: statistics.mean, feature_std: statistics.std })) {
    assert.deepEqual(Buffer.from(Float32Array.from(values).buffer), Buffer.from(tensors[key].data), key);
  }

  await exportSafetensors(model, out, { head: false });
  const bare = await tensorsOf(out);
  assert.deepEqual(Object.keys(bare.tensors).sort(), wanted.filter((name) => !name.startsWith('feat_rec1')).sort());
  const config = JSON.parse(bare.metadata.config);
  assert.deepEqual([config.unet.featureChannels, config.features, config.threshold], [0, null, null]);
});

test('of a checkpoint the averaged weights are exported, without the optimiser', async () => {
  const out = at('from-checkpoint.safetensors');
  const { tensors } = await tensorsOf(checkpoint);
  const written = await exportSafetensors(checkpoint, out);
  assert.ok(written.leavesOut.includes("the optimiser's state"));
  const exported = await tensorsOf(out);
  const averaged = Object.keys(tensors).filter((name) => name.startsWith('ema.'));
  assert.equal(Object.keys(exported.tensors).length, averaged.length);
  for (const name of averaged) assert.deepEqual(exported.tensors[name.slice(4)], tensors[name], name);
  assert.equal(JSON.parse(exported.metadata.config).checkpoint, undefined);
  assert.ok((await exportOnnx(checkpoint, at('from-checkpoint.onnx'))).nodes > 0);
});

test('the command tells what a graph contains and what it leaves out', async () => {
  const [onnx, weights] = [at('command.onnx'), at('command.safetensors')];
  const shown = await run(['export', model, '--onnx', onnx, '--graph', 'score', '--scale', '50']);
  assert.equal(shown.code, 0, shown.stderr);
  assert.match(shown.stdout, /graph score, noise scales 50: \d+ nodes of opset 17/);
  assert.match(shown.stdout, /x0 {2}float32 \[batch, 1, 16, 16\]/);
  assert.match(shown.stdout, /left to you\n {4}decoding an image/);
  const json = await run(['export', model, '--onnx', onnx, '--safetensors', weights, '--no-head', '--json']);
  assert.equal(json.code, 0, json.stderr);
  const told = JSON.parse(json.stdout);
  assert.deepEqual(
    told.onnx.outputs.map(({ name }) => name),
    ['out'],
  );
  assert.ok(told.safetensors.leavesOut.includes('the feature head feat_rec1.*'));
  assert.equal((await stat(weights)).size, told.safetensors.files[0].bytes);
});

test('an export that fails or is aborted leaves nothing behind', async () => {
  const before = await readdir(folder);
  const signal = AbortSignal.abort();
  await assert.rejects(exportOnnx(model, at('never.onnx'), { signal }), { code: 'ERR_ABORTED' });
  await assert.rejects(exportOnnx(model, at('never.onnx'), { graph: 'score', size: { width: 15, height: 16 } }), {
    code: 'ERR_OPTION',
  });
  assert.deepEqual(await readdir(folder), before);
});
