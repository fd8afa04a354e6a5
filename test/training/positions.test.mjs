// Calibration that tells the places of an image apart.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import positions from '../../dist/training/positions.js';
import smoothing from '../../dist/numeric/smoothing.js';
import { makeDataset, pattern, png, temporaryFolder, trainTiny } from '../helpers/common.mjs';

const { placeStatistics, toGrid } = positions;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);

const grid = (width, height, value) => ({
  width,
  height,
  values: Float64Array.from({ length: width * height }, (_, i) => value(i % width, Math.floor(i / width))),
});
const near = (actual, expected, tolerance) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not ${expected} within ${tolerance}`);

test('a cell of the grid is the mean of its pixels, also where the sizes do not divide', () => {
  const map = Float32Array.from({ length: 25 }, (_, i) => i);
  const { width, height, values } = toGrid(map, 5, 2);
  assert.deepEqual([width, height], [2, 2]);
  // columns and rows 0, 1 and 2 belong to the first cell, 3 and 4 to the second
  assert.deepEqual([...values], [6, 8.5, 18.5, 21]);
});

test('smoothing is a Gaussian with its borders repeated', () => {
  const flat = smoothing.gaussianSmooth(new Float64Array(20).fill(3), 5, 4, 1.5);
  for (const value of flat) near(value, 3, 1e-12);
  const point = new Float64Array(31 * 21);
  point[10 * 31 + 15] = 1;
  const spread = smoothing.gaussianSmooth(point, 31, 21, 1.5);
  near(
    spread.reduce((sum, value) => sum + value, 0),
    1,
    1e-12,
  );
  const weight = (x, y) => spread[(10 + y) * 31 + 15 + x];
  near(weight(2, 0) / weight(0, 0), Math.exp(-4 / 4.5), 1e-12);
  near(weight(1, 3) / weight(0, 0), Math.exp(-10 / 4.5), 1e-12);
  const edge = new Float64Array(9);
  edge[0] = 1;
  const kept = smoothing.gaussianSmooth(edge, 9, 1, 1);
  const g = (d) => Math.exp((-d * d) / 2);
  near(kept[0], (g(0) + g(1) + g(2) + g(3)) / (g(0) + 2 * (g(1) + g(2) + g(3))), 1e-12);
});

test('a place has the mean and deviation of its images, the more the more images there are', () => {
  // far from the border between them, the left half is 1 +- 0.5 and the right half 5 +- 2
  const images = (count) =>
    Array.from({ length: count }, (_, i) =>
      grid(40, 4, (x) => (x < 20 ? 1 + (i % 2 ? 0.5 : -0.5) : 5 + (i % 2 ? 2 : -2))),
    );
  const many = placeStatistics(images(400));
  near(many.mean[0], 1, 0.05);
  near(many.mean[39], 5, 0.05);
  assert.ok(
    many.std[39] > 3 * many.std[0] && many.std[0] > 0.5 && many.std[39] < 2.4,
    `${many.std[0]} ${many.std[39]}`,
  );
  const few = placeStatistics(images(4));
  near(few.mean[0], 2, 0.01); // four images weigh as much as all places together: halfway to 3
  assert.ok(few.std[0] > 1.5 * many.std[0]);
});

test('one image, or images without any difference, leave nothing to divide by zero', () => {
  for (const images of [[grid(3, 3, (x) => x)], [grid(3, 3, () => 2), grid(3, 3, () => 2)], [grid(1, 1, () => 0)]]) {
    const { mean, std } = placeStatistics(images);
    assert.ok(mean.every(Number.isFinite) && std.every((value) => value > 0 && Number.isFinite(value)));
  }
});

test('whole images are calibrated by place, windows are not', async () => {
  const parts = await makeDataset(at('parts'), 24);
  const placed = await trainTiny({ Trainer }, parts, at('placed.safetensors'), {
    ...{ mode: 'resize', holdOut: 0.4, positions: true },
  });
  const { position } = placed.calibration;
  assert.deepEqual([position.width, position.height], [4, 4]);
  for (const key of ['pixelMean', 'pixelStd', 'featureMean', 'featureStd']) assert.equal(position[key].length, 16);
  // the scores of good images are then close to the threshold, not to that without places
  const detector = await Detector.load(at('placed.safetensors'));
  const { score, featureMap } = await detector.score(await png(pattern(72, 66, 5)).toBuffer());
  detector.dispose();
  assert.ok(score < placed.threshold + 3 && featureMap.data.length === 72 * 66);

  const plain = await trainTiny({ Trainer }, parts, at('plain.safetensors'), { mode: 'resize', positions: false });
  assert.equal(plain.calibration.position, undefined);
  const crops = await trainTiny({ Trainer }, parts, at('crops.safetensors'), { mode: 'crop' });
  assert.equal(crops.calibration.position, undefined);
  assert.throws(() => new Trainer({ mode: 'crop', positions: true }), { code: 'ERR_OPTION', message: /"positions"/ });
});

test('the threshold of held-back images does not come from places that they made themselves', async () => {
  // eleven of twelve held-back images are alike; the other differs at one place, in every image of its kind
  const { calibrate } = await import('../../dist/training/calibrate.js').then((module) => module.default);
  const files = await Promise.all(
    Array.from({ length: 12 }, async (_, i) => {
      const file = at(`held-${i}.png`);
      await png(pattern(16, 16, 0)).toFile(file);
      return file;
    }),
  );
  const config = {
    input: { mode: 'resize', size: 16, channels: 1 },
    features: null,
    score: { positions: true, normalization: 'calibration', smoothing: 0 },
    training: { quantile: 1 },
    calibration: null,
    threshold: null,
  };
  let current;
  let calls = 0;
  const seen = [];
  const detector = {
    setConfig: (json) => Promise.resolve(void (current = JSON.parse(json))),
    score: () => {
      const image = calls++ % 12;
      const map = new Float32Array(256).fill(image === 3 ? 100 : 1);
      const position = current.calibration?.position;
      if (position) seen.push(position.pixelMean[0]);
      const statistics = { mean: [1], std: [1], elements: 256 };
      return Promise.resolve({
        map,
        pixelMap: map,
        featureMap: null,
        width: 16,
        height: 16,
        score: 0,
        pixel: statistics,
        feature: null,
        memory: null,
      });
    },
  };
  for await (const progress of calibrate(detector, config, files)) void progress;
  assert.equal(seen.length, 12);
  // image 3 is in the last of the four parts: its places come from images that all are 1
  assert.equal(seen.filter((mean) => mean === 1).length, 3);
  assert.ok(seen.filter((mean) => mean > 5).length === 9);
  assert.ok(config.calibration.position.pixelMean[0] > 5);
});

test('left out, the held-back images decide whether places are told apart, and the model says so', async () => {
  const parts = await makeDataset(at('measured'), 30);
  const options = { mode: 'resize', featureScale: 1, holdOut: 0.3 };
  const measured = await trainTiny({ Trainer }, parts, at('measured.safetensors'), options);
  const { aligned, position } = measured.calibration;
  assert.equal(typeof aligned, 'boolean');
  assert.deepEqual([measured.score.positions, position !== undefined], [aligned, aligned]);
  const again = await trainTiny({ Trainer }, parts, at('again.safetensors'), { ...options, threads: 2 });
  assert.deepEqual(again, measured);
  for (const positions of [true, false]) {
    const asked = await trainTiny({ Trainer }, parts, at('asked.safetensors'), { ...options, positions });
    assert.deepEqual([asked.score.positions, asked.calibration.aligned], [positions, undefined]);
  }
  const few = await trainTiny({ Trainer }, parts, at('few.safetensors'), { ...options, holdOut: 0.2 });
  assert.deepEqual([few.score.positions, few.calibration.aligned], [true, undefined], '6 images cannot tell');
});
