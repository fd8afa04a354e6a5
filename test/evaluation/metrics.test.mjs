import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import keys from '../../dist/evaluation/keys.js';
import metrics from '../../dist/evaluation/metrics.js';
import regions from '../../dist/evaluation/regions.js';
import sweep from '../../dist/numeric/threshold-sweep.js';
import auroc from '../../dist/numeric/auroc.js';
import { openFiles, temporaryFolder } from '../helpers/common.mjs';

const { MetricsAccumulator } = metrics;
const folder = await temporaryFolder();
const disk = path.join(await temporaryFolder(), 'disk');
const cases = JSON.parse(await readFile(new URL('../fixtures/evaluation-cases.json', import.meta.url), 'utf8'));
/** The least memory that the options take: 128 words a buffer, so that every image goes to the file in pieces. */
const little = 4096;

/** Repeatable numbers from 0 to 1. */
function numbers(seed) {
  let state = seed;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}

const imageOf = ({ defect, score, map, mask }, { width, height, unit }, i) => ({
  image: `image ${i}`,
  defect,
  score,
  map: Float32Array.from(map, (value) => value / unit),
  width,
  height,
  mask: mask && Uint8Array.from(mask.join(''), (at) => (at === '#' ? 1 : 0)),
});

async function measure(images, options) {
  const accumulator = new MetricsAccumulator({ temporaryFolder: folder, ...options });
  for (const image of images) await accumulator.add(image);
  return accumulator.finish();
}

/** Equal but for the last digits of numbers. */
function assertClose(actual, expected, name) {
  if (typeof expected === 'number') {
    assert.ok(Math.abs(actual - expected) < 1e-9, `${name}: expected ${expected}, got ${actual}`);
  } else if (expected === null) {
    assert.equal(actual, null, name);
  } else {
    assert.deepEqual(Object.keys(actual).sort(), Object.keys(expected).sort(), name);
    for (const key of Object.keys(expected)) assertClose(actual[key], expected[key], `${name}.${key}`);
  }
}

async function assertNothingLeft() {
  assert.deepEqual(await readdir(folder), []);
  assert.equal((await openFiles(folder)) ?? 0, 0);
}

for (const { name, expected, images, ...size } of cases) {
  test(`figures as of scikit-learn and SciPy: ${name}`, async () => {
    const given = images.map((image, i) => imageOf(image, size, i));
    const { total, perDefect } = await measure(given);
    assertClose(total, expected.total, 'total');
    assertClose(perDefect, expected.perDefect, 'perDefect');
  });

  test(`the memory bound changes no bit: ${name}`, async () => {
    const given = images.map((image, i) => imageOf(image, size, i));
    const found = await measure(given);
    for (const memoryBytes of [little, 3 * little, 20 * little]) {
      assert.deepEqual(await measure(given, { memoryBytes }), found);
    }
    await assertNothingLeft();
  });
}

test('what is more than the bound goes to a file that is gone after success, error and abort', async () => {
  const next = numbers(1);
  const [width, height] = [64, 40];
  const image = (defect) => ({
    ...{ image: 'part.png', defect, score: next(), width, height },
    map: Float32Array.from({ length: width * height }, next),
    mask: defect === 'good' ? null : Uint8Array.from({ length: width * height }, () => (next() < 0.3 ? 1 : 0)),
  });
  const filled = async () => {
    const accumulator = new MetricsAccumulator({ temporaryFolder: folder, memoryBytes: little });
    for (const defect of ['good', 'a', 'b', 'a', 'good', 'b']) await accumulator.add(image(defect));
    if ((await openFiles(folder)) !== null) assert.equal(await openFiles(folder), 1, 'the pixels are in a file');
    return accumulator;
  };
  const finished = await filled();
  await finished.finish();
  await assertNothingLeft();

  const failed = await filled();
  await assert.rejects(failed.add({ ...image('a'), map: new Float32Array(width * height).fill(NaN) }), {
    code: 'ERR_NUMERIC',
  });
  await failed.abort();
  await failed.abort();
  await assertNothingLeft();

  const aborted = await filled();
  await assert.rejects(aborted.finish({ signal: AbortSignal.abort() }), { code: 'ERR_ABORTED' });
  await assertNothingLeft();
});

test('images of any size, in any order of defects', async () => {
  const next = numbers(2);
  const images = [
    [1, 1, 'crack'],
    [300, 1, 'good'],
    [1, 77, 'dent'],
    [40, 30, 'crack'],
    [33, 9, 'good'],
    [10, 10, 'crack'],
  ].map(([width, height, defect]) => ({
    ...{ image: 'x', defect, score: next(), width, height },
    map: Float32Array.from({ length: width * height }, () => Math.round(40 * (next() - 0.5)) / 8),
    mask: defect === 'good' ? null : Uint8Array.from({ length: width * height }, () => (next() < 0.4 ? 255 : 0)),
  }));
  const found = await measure(images);
  assertClose(pick(found.total), byDefinition(images), 'total');
  for (const [defect, of] of Object.entries(found.perDefect)) {
    const own = images.filter((image) => image.defect === 'good' || image.defect === defect);
    assertClose(pick(of), byDefinition(own), defect);
  }
  assert.deepEqual(await measure(images, { memoryBytes: little }), found);
});

