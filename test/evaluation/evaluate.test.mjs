// evaluate() with a detector that takes an image's own brightness for its map.
import assert from 'node:assert/strict';
import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import { DdadError, evaluate } from '../../dist/index.js';
import { openFiles, png, temporaryFolder } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const spools = path.join(await temporaryFolder(), 'spools');
await mkdir(spools);

const brightness = {
  threshold: 0.5,
  config: { unet: { numClasses: null }, threshold: 0.5, calibration: { quantile: 0.99 } },
  async score(image, { threshold = this.threshold, signal } = {}) {
    signal?.throwIfAborted();
    const { data, info } = await sharp(image).toColourspace('b-w').raw().toBuffer({ resolveWithObject: true });
    const map = Float32Array.from(data, (value) => value / 255);
    const score = map.reduce((most, value) => Math.max(most, value), 0);
    const anomalous = threshold === null ? null : score > threshold;
    return { image, score, threshold, anomalous, map: { data: map, width: info.width, height: info.height } };
  },
};

/** An image of one gray, with a square of another in its upper left corner. */
function square(gray, corner = gray, side = 4, width = 12, height = 10) {
  const at = (i) => (i % width < side && i / width < side ? corner : gray);
  return { data: Uint8Array.from({ length: width * height }, (_, i) => at(i)), width, height, channels: 1 };
}

const mask = (side = 4, width = 12, height = 10) => square(0, 255, side, width, height);

/** Writes images (or whatever sharp is to write) by their paths; a null is an empty folder. */
async function dataset(name, files) {
  const root = path.join(folder, name);
  for (const [file, image] of Object.entries(files)) {
    const to = path.join(root, file);
    await mkdir(image === null ? to : path.dirname(to), { recursive: true });
    if (image !== null) await (image.data ? png(image) : image).toFile(to);
  }
  return root;
}

const parts = await dataset('parts', {
  'ground_truth/chip/00_mask.png': mask(),
  'ground_truth/chip/01.png': mask(2),
  'ground_truth/stain/00_mask.png': mask(3),
  'ground_truth/stain/00.png': mask(1),
  'test/chip/00.png': square(60, 200),
  'test/chip/01.png': square(40, 100, 2),
  'test/good/00.png': square(50),
  'test/good/01.png': square(80, 250, 1),
  'test/stain/00.png': square(70, 90, 3),
  'test/stain/01.png': square(70, 220, 3),
  'train/good/00.png': square(50),
});

test('figures, verdicts and counts of a dataset', async () => {
  const evaluation = await evaluate(brightness, parts, { model: 'brightness' });
  const { perDefect, scores, curves, warnings, ...of } = evaluation;
  assert.deepEqual([of.formatVersion, of.model, of.dataset, of.threshold], [1, 'brightness', parts, 0.5]);
  assert.deepEqual([of.images, of.maskedImages], [6, 5]);
  assert.deepEqual([of.falseAlarmRate, of.expectedFalseAlarmRate], [0.5, 0.01]);
  assert.deepEqual(
    scores.map(({ image, defect, outcome, product }) => [image, defect, outcome, product]),
    [
      ['test/chip/00.png', 'chip', 'caught', null],
      ['test/chip/01.png', 'chip', 'missed', null],
      ['test/good/00.png', 'good', 'passed', null],
      ['test/good/01.png', 'good', 'false-alarm', null],
      ['test/stain/00.png', 'stain', 'missed', null],
      ['test/stain/01.png', 'stain', 'caught', null],
    ],
  );
  assert.equal(of.imageAuroc, 0.5, 'of good 50, 250 and anomalous 200, 100, 90, 220');
  assert.deepEqual(Object.keys(perDefect), ['chip', 'stain']);
  assert.deepEqual([perDefect.chip.images, perDefect.chip.maskedImages], [4, 4]);
  assert.deepEqual([perDefect.stain.images, perDefect.stain.maskedImages], [4, 3]);
  // One good pixel is brighter than the 16 + 4 of the two chips.
  const pixels = 2 * 120 + 104 + 116;
  assert.ok(Math.abs(perDefect.chip.pixelAuroc - (1 - 1 / pixels)) < 1e-12);
  assert.equal(perDefect.chip.pixelBestF1.threshold, Math.fround(100 / 255));
  assert.equal(perDefect.chip.pixelBestF1.recall, 1);
  assert.ok(Math.abs(perDefect.stain.pixelAp - 9 / 10) < 1e-12, 'the mask of 3 x 3 pixels, not that of one');
  assert.ok(Object.values(curves).every(({ x, y }) => x.length === y.length && x.length > 1));
  assert.deepEqual(warnings, [
    '1 of 2 images in test/stain without a mask in ground_truth/stain: in the image figures only',
  ]);
  assert.deepEqual(JSON.parse(JSON.stringify(evaluation)), evaluation, 'JSON keeps all of it');
});

