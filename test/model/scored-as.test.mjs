// A trained model that scores in another way than it was calibrated for.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { Detector, evaluate, Trainer } from '../../dist/index.js';
import scoring from '../../dist/model/scored-as.js';
import { makeDataset, makeProducts, run, temporaryFolder, trainTiny } from '../helpers/common.mjs';

const { scoredAs } = scoring;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 12);
const model = at('model.safetensors');
const plain = at('plain.safetensors');
const bad = path.join(parts, 'test', 'bad', '00.png');
const options = { mode: 'resize', alpha: 0.4, smoothing: 0, topPixels: { count: 8 }, holdOut: 0.3 };
const trained = await trainTiny({ Trainer }, parts, model, options);
const respaced = at('respaced.safetensors');
await trainTiny({ Trainer }, parts, respaced, { ...options, scaleIndexing: 'respaced' });
await trainTiny({ Trainer }, parts, plain, { ...options, backbone: null, alpha: 1 });

async function scored(options, { file = model, image = bad } = {}) {
  const detector = await Detector.load(file, { threads: 1, scoring: options });
  try {
    return await detector.score(image);
  } finally {
    detector.dispose();
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

test('without options nothing changes', async () => {
  assert.equal(scoredAs(trained, {}), trained);
  const { score, threshold } = await scored(undefined);
  assert.equal((await scored({})).score, score);
  assert.equal(threshold, trained.threshold);
});

test('each kind judges by its own map, and without the threshold of the ensemble', async () => {
  const both = await scored({ kind: 'ensemble' });
  const pixel = await scored({ kind: 'pixel' });
  const feature = await scored({ kind: 'feature' });
  const rgb = await scored({ kind: 'rgb' });
  assert.deepEqual(pixel.map, both.pixelMap);
  assert.deepEqual(feature.map, both.featureMap);
  assert.deepEqual(rgb.map, rgb.pixelMap);
  assert.notDeepEqual(rgb.map.data, pixel.map.data);
  for (const one of [pixel, feature, rgb]) assert.deepEqual([one.threshold, one.anomalous], [null, null]);
  assert.equal((await scored({ alpha: 0.4 })).score, both.score, 'what is changed is the ensemble');
  const top = (map) => mean([...map.data].sort((a, b) => b - a).slice(0, 200));
  assert.ok(top(rgb.map) > 0, 'a defect stands out of the reconstruction of good images');
  const largest = [...both.map.data.keys()].every((i) => {
    const expected = 0.4 * both.pixelMap.data[i] + 0.6 * both.featureMap.data[i];
    return Math.abs(both.map.data[i] - expected) <= 1e-4 * Math.max(1, Math.abs(expected));
  });
  assert.ok(largest, 'the ensemble is the weighted sum of the two');
});

test('the error of the reconstruction is normalised by that of good images', async () => {
  const { rgbMean, rgbStd } = trained.calibration;
  assert.ok(rgbMean.length === 3 && rgbStd.every((value) => value > 0));
  const one = { kind: 'rgb', scales: [50] };
  const raw = await scored({ ...one, normalization: 'none' });
  const normal = await scored(one);
  for (const [i, value] of normal.map.data.entries()) {
    assert.ok(raw.map.data[i] >= 0);
    const expected = (raw.map.data[i] - rgbMean[1]) / rgbStd[1];
    assert.ok(Math.abs(value - expected) <= 1e-3 * Math.max(1, Math.abs(expected)));
  }
});

test('weight, scales, smoothing and top pixels can be others', async () => {
  const both = await scored(undefined);
  assert.deepEqual((await scored({ alpha: 1 })).map, both.pixelMap);
  assert.deepEqual((await scored({ alpha: 0 })).map, both.featureMap);
  const scales = await scored({ scales: [100] });
  assert.notDeepEqual(scales.map.data, both.map.data);
  const one = scoredAs(trained, { scales: [100, 5] });
  assert.deepEqual(one.calibration.pixelMean, [trained.calibration.pixelMean[2], trained.calibration.pixelMean[0]]);
  assert.deepEqual(one.calibration.featureStd, [trained.calibration.featureStd[2], trained.calibration.featureStd[0]]);
  assert.deepEqual([one.threshold, one.calibration.mapRange], [null, undefined]);
  assert.ok((await scored({ smoothing: 2 })).score < both.score);
  assert.ok((await scored({ topPixels: { share: 1 } })).score < both.score);
  // relative to the image, at noise scales that the model was not calibrated for
  const relative = await scored({ normalization: 'per-image', scales: [30, 300], kind: 'pixel' });
  assert.ok(Math.abs(mean(relative.map.data)) < 0.1, `${mean(relative.map.data)}`);
});

test('what the model cannot do is refused by name', async () => {
  for (const [options, message, file] of [
    [{ scales: [7] }, /"scales": expected some of those that the model is calibrated for \(5, 50, 100\), got 7/],
    [{ scales: [5, 5] }, /"scales": a noise scale is given twice/],
    [{ scales: [1000], normalization: 'none' }, /"scoring\.scales/],
    [{ scales: [250], normalization: 'none' }, /option "scales": expected integers from 0 to 249, got 250/, respaced],
    [{ kind: 'rgb', normalization: 'per-image' }, /"normalization": the reconstruction error has no per-image/],
    [{ kind: 'colour' }, /"scoring.kind"/],
    [{ alpha: 2 }, /"scoring.alpha"/],
    [{ beta: 2 }, /"(scoring\.)?beta"/],
    [{ kind: 'feature' }, /"kind": the model has no features/, plain],
    [{ alpha: 0.5 }, /"alpha": the model has no features/, plain],
  ]) {
    await assert.rejects(scored(options, { file }), { code: 'ERR_OPTION', message }, JSON.stringify(options));
  }
  assert.throws(() => scoredAs({ ...trained, calibration: null }, { alpha: 0.5 }), { code: 'ERR_OPTION' });
  const older = structuredClone(trained);
  delete older.calibration.rgbMean;
  assert.throws(() => scoredAs(older, { kind: 'rgb' }), { code: 'ERR_OPTION', message: /train it again/ });
  assert.ok(Number.isFinite((await scored({ kind: 'rgb' }, { file: plain })).score));
});

test('a unified model scores every product in the other way', async () => {
  const products = await makeProducts(at('products'), { bolt: 6, nut: 6 });
  const unified = at('unified.safetensors');
  const config = await trainTiny({ Trainer }, products, unified, options);
  const other = scoredAs(config, { kind: 'pixel', scales: [50] });
  assert.deepEqual(
    Object.values(other.perProduct).map(({ calibration, threshold }) => [calibration.pixelMean.length, threshold]),
    [
      [1, null],
      [1, null],
    ],
  );
  const detector = await Detector.load(unified, { threads: 1, scoring: { kind: 'pixel' } });
  try {
    const image = path.join(products, 'bolt', 'test', 'bad', '00.png');
    const [bolt, nut] = await Promise.all(['bolt', 'nut'].map((product) => detector.score(image, { product })));
    for (const one of [bolt, nut]) assert.deepEqual(one.map, one.pixelMap);
    assert.notEqual(bolt.score, nut.score);
    const found = await evaluate(detector, products);
    assert.deepEqual([found.threshold, found.perProduct.bolt.threshold], [null, null]);
  } finally {
    detector.dispose();
  }
});

test('from the command line: another score, and its threshold where one is given', async () => {
  const score = await run(['score', model, bad, '--json', '--score', 'rgb', '--scales', '5,100', '--threads', '1']);
  assert.equal(score.code, 0, score.stderr);
  const line = JSON.parse(score.stdout);
  assert.deepEqual([line.threshold, line.anomalous], [null, null]);
  const expected = await scored({ kind: 'rgb', scales: [5, 100] });
  assert.equal(line.score, expected.score);
  const strict = await run(['score', model, bad, '--json', '--alpha', '0', '--threshold=-100', '--top-pixels', '10%']);
  assert.equal(JSON.parse(strict.stdout).anomalous, true);
  const wrong = await run(['score', model, bad, '--scales', '6']);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /ERR_OPTION: --scales/);
  assert.equal((await run(['evaluate', model, parts, '--score', 'colour'])).code, 2);
});
