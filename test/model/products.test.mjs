// Unified models: one network for several products.
import assert from 'node:assert/strict';
import { mkdir, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import calibration from '../../dist/training/calibrate.js';
import config from '../../dist/config/config.js';
import engineJson from '../../dist/config/engine-json.js';
import dataset from '../../dist/data/dataset.js';
import images from '../../dist/image/decode.js';
import { Detector, Trainer } from '../../dist/index.js';
import native from '../../dist/engine/native.js';
import {
  makeDataset,
  makeProducts,
  png,
  readSafetensors,
  temporaryFolder,
  tiny,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const { findImages, splitHeldBack, TrainingData } = dataset;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const counts = { bottle: 6, cable: 3, screw: 4 };
const parts = await makeProducts(at('parts'), counts);
const names = Object.keys(counts);
const imageOf = (name, kind = 'bad') => path.join(parts, name, 'test', kind, '00.png');

/** What the engine's trainer was given, of the runs in between. */
const given = { steps: [], labels: [] };
const addon = native.addon();
const { NativeTrainer } = addon;
addon.NativeTrainer = class extends NativeTrainer {
  step(pixels, labels, ...rest) {
    given.steps.push({ pixels, labels });
    return super.step(pixels, labels, ...rest);
  }

  async toDetector(text) {
    const detector = await super.toDetector(text);
    const score = detector.score.bind(detector);
    const value = (image, token) => {
      given.labels.push(image.label);
      return score(image, token);
    };
    return Object.defineProperty(detector, 'score', { value });
  }
};
after(() => (addon.NativeTrainer = NativeTrainer));

// Whole images, so that places are calibrated too.
const options = { mode: 'resize', batchSize: 4, topPixels: { count: 8 }, smoothing: 0 };
const model = at('unified.safetensors');
const trained = await trainTiny({ Trainer }, parts, model, options, { checkpoint: at('whole.ckpt.safetensors') });
const firstRun = structuredClone(given);
const single = at('single.safetensors');
await trainTiny({ Trainer }, path.join(parts, 'bottle'), single, { mode: 'resize' });

async function load(t, file = model, more = {}) {
  const detector = await Detector.load(file, { threads: 1, ...more });
  t.after(() => detector.dispose());
  return detector;
}

test('a folder of product folders is a dataset of products, in the order of their names', async () => {
  const found = await findImages(parts);
  assert.deepEqual(
    found.products.map(({ name, files }) => [name, files.length]),
    Object.entries(counts),
  );
  assert.deepEqual(
    found.files,
    found.products.flatMap(({ files }) => files),
  );
  assert.deepEqual(found.leftOut, []);
  const one = await findImages(path.join(parts, 'cable'));
  assert.deepEqual(
    one.products.map(({ name, files }) => [name, files.length]),
    [[null, 3]],
  );
});

test('the fingerprint covers the names of the products', async () => {
  const copy = await makeProducts(at('copy'), counts);
  const { fingerprint } = await findImages(parts);
  assert.equal((await findImages(copy)).fingerprint, fingerprint);
  await rename(path.join(copy, 'screw'), path.join(copy, 'spring'));
  assert.notEqual((await findImages(copy)).fingerprint, fingerprint);
});

test('a single product folder is refused by name; other folders are left out, with a warning', async () => {
  const lone = await makeProducts(at('lone'), { bottle: 2 });
  await assert.rejects(findImages(lone), {
    code: 'ERR_DATASET',
    message: /only .*lone.bottle has train.good: name that/,
  });
  const more = await makeProducts(at('more'), { bottle: 2, cable: 2 });
  await mkdir(path.join(more, 'notes'));
  assert.deepEqual((await findImages(more)).leftOut, ['notes']);
  const trainer = new Trainer({ ...tiny, steps: 1 });
  for await (const progress of trainer.fit(more)) void progress;
  assert.ok(trainer.warnings.some((warning) => /left out.*notes/.test(warning)));
  trainer.dispose();
  const hollow = await makeProducts(at('hollow'), { bottle: 2, cable: 2 });
  await mkdir(path.join(hollow, 'zip', 'train', 'good'), { recursive: true });
  await assert.rejects(findImages(hollow), { code: 'ERR_DATASET', message: /zip.train.good: expected good images/ });
  const own = await makeDataset(at('own'), 2);
  await makeProducts(own, { bottle: 2, cable: 2 });
  assert.equal((await findImages(own)).products.length, 1, 'a train/ of its own comes first');
});

test('batches show each product equally often, and each of its images in turn', async () => {
  // Every image is flat in a gray that tells which one it is.
  const sizes = [5, 2, 3];
  const lists = [];
  await mkdir(at('flat'));
  for (const [p, size] of sizes.entries()) {
    lists.push(Array.from({ length: size }, (_, i) => at(`flat/${p}-${i}.png`)));
    for (const [i, file] of lists[p].entries()) {
      const data = new Uint8Array(64 * 64).fill(80 * p + 10 * i);
      await png({ data, width: 64, height: 64, channels: 1 }).toFile(file);
    }
  }
  const make = (seed) => {
    const expanded = config.expandConfig({ preset: 'nano', channels: 'gray', batchSize: 4, backbone: null, seed });
    return new TrainingData(lists, expanded);
  };
  const data = make(1);
  const seen = [];
  for (let step = 0; step < 60; step++) {
    const labels = data.labels(step);
    const batch = await data.batch(step);
    const counted = [0, 0, 0];
    for (const [i, label] of labels.entries()) {
      const gray = Math.round((batch[i * 64 * 64] + 1) * 127.5);
      assert.equal(Math.floor(gray / 80), label, 'the label is that of the image');
      counted[label] += 1;
      seen.push([label, (gray % 80) / 10]);
    }
    assert.ok(Math.max(...counted) - Math.min(...counted) <= 2, `balanced, got ${counted}`);
  }
  for (const [p, size] of sizes.entries()) {
    const own = seen.filter(([label]) => label === p).map(([, image]) => image);
    assert.equal(own.length, 80);
    for (let pass = 0; pass + size <= own.length; pass += size) {
      assert.deepEqual(own.slice(pass, pass + size).sort(), [...Array(size).keys()], `pass of product ${p}`);
    }
  }
  const turns = Array.from({ length: 80 }, (_, i) => seen.slice(3 * i, 3 * i + 3).map(([label]) => label));
  assert.ok(turns.every((turn) => new Set(turn).size === 3));
  assert.ok(new Set(turns.map(String)).size === 6, 'in any order');
  // A function of seed and step: asked for out of order, it is the same.
  const again = make(1);
  for (const step of [37, 4, 59]) {
    assert.deepEqual(again.labels(step), data.labels(step));
    assert.deepEqual(await again.batch(step), await data.batch(step));
  }
  assert.notDeepEqual(make(2).labels(0), make(3).labels(0));
});

test('the network is told the product of every sample', async () => {
  assert.equal(firstRun.steps.length, tiny.steps);
  const { files, products: all } = await findImages(parts);
  assert.equal(files.length, 13);
  const data = new TrainingData(
    all.map((one, label) => splitHeldBack(one.files, 0.1, 0, label).train),
    trained,
  );
  for (const [step, { pixels, labels }] of firstRun.steps.entries()) {
    assert.deepEqual(labels, data.labels(step));
    assert.deepEqual(pixels, await data.batch(step));
  }
  given.steps = [];
  const trainer = new Trainer({ ...tiny, steps: 1 });
  for await (const progress of trainer.fit(path.join(parts, 'bottle'))) void progress;
  trainer.dispose();
  assert.equal(given.steps[0].labels, null, 'a single product has no labels');
});

test('a unified model has its products, and a calibration and threshold of each', async () => {
  const { header } = await readSafetensors(model);
  const stored = engineJson.fromEngineJson(header.__metadata__.config);
  assert.deepEqual(stored, JSON.parse(JSON.stringify(trained)));
  assert.deepEqual([stored.products, stored.unet.numClasses], [names, 3]);
  assert.deepEqual([stored.calibration, stored.threshold], [null, null]);
  assert.deepEqual(Object.keys(stored.perProduct), names);
  assert.deepEqual(header['label_emb.weight'].shape[0], 3);
  const found = Object.values(stored.perProduct);
  assert.equal(new Set(found.map(({ threshold }) => threshold)).size, 3);
  assert.ok(found.every(({ calibration: own }) => own.images === 1 && own.position.pixelMean.length === 16));
  const alone = JSON.parse((await readSafetensors(single)).header.__metadata__.config);
  assert.deepEqual([alone.unet.numClasses, alone.products, alone.perProduct], [null, undefined, undefined]);
});

test('each product is calibrated on its own images, as that product', async () => {
  const { products: all } = await findImages(parts);
  const scored = all.flatMap(({ files }, label) => Array.from({ length: files.length - 1 + 3 }, () => label));
  assert.deepEqual(firstRun.labels, scored, 'residuals of the trained; statistics, places and scores of one held back');
  const detector = await addon.loadDetector(model, '{"device":"cpu","threads":1}', new addon.CancelToken());
  try {
    for (const [label, { name, files }] of all.entries()) {
      const { train, heldBack } = splitHeldBack(files, 0.1, 0, label);
      const own = structuredClone({ ...trained, perProduct: undefined, calibration: null, threshold: null });
      for await (const progress of calibration.calibrate(detector, own, heldBack, { label, trained: train }))
        void progress;
      assert.deepEqual(
        { calibration: own.calibration, threshold: own.threshold },
        JSON.parse(JSON.stringify(trained.perProduct[name])),
      );
    }
  } finally {
    detector.dispose();
  }
});

test('calibration reports its progress over all products', async () => {
  const trainer = new Trainer({ ...tiny, ...options, steps: 1 });
  const seen = [];
  for await (const progress of trainer.fit(parts)) if (progress.phase === 'calibrate') seen.push(progress);
  const { warnings } = trainer;
  trainer.dispose();
  assert.deepEqual(
    seen.map(({ step, steps }) => [step, steps]),
    Array.from({ length: 19 }, (_, i) => [i + 1, 19]), // 10 trained, and thrice 3 held back
  );
  assert.deepEqual([seen.at(-1).done, seen.at(-1).remainingMs], [1, 0]);
  assert.ok(warnings.some((warning) => /^\w+: the threshold is.*so it is for 2 more of the 3/.test(warning)));
});

test('a run that is left and resumed ends in the same bytes; products by other names are refused', async () => {
  const checkpoint = at('left.ckpt.safetensors');
  const trainer = new Trainer({ ...tiny, ...options });
  for await (const { step } of trainer.fit(parts, { checkpoint })) if (step === 3) break;
  const resumed = new Trainer({ threads: 1 });
  for await (const progress of resumed.fit(parts, { resume: checkpoint, checkpoint })) void progress;
  await resumed.save(at('resumed.safetensors'));
  resumed.dispose();
  assert.ok((await readFile(at('resumed.safetensors'))).equals(await readFile(model)));
  assert.ok((await readFile(checkpoint)).equals(await readFile(at('whole.ckpt.safetensors'))));
  const renamed = await makeProducts(at('renamed'), { ...counts });
  await rename(path.join(renamed, 'screw'), path.join(renamed, 'bolt'));
  await assert.rejects(new Trainer().fit(renamed, { resume: checkpoint }).next(), { code: 'ERR_DATASET' });
});

/** The score by the engine itself, set to one product. */
async function expectedScore(name, image, label = names.indexOf(name)) {
  const detector = await addon.loadDetector(model, '{"device":"cpu","threads":1}', new addon.CancelToken());
  try {
    const { calibration: own, threshold } = trained.perProduct[name];
    await detector.setConfig(engineJson.toEngineJson({ ...trained, perProduct: null, calibration: own, threshold }));
    const decoded = await images.decodeImage(image, { channels: 1 });
    const pixels = await images.resizePixels(decoded, config.pixelSize(trained));
    const { width: outWidth, height: outHeight } = decoded;
    return (await detector.score({ ...pixels, outWidth, outHeight, label }, new addon.CancelToken())).score;
  } finally {
    detector.dispose();
  }
}

test('an image is scored as the product that it is said to show', async (t) => {
  const detector = await load(t);
  assert.deepEqual(detector.products, names);
  const image = imageOf('bottle');
  const scores = [];
  for (const product of names) {
    const { score, threshold, anomalous } = await detector.score(image, { product });
    assert.equal(score, await expectedScore(product, image));
    assert.notEqual(score, await expectedScore(product, image, (names.indexOf(product) + 1) % 3), 'the label matters');
    assert.equal(threshold, trained.perProduct[product].threshold);
    assert.equal(detector.thresholdOf(product), threshold);
    assert.equal(anomalous, score > threshold);
    scores.push(score);
  }
  assert.equal(new Set(scores).size, 3);
  assert.equal(detector.threshold, null);
  const strict = await load(t, model, { threshold: -1e9 });
  assert.deepEqual([strict.threshold, strict.thresholdOf('cable')], [-1e9, -1e9]);
  assert.equal((await strict.score(image, { product: 'cable' })).threshold, -1e9);
});

test('colours of an overlay are those of the product', async (t) => {
  const detector = await load(t);
  const image = imageOf('bottle', 'good');
  const [bottle, screw] = ['bottle', 'screw'].map((product) => detector.score(image, { product }));
  const { mapRange } = trained.perProduct.screw.calibration;
  const result = await screw;
  const range = [mapRange[1], mapRange[0] + 3 * (mapRange[1] - mapRange[0])];
  assert.ok((await result.heatmap()).equals(await result.heatmap({ range })));
  assert.ok(!(await (await bottle).heatmap()).equals(await (await bottle).heatmap({ range })));
});

test('calls for different products at once come back as they do one by one', async (t) => {
  const detector = await load(t);
  const calls = Array.from({ length: 30 }, (_, i) => [names[(i * 2 + (i >> 3)) % 3], names[(i + (i >> 2)) % 3]]);
  const one = ([product, shown]) => detector.score(imageOf(shown), { product });
  const together = await Promise.all(calls.map(one));
  for (const [i, call] of calls.entries()) {
    const { score, map, threshold } = await one(call);
    assert.equal(together[i].score, score, `call ${i}`);
    assert.deepEqual(together[i].map, map);
    assert.equal(together[i].threshold, threshold);
  }
});

test('dispose and abort reach calls that wait for their product', async () => {
  const detector = await Detector.load(model);
  const controller = new AbortController();
  const call = (i, signal) => detector.score(imageOf(names[i % 3]), { product: names[i % 3], signal });
  const calls = [...Array.from({ length: 39 }, (_, i) => call(i)), call(39, controller.signal)];
  const ended = Promise.allSettled(calls);
  await Promise.any(calls);
  controller.abort();
  await assert.rejects(calls[39], { code: 'ERR_ABORTED' });
  detector.dispose();
  const codes = (await ended).map(({ reason }) => reason?.code);
  assert.ok(codes.filter((code) => code === 'ERR_DISPOSED').length > 5, String(codes));
  assert.ok(
    codes.slice(0, 39).every((code) => code === undefined || code === 'ERR_DISPOSED'),
    String(codes),
  );
});

test('a product that is unknown, missing or too much is refused', async (t) => {
  const [unified, alone] = [await load(t), await load(t, single)];
  for (const [detector, given, message] of [
    [
      unified,
      { product: 'botle' },
      /"product": expected one of .*"bottle", "cable", "screw", got "botle"; did you mean "bottle"\?/,
    ],
    [unified, { product: '' }, /"product": expected one of .*got ""/],
    [unified, {}, /"product": expected one of .*"bottle", "cable", "screw", got none/],
    [alone, { product: 'bottle' }, /"product": the model is of a single product, expected none, got "bottle"/],
    [unified, { product: 5 }, /"product"/],
  ]) {
    await assert.rejects(detector.score(imageOf('bottle'), given), { code: 'ERR_OPTION', message });
    await assert.rejects(detector.scoreAll([imageOf('bottle')], given).next(), { code: 'ERR_OPTION', message });
  }
  assert.throws(() => unified.thresholdOf('bolt'), { code: 'ERR_OPTION' });
  assert.equal(alone.products, null);
  assert.equal(alone.thresholdOf(), alone.threshold);
  assert.equal((await alone.score(imageOf('bottle'))).threshold, alone.threshold);
});

test('a model whose products contradict it is refused', async () => {
  const { header, data } = await readSafetensors(model);
  for (const [edit, message] of [
    [(changed) => delete changed.perProduct.cable, /perProduct: .*"cable"/],
    [(changed) => changed.products.pop(), /unet\.numClasses: expected 2.*got 3/],
    [(changed) => (changed.products[1] = 'bottle'), /named twice/],
    [(changed) => (changed.products = 'bottle'), /products/],
    [(changed) => (changed.perProduct.cable.threshold = 'high'), /perProduct\.cable\.threshold/],
  ]) {
    const copy = structuredClone(header);
    const changed = JSON.parse(copy.__metadata__.config);
    edit(changed);
    copy.__metadata__.config = JSON.stringify(changed);
    await writeSafetensors(at('odd.safetensors'), { header: copy, data });
    await assert.rejects(Detector.load(at('odd.safetensors')), { code: 'ERR_MODEL_FORMAT', message });
  }
});