test('a threshold may be given, and be none', async () => {
  const strict = await evaluate(brightness, parts, { threshold: 0.1 });
  assert.deepEqual([strict.threshold, strict.falseAlarmRate, strict.expectedFalseAlarmRate], [0.1, 1, null]);
  assert.ok(strict.scores.every(({ outcome, anomalous }) => anomalous && outcome !== 'missed'));
  const none = await evaluate(brightness, parts, { threshold: null });
  assert.deepEqual([none.threshold, none.falseAlarmRate, none.expectedFalseAlarmRate], [null, null, null]);
  assert.ok(
    none.scores.every(
      ({ outcome, anomalous, threshold }) => outcome === null && anomalous === null && threshold === null,
    ),
  );
  assert.equal(none.imageAuroc, strict.imageAuroc);
});

test('images come one at a time, in order, and are waited for; progress goes to 1', async () => {
  const seen = [];
  const progress = [];
  let inside = 0;
  const onImage = async (scored) => {
    assert.equal(++inside, 1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    inside -= 1;
    seen.push(scored);
  };
  const { scores } = await evaluate(brightness, parts, { onImage, onProgress: (now) => progress.push(now) });
  assert.deepEqual(
    seen.map(({ image }) => image),
    scores,
  );
  for (const { image, input, mask: file, result } of seen) {
    assert.equal(input, path.join(parts, image.image));
    assert.equal(result.score, image.score);
    if (image.image === 'test/chip/01.png') assert.equal(file, path.join(parts, 'ground_truth', 'chip', '01.png'));
    if (['test/good/00.png', 'test/stain/01.png'].includes(image.image)) assert.equal(file, null);
  }
  const shares = (phase) => progress.filter((now) => now.phase === phase).map(({ done }) => done);
  assert.deepEqual(
    shares('score'),
    [1, 2, 3, 4, 5, 6].map((step) => step / 6),
  );
  assert.equal(shares('metrics').at(-1), 1);
});

test('masks in 16 bits, in colour, with alpha, upright as their image; half bright is no defect', async () => {
  const raw = (data, channels, width = 12, height = 10) => sharp(data, { raw: { width, height, channels } });
  const each = (of) =>
    Uint8Array.from({ length: 120 * of.length }, (_, i) =>
      mask().data[Math.floor(i / of.length)] ? of[i % of.length] : 0,
    );
  const deep = Uint16Array.from(mask().data, (value) => (value ? 65535 : 32000));
  const root = await dataset('masks', {
    'test/good/0.png': square(50),
    ...Object.fromEntries(['deep', 'red', 'alpha', 'faint'].map((name) => [`test/${name}/0.png`, square(60, 200)])),
    'test/turned/0.jpg': raw(square(60, 200).data, 1).jpeg({ quality: 100 }).withMetadata({ orientation: 3 }),
    'ground_truth/deep/0_mask.png': raw(deep, 1).toColourspace('grey16').png(),
    'ground_truth/red/0_mask.png': raw(each([255, 0, 0]), 3).png(),
    'ground_truth/alpha/0_mask.png': raw(each([255, 255, 255, 128]), 4).png(),
    'ground_truth/faint/0_mask.png': png({ ...mask(), data: mask().data.map((value) => (value ? 128 : 127)) }),
    'ground_truth/turned/0_mask.png': raw(mask().data.toReversed(), 1).png(),
  });
  const { perDefect } = await evaluate(
    {
      ...brightness,
      score: async (file, options) => brightness.score(await sharp(file).autoOrient().png().toBuffer(), options),
    },
    root,
  );
  for (const [name, { pixelBestF1, maskedImages }] of Object.entries(perDefect)) {
    assert.equal(maskedImages, 2);
    assert.equal(pixelBestF1.f1, 1, name);
    assert.ok(pixelBestF1.threshold > 0.7, `${name}: the bright square, no more`);
  }
});

test('what is missing leaves null figures and says so', async () => {
  const find = async (name, files) => {
    const { warnings, ...found } = await evaluate(brightness, await dataset(name, files));
    return { ...found, text: warnings.join('\n') };
  };
  const noGood = await find('no-good', {
    'test/dent/0.png': square(50, 99),
    'ground_truth/dent/0_mask.png': mask(),
    'test/good': null,
  });
  assert.match(noGood.text, /test\/good has no images\nno good images in test\/good: no image figures/);
  assert.deepEqual([noGood.imageAuroc, noGood.imageAp, noGood.imageBestF1, noGood.falseAlarmRate], Array(4).fill(null));
  assert.equal(noGood.pixelAuroc, 1);

  const noBad = await find('no-bad', { 'test/good/0.png': square(50), 'ground_truth/dent': null });
  assert.match(noBad.text, /no images with defects/);
  assert.deepEqual([noBad.imageAuroc, noBad.pixelAuroc, noBad.aupro, noBad.curves.pixelRoc], Array(4).fill(null));
  assert.deepEqual([noBad.perDefect, noBad.falseAlarmRate], [{}, 0]);

  const noMasks = await find('no-masks', {
    'test/good/0.png': square(50),
    'test/dent/0.png': square(50, 99),
    'test/stray.png': square(1),
  });
  assert.match(
    noMasks.text,
    /1 image in test\/ itself left out: not in a folder\nno folder ground_truth\/: no pixel figures/,
  );
  assert.deepEqual([noMasks.imageAuroc, noMasks.pixelAuroc, noMasks.aupro, noMasks.images], [1, null, null, 2]);

  const empty = await find('empty-mask', {
    'test/good/0.png': square(50),
    'test/dent/0.png': square(50, 99),
    'ground_truth/dent/0_mask.png': mask(0),
  });
  assert.match(empty.text, /^1 mask is empty: test\/dent\/0\.png; all pixels count as good$/);
  assert.deepEqual([empty.perDefect.dent.maskedImages, empty.pixelAuroc], [2, null]);
});

test('bad datasets, masks, maps and options are refused', async () => {
  const refused = async (error, name, files, options, detector = brightness) => {
    const root = files ? await dataset(name, files) : path.join(folder, name);
    await assert.rejects(evaluate(detector, root, { temporaryFolder: spools, ...options }), error);
    assert.deepEqual(await readdir(spools), []);
  };
  await refused({ code: 'ERR_DATASET', message: /nowhere: no such folder/ }, 'nowhere');
  await refused(
    { code: 'ERR_DATASET', message: /untested: expected a folder test\/ as in the MVTec AD layout, found train$/ },
    'untested',
    { 'train/good/0.png': square(1) },
  );
  await refused({ code: 'ERR_DATASET', message: /expected images in test\/good/ }, 'bare', { 'test/good': null });
  const pair = { 'test/good/0.png': square(50), 'test/dent/0.png': square(50, 99) };
  await refused(
    { code: 'ERR_IMAGE', message: /0_mask\.png: expected 12 x 10, the size of .*0\.png, got 10 x 12$/ },
    'sizes',
    { ...pair, 'ground_truth/dent/0_mask.png': mask(4, 10, 12) },
  );
  await refused(
    { code: 'ERR_IMAGE', message: /0_mask\.png: expected a mask in black and white; its brightest value is 1 of 255/ },
    'ones',
    { ...pair, 'ground_truth/dent/0_mask.png': square(0, 1) },
  );
  const unknown = {
    ...brightness,
    score: async (...given) => {
      const result = await brightness.score(...given);
      result.map.data[13] = NaN;
      return result;
    },
  };
  await refused(
    { code: 'ERR_NUMERIC', message: /0\.png: expected finite map values, got NaN at \(1, 1\)/ },
    'nan',
    pair,
    {},
    unknown,
  );
  await refused({ code: 'ERR_OPTION', message: /memoryBytes/ }, 'parts', undefined, { memoryBytes: 1 });
  await refused({ code: 'ERR_OPTION', message: /"onImage": expected a function/ }, 'parts', undefined, { onImage: 1 });
  await refused({ code: 'ERR_OPTION', message: /did you mean "threshold"/ }, 'parts', undefined, { treshold: 1 });
  await assert.rejects(evaluate(brightness), { code: 'ERR_ARGUMENT' });
});

test('as many images are in progress as the detector works ahead, and one', async () => {
  const files = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`test/good/${i}.png`, square(50)]));
  const root = await dataset('ahead', { ...files, 'test/dent/0.png': square(50, 220) });
  for (const readAhead of [undefined, 0, 5]) {
    let [now, most] = [0, 0];
    const score = async (...given) => {
      most = Math.max(most, ++now);
      const result = await brightness.score(...given);
      now -= 1;
      return result;
    };
    await evaluate({ ...brightness, score, readAhead }, root);
    assert.equal(most, 1 + (readAhead ?? 2));
  }
});

