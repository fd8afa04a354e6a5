import assert from 'node:assert/strict';
import { test } from 'node:test';
import calibration from '../../dist/model/calibration.js';
import evaluation from '../../dist/numeric/auroc.js';
import heatmap from '../../dist/image/heatmap.js';
import usage from '../../dist/cli/usage.js';
import output from '../../dist/cli/output.js';

const { poolStatistics, thresholdOf, typicalRange } = calibration;
const { auroc } = evaluation;

const moments = (values) => {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return { mean, std: Math.sqrt(squares / (values.length - 1)) };
};

test('pooled statistics are those of all pixels together', () => {
  const images = [[1, 2, 3, 4.5], [10, 11], [0.25], [7, 7, 7]];
  const parts = images.map((pixels) => {
    const { mean, std } = moments(pixels);
    return { mean: [mean, 2 * mean], std: [std, 2 * std], elements: pixels.length };
  });
  const { mean, std } = poolStatistics(parts);
  const all = moments(images.flat());
  assert.ok(Math.abs(mean[0] - all.mean) < 1e-12 && Math.abs(std[0] - all.std) < 1e-12);
  assert.ok(Math.abs(mean[1] - 2 * all.mean) < 1e-12 && Math.abs(std[1] - 2 * all.std) < 1e-12);
});

test('a deviation that cannot be divided by becomes 1', () => {
  const flat = { mean: [3], std: [0], elements: 5 };
  assert.deepEqual(poolStatistics([flat, flat]), { mean: [3], std: [1] });
  assert.deepEqual(poolStatistics([{ mean: [3], std: [NaN], elements: 1 }]), { mean: [3], std: [1] });
});

test('the threshold interpolates linearly between scores', () => {
  assert.equal(thresholdOf([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(thresholdOf([5], 0.99), 5);
  assert.equal(thresholdOf([10, 9, 100], 1), 100);
  assert.ok(Math.abs(thresholdOf([...Array(101).keys()], 0.99) - 99) < 1e-12);
});

test('map ranges: median and end of the normal range', async () => {
  const map = Float32Array.from({ length: 1001 }, (_, i) => 1000 - i);
  assert.deepEqual(await heatmap.mapRange(map), [500, 995]);
  assert.deepEqual(await heatmap.mapRange(Float32Array.of(2)), [2, 2]);
  const large = new Float32Array(1_000_000).map((_, i) => i);
  assert.ok(Math.abs((await heatmap.mapRange(large))[0] - 500_000) < 50);
  assert.deepEqual(
    typicalRange([
      [1, 5],
      [2, 9],
      [30, 6],
    ]),
    [2, 6],
  );
});

test('AUROC is exact, ties count half', () => {
  assert.equal(auroc([1, 2], [3, 4]), 1);
  assert.equal(auroc([3, 4], [1, 2]), 0);
  assert.equal(auroc([1, 1], [1, 1]), 0.5);
  assert.ok(Number.isNaN(auroc([], [1])));
  const draw = (n, shift) => Array.from({ length: n }, (_, i) => ((i * 7919) % 23) + shift);
  const [good, bad] = [draw(57, 0), draw(31, 4)];
  let wins = 0;
  for (const g of good) for (const b of bad) wins += b > g ? 1 : b === g ? 0.5 : 0;
  assert.ok(Math.abs(auroc(good, bad) - wins / (good.length * bad.length)) < 1e-12);
});

test('durations and pixel counts of the command line', () => {
  const parse = (text) => usage.parseDuration('time-limit', text);
  assert.deepEqual(['90', '30s', '5m', '1.5h', '1h30m', '250ms'].map(parse), [90e3, 30e3, 300e3, 5.4e6, 5.4e6, 250]);
  for (const text of ['', '5x', '-5m', '0s', '5m!', 'm']) assert.throws(() => parse(text), usage.UsageError);
  assert.deepEqual(['64', '50%', '0.5%'].map(usage.parseTopPixels), [{ count: 64 }, { share: 0.5 }, { share: 0.005 }]);
  for (const text of ['0', '-1', '1.5', '101%', '%', 'all']) {
    assert.throws(() => usage.parseTopPixels(text), usage.UsageError);
  }
  assert.deepEqual(usage.parseNumbers('scales', '5, 50,100'), [5, 50, 100]);
  assert.throws(() => usage.parseNumbers('scales', '5,,100'), usage.UsageError);
});

test('durations read well', () => {
  assert.deepEqual([0, 12_400, 250_000, 3_900_000, Infinity].map(output.duration), [
    '0 s',
    '12 s',
    '4 min 10 s',
    '1 h 05 min',
    '-',
  ]);
});