const pick = ({ pixelAuroc, pixelAp, aupro, aupro05 }) => ({ pixelAuroc, pixelAp, aupro, aupro05 });

/** The pixel figures again, threshold by threshold over all pixels. */
function byDefinition(images) {
  const pixels = images.flatMap(({ map, mask, width, height }) => {
    const { areas } = mask ? regions.regionAreas(mask, width, height) : { areas: new Uint32Array(map.length) };
    return Array.from(map, (value, i) => ({ value, area: areas[i] }));
  });
  const defects = pixels.filter(({ area }) => area > 0);
  const good = pixels.filter(({ area }) => area === 0);
  const count = defects.reduce((sum, { area }) => sum + 1 / area, 0);
  let [x, y, pro, pixelAuroc, pixelAp] = [0, 0, 0, 0, 0];
  const areas = [0, 0];
  for (const threshold of [...new Set(pixels.map(({ value }) => value))].sort((a, b) => b - a)) {
    const at = (of) => of.filter(({ value }) => value >= threshold);
    const [positives, negatives] = [at(defects), at(good)];
    const [x1, y1] = [negatives.length / good.length, positives.length / defects.length];
    const pro1 = positives.reduce((sum, { area }) => sum + 1 / area, 0) / count;
    pixelAuroc += ((x1 - x) * (y + y1)) / 2;
    pixelAp += (y1 - y) * (positives.length / (positives.length + negatives.length));
    [0.3, 0.05].forEach((limit, i) => {
      const end = Math.min(x1, limit);
      const raised = x1 > limit ? pro + ((pro1 - pro) * (limit - x)) / (x1 - x) : pro1;
      if (x < limit) areas[i] += ((end - x) * (pro + raised)) / 2 / limit;
    });
    [x, y, pro] = [x1, y1, pro1];
  }
  return { pixelAuroc, pixelAp, aupro: areas[0], aupro05: areas[1] };
}

test('what cannot be measured is refused', async () => {
  const accumulator = new MetricsAccumulator();
  const good = { image: 'a.png', defect: 'good', score: 1, map: new Float32Array(6), width: 3, height: 2, mask: null };
  for (const value of [NaN, Infinity, -Infinity]) {
    const map = new Float32Array(6);
    map[4] = value;
    const message = `a.png: expected finite map values, got ${value} at (1, 1)`;
    await assert.rejects(accumulator.add({ ...good, map }), { code: 'ERR_NUMERIC', message });
    await assert.rejects(accumulator.add({ ...good, score: value }), {
      code: 'ERR_NUMERIC',
      message: /a\.png: .*score/,
    });
  }
  const bad = { ...good, defect: 'dent', mask: new Uint8Array(6) };
  const sizes = { code: 'ERR_ARGUMENT', message: 'a.png: expected 6 values of its mask (3 x 2), got 5' };
  await assert.rejects(accumulator.add({ ...bad, mask: new Uint8Array(5) }), sizes);
  await assert.rejects(accumulator.add({ ...bad, map: new Float32Array(7) }), { code: 'ERR_ARGUMENT' });
  await assert.rejects(accumulator.add({ ...good, mask: new Uint8Array(6) }), { code: 'ERR_ARGUMENT' });
  await accumulator.abort();
});

test('a folder that takes no file, and a full disk, are one clear error', async (t) => {
  const fill = async (temporaryFolder) => {
    const accumulator = new MetricsAccumulator({ temporaryFolder, memoryBytes: little });
    const map = new Float32Array(2 ** 18);
    try {
      await accumulator.add({ image: 'x', defect: 'good', score: 0, map, width: 512, height: 512, mask: null });
    } finally {
      await accumulator.abort();
    }
  };
  await assert.rejects(fill(path.join(folder, 'nowhere')), { code: 'ERR_FILE_WRITE', message: /nowhere/ });
  await mkdir(disk);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', disk], { stdio: 'ignore' });
  if (mounted.status !== 0) return t.skip('a small file system cannot be mounted here');
  t.after(() => spawnSync('umount', [disk]));
  await assert.rejects(fill(disk), { code: 'ERR_FILE_WRITE', message: /no space.*TMPDIR/i });
  assert.deepEqual(await readdir(disk), []);
  const { stdout } = spawnSync('df', ['--output=used', disk], { encoding: 'utf8' });
  assert.equal(Number(stdout.split('\n')[1]), 0, 'its space is free again');
});