test('images that cannot be read are skipped where that is wanted, down to a whole product', async () => {
  const files = {
    'a/test/good/0.png': square(50),
    'a/test/good/1.png': square(60),
    'a/test/dent/0.png': square(50, 220),
    'b/test/good/0.png': square(50),
    'b/test/dent/0.png': square(50, 220),
  };
  const root = await dataset('skipping', files);
  for (const name of ['a/test/good/1.png', 'b/test/good/0.png', 'b/test/dent/0.png'])
    await writeFile(path.join(root, name), 'none');
  const known = { threshold: 0.5, calibration: { quantile: 0.99 } };
  const unified = {
    ...brightness,
    config: { ...brightness.config, products: ['a', 'b'], perProduct: { a: known, b: known } },
    async score(image, options) {
      if ((await stat(image)).size > 10) return brightness.score(image, options);
      throw new DdadError('ERR_IMAGE', `${image}: not an image that can be read`);
    },
  };
  const options = { temporaryFolder: spools };
  await assert.rejects(evaluate(unified, root, options), { code: 'ERR_IMAGE', message: /1\.png: not an image/ });
  const steps = [];
  const onProgress = ({ phase, step, steps: all, done }) => phase === 'score' && steps.push([step, all, done]);
  const found = await evaluate(unified, root, { ...options, skipUnreadable: true, onProgress });
  assert.deepEqual(
    found.skipped.map(({ image, product }) => [product, image]),
    [
      ['a', 'a/test/good/1.png'],
      ['b', 'b/test/dent/0.png'],
      ['b', 'b/test/good/0.png'],
    ],
  );
  assert.deepEqual(
    [found.images, found.imageAuroc, found.perProduct.b.images, found.perProduct.b.imageAuroc],
    [2, 1, 0, null],
  );
  assert.deepEqual(steps.at(-1), [5, 5, 1]);
  assert.match(found.warnings.at(-1), /^3 of 5 test images skipped/);
  assert.deepEqual(await readdir(spools), []);
});

test('an abort, or an error of the caller, ends it and leaves nothing', async () => {
  for (const [at, error] of [
    [1, { code: 'ERR_ABORTED' }],
    [6, { code: 'ERR_ABORTED' }],
    [2, { message: 'enough' }],
  ]) {
    const controller = new AbortController();
    let count = 0;
    const onImage = () => {
      if (++count < at) return;
      if (error.code) controller.abort();
      else throw new Error('enough');
    };
    const options = { onImage, signal: controller.signal, temporaryFolder: spools, memoryBytes: 4096 };
    await assert.rejects(evaluate(brightness, parts, options), error);
    assert.equal(count, at);
    assert.deepEqual([await readdir(spools), (await openFiles(spools)) ?? 0], [[], 0]);
  }
  await rm(spools, { recursive: true });
});