test('regions: all 8 neighbours join', () => {
  const next = numbers(3);
  for (let round = 0; round < 60; round++) {
    const [width, height] = [1 + Math.floor(20 * next()), 1 + Math.floor(20 * next())];
    const mask = Uint8Array.from({ length: width * height }, () => (next() < 0.15 + 0.01 * round ? 200 : 0));
    const { areas, count, pixels } = regions.regionAreas(mask, width, height);
    const flooded = flood(mask, width, height);
    assert.deepEqual(areas, flooded.areas);
    assert.deepEqual([count, pixels], [flooded.count, mask.filter(Boolean).length]);
  }
  // As many regions as an image can have.
  const { count } = regions.regionAreas(
    Uint8Array.from({ length: 49 }, (_, i) => ((i % 7) % 2 || (i / 7) & 1 ? 0 : 1)),
    7,
    7,
  );
  assert.equal(count, 16);
});

function flood(mask, width, height) {
  const areas = new Uint32Array(mask.length);
  let count = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || areas[start]) continue;
    count += 1;
    const region = new Set([start]);
    for (const at of region) {
      const [x, y] = [at % width, Math.floor(at / width)];
      for (const [dx, dy] of [-1, 0, 1].flatMap((a) => [-1, 0, 1].map((b) => [a, b]))) {
        const inside = x + dx >= 0 && x + dx < width && y + dy >= 0 && y + dy < height;
        if (inside && mask[at + dx + width * dy]) region.add(at + dx + width * dy);
      }
    }
    for (const at of region) areas[at] = region.size;
  }
  return { areas, count };
}

test('keys order floats from the highest down, and lead back to them', () => {
  const floats = new Float32Array([3.4e38, 1.5, 1, 1.2e-38, 1e-45, 0, -1e-45, -1e-38, -1, -7.25, -3.4e38]);
  const found = [...new Uint32Array(floats.buffer)].map(keys.keyOfBits);
  assert.deepEqual(
    found,
    [...found].sort((a, b) => a - b),
  );
  assert.equal(new Set(found).size, floats.length);
  assert.deepEqual(found.map(keys.valueOfKey), [...floats]);
  assert.equal(keys.keyOfBits(0x80000000), keys.keyOfBits(0), '-0 is 0');
});

test('records are sorted by their keys, equal ones as they came', () => {
  const next = numbers(4);
  for (const [length, range] of [
    [0, 1],
    [1, 9],
    [1000, 5],
    [1000, 3000],
    [5000, 2 ** 32],
  ]) {
    const given = Array.from({ length }, (_, i) => [Math.floor(range * next()), i]);
    const expected = [...given].sort((a, b) => a[0] - b[0]);
    for (const stride of [1, 2]) {
      const flat = (records) => Uint32Array.from(records.flatMap((record) => record.slice(0, stride)));
      const words = flat(given);
      const sorted = keys.sortRecords(words, new Uint32Array(words.length), words.length, stride);
      assert.deepEqual(sorted, flat(expected));
    }
  }
});

test('drawn curves are short, begin and end where they should, and stay by the whole curve', () => {
  const next = numbers(5);
  const good = Array.from({ length: 20000 }, next);
  const anomalous = Array.from({ length: 20000 }, () => next() + 0.3 * next());
  const { curves, auroc: area, ap } = sweep.sweepScores(good, anomalous, true);
  const areaUnder = ({ x, y }) => x.slice(1).reduce((sum, at, i) => sum + ((at - x[i]) * (y[i] + y[i + 1])) / 2, 0);
  const ends = ({ x, y }) => [x[0], y[0], x.at(-1), y.at(-1)];
  assert.deepEqual(ends(curves.roc), [0, 0, 1, 1]);
  assert.deepEqual(ends(curves.pr).slice(0, 3), [0, 1, 1]);
  for (const { x, y } of [curves.roc, curves.pr]) {
    assert.ok(x.length > 100 && x.length <= sweep.CurveTrace.most && y.length === x.length);
    assert.ok(x.every((at, i) => i === 0 || at >= x[i - 1]));
  }
  assert.ok(Math.abs(areaUnder(curves.roc) - area) < 0.01);
  assert.ok(Math.abs(areaUnder(curves.pr) - ap) < 0.01);

  const trace = new sweep.CurveTrace();
  for (let i = 0; i <= 50000; i++) trace.add(i / 50000, i % 2);
  assert.ok(trace.end().x.length <= sweep.CurveTrace.most);
});

test('the overlap is drawn up to its limit', async () => {
  const { width, height, unit, images } = cases.at(-1);
  const { curves, total } = await measure(images.map((image, i) => imageOf(image, { width, height, unit }, i)));
  const { x, y } = curves.pro;
  assert.deepEqual([x[0], y[0], x.at(-1)], [0, 0, 0.3]);
  const area = x.slice(1).reduce((sum, at, i) => sum + ((at - x[i]) * (y[i] + y[i + 1])) / 2, 0);
  assert.ok(Math.abs(area / 0.3 - total.aupro) < 1e-9);
});

test('area under the ROC curve of scores', () => {
  assert.equal(auroc.auroc([1, 2, 3], [2, 3, 4]), (1 + 0.5 + 2 + 0.5 + 3) / 9);
  assert.equal(auroc.auroc([0], [1]), 1);
  assert.ok(Number.isNaN(auroc.auroc([], [1])));
});
