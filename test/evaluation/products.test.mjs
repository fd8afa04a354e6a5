// Datasets of several products: evaluate() with a detector that takes brightness for its map, and the command line.
import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import { evaluate, Trainer } from '../../dist/index.js';
import { makeProducts, openFiles, png, run, temporaryFolder, tinyFlags, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);

const parts = await makeProducts(at('parts'), { bottle: 4, screw: 3 });
const model = at('model.safetensors');
const trained = await trainTiny({ Trainer }, parts, model, { mode: 'resize' });
const bad = path.join(parts, 'screw', 'test', 'bad', '00.png');

/** Knows two products, with a threshold each; says what it was asked. */
function brightness() {
  const perProduct = {
    bottle: { threshold: 0.5, calibration: { quantile: 0.99 } },
    screw: { threshold: 0.2, calibration: { quantile: 0.99 } },
  };
  const asked = [];
  return {
    asked,
    threshold: null,
    config: { threshold: null, calibration: null, products: Object.keys(perProduct), perProduct },
    async score(image, { product, threshold = perProduct[product].threshold }) {
      asked.push([path.relative(folder, image).split(path.sep).join('/'), product]);
      const { data, info } = await sharp(image).toColourspace('b-w').raw().toBuffer({ resolveWithObject: true });
      const map = Float32Array.from(data, (value) => value / 255);
      const score = map.reduce((most, value) => Math.max(most, value), 0);
      const anomalous = threshold === null ? null : score > threshold;
      return { image, score, threshold, anomalous, map: { data: map, width: info.width, height: info.height } };
    },
  };
}

async function flat(gray, ...to) {
  await mkdir(path.dirname(at(path.join(...to))), { recursive: true });
  const data = new Uint8Array(64).fill(gray);
  data[0] = Math.min(255, gray + 20);
  await png({ data, width: 8, height: 8, channels: 1 }).toFile(at(path.join(...to)));
}

// What is good for a bottle is a defect on a screw: figures over both together would be bad.
for (const [product, good, bad] of [
  ['bottle', 100, 200],
  ['screw', 20, 90],
]) {
  await flat(good, 'set', product, 'test', 'good', '0.png');
  await flat(good + 1, 'set', product, 'test', 'good', '1.png');
  await flat(bad, 'set', product, 'test', 'chip', '0.png');
}
await flat(5, 'set', 'screw', 'test', 'dull', '0.png');
const set = at('set');

test('each product is scored by its name and judged by its threshold', async () => {
  const detector = brightness();
  const evaluation = await evaluate(detector, set);
  assert.deepEqual(detector.asked, [
    ['set/bottle/test/chip/0.png', 'bottle'],
    ['set/bottle/test/good/0.png', 'bottle'],
    ['set/bottle/test/good/1.png', 'bottle'],
    ['set/screw/test/chip/0.png', 'screw'],
    ['set/screw/test/dull/0.png', 'screw'],
    ['set/screw/test/good/0.png', 'screw'],
    ['set/screw/test/good/1.png', 'screw'],
  ]);
  assert.deepEqual(
    evaluation.scores.map(({ image, product, threshold, outcome }) => [image, product, threshold, outcome]),
    [
      ['bottle/test/chip/0.png', 'bottle', 0.5, 'caught'],
      ['bottle/test/good/0.png', 'bottle', 0.5, 'passed'],
      ['bottle/test/good/1.png', 'bottle', 0.5, 'passed'],
      ['screw/test/chip/0.png', 'screw', 0.2, 'caught'],
      ['screw/test/dull/0.png', 'screw', 0.2, 'missed'],
      ['screw/test/good/0.png', 'screw', 0.2, 'passed'],
      ['screw/test/good/1.png', 'screw', 0.2, 'passed'],
    ],
  );
});

test('figures are those of each product, and their means', async () => {
  const { perProduct, perDefect, curves, warnings, ...of } = await evaluate(brightness(), set);
  assert.deepEqual(Object.keys(perProduct), ['bottle', 'screw']);
  const { bottle, screw } = perProduct;
  assert.deepEqual([bottle.imageAuroc, screw.imageAuroc, of.imageAuroc], [1, 0.5, 0.75]);
  assert.deepEqual([bottle.images, screw.images, of.images], [3, 4, 7]);
  assert.deepEqual([bottle.threshold, screw.threshold, of.threshold], [0.5, 0.2, null]);
  assert.deepEqual([bottle.falseAlarmRate, of.falseAlarmRate, of.expectedFalseAlarmRate], [0, 0, 0.01]);
  assert.deepEqual([of.imageBestF1, of.pixelBestF1, curves.imageRoc], [null, null, null]);
  assert.equal(bottle.imageBestF1.f1, 1);
  assert.ok(bottle.curves.imageRoc.x.length > 1);
  assert.deepEqual(Object.keys(perDefect), ['bottle/chip', 'screw/chip', 'screw/dull']);
  assert.deepEqual([perDefect['screw/chip'].imageAuroc, perDefect['screw/dull'].imageAuroc], [1, 0]);
  assert.equal(perDefect['screw/dull'].images, 3, 'against the good images of its own product');
  assert.ok(warnings.includes('screw: no folder ground_truth/: no pixel figures'));
});

test('a threshold may be given for all; progress goes on over all products', async () => {
  const progress = [];
  const strict = await evaluate(brightness(), set, { threshold: 0.1, onProgress: (now) => progress.push(now) });
  assert.deepEqual([strict.perProduct.bottle.threshold, strict.perProduct.screw.threshold], [0.1, 0.1]);
  assert.deepEqual([strict.falseAlarmRate, strict.expectedFalseAlarmRate], [1, null]);
  const none = await evaluate(brightness(), set, { threshold: null });
  assert.deepEqual([none.falseAlarmRate, none.perProduct.screw.falseAlarmRate], [null, null]);
  const scoring = progress.filter(({ phase }) => phase === 'score');
  assert.deepEqual(
    scoring.map(({ step, steps }) => [step, steps]),
    Array.from({ length: 7 }, (_, i) => [i + 1, 7]),
  );
  assert.ok(
    progress.findIndex(({ phase }) => phase === 'metrics') >= 7,
    'figures are told when everything has been scored',
  );
  assert.deepEqual([progress.at(-1).phase, progress.at(-1).done], ['metrics', 1]);
});

test('pixels that go to a file are removed for every product', async () => {
  const masked = await makeProducts(at('masked'), { bottle: 1, screw: 1 });
  const temporary = at('spools');
  await mkdir(temporary);
  const { perProduct, pixelAuroc } = await evaluate(brightness(), masked, {
    memoryBytes: 4096,
    temporaryFolder: temporary,
  });
  const [a, b] = [perProduct.bottle.pixelAuroc, perProduct.screw.pixelAuroc];
  assert.ok(a > 0.5 && b > 0.5 && Math.abs(pixelAuroc - (a + b) / 2) < 1e-12);
  assert.ok(!(await openFiles(temporary)));
});

test('what does not fit is refused before anything is scored', async () => {
  const single = { ...brightness(), config: { unet: { numClasses: null }, threshold: 0.5, calibration: null } };
  const detector = brightness();
  await flat(9, 'strange', 'nut', 'test', 'good', '0.png');
  for (const [used, dataset, options, code, message] of [
    [
      single,
      set,
      {},
      'ERR_DATASET',
      /model of a single product; found folders of products \(bottle, screw\): name one/,
    ],
    [single, path.join(set, 'bottle'), { product: 'bottle' }, 'ERR_OPTION', /single product/],
    [detector, path.join(set, 'bottle'), {}, 'ERR_OPTION', /"product": expected one of .*"bottle", "screw", got none/],
    [detector, set, { product: 'bottle' }, 'ERR_OPTION', /the folders of the dataset name the products/],
    [detector, at('strange'), {}, 'ERR_OPTION', /expected one of .*"bottle", "screw", got "nut"/],
  ]) {
    await assert.rejects(evaluate(used, dataset, options), { code, message });
  }
  assert.deepEqual([detector.asked, single.asked], [[], []]);
});

test('a dataset of one product can be evaluated by a unified model', async () => {
  const detector = brightness();
  const evaluation = await evaluate(detector, path.join(set, 'screw'), { product: 'screw' });
  assert.ok(detector.asked.every(([, product]) => product === 'screw'));
  assert.deepEqual([evaluation.perProduct, evaluation.threshold], [undefined, 0.2]);
  assert.deepEqual([evaluation.expectedFalseAlarmRate, evaluation.imageAuroc], [0.01, 0.5]);
  assert.ok(evaluation.scores.every(({ image, product }) => product === 'screw' && image.startsWith('test/')));
});

test('train says the products and their thresholds', async () => {
  const args = ['train', parts, ...tinyFlags, '--steps', '2'];
  const { code, stdout, stderr } = await run([...args, '--out', at('cli.safetensors'), '--json']);
  assert.equal(code, 0, stderr);
  const { products, threshold, calibrationImages } = JSON.parse(stdout);
  assert.deepEqual([threshold, calibrationImages], [null, 2]);
  assert.deepEqual(
    products.map(({ product, threshold: own }) => [product, Number.isFinite(own)]),
    [
      ['bottle', true],
      ['screw', true],
    ],
  );
  const spoken = await run([...args, '--out', at('cli.safetensors')]);
  assert.match(spoken.stdout, /, 2 products\n {2}bottle: threshold \S+ \(1 image held back\)\n {2}screw: threshold /);
  const lone = await makeProducts(at('lone'), { bottle: 1 });
  const refused = await run(['train', lone, '--out', at('x.safetensors')]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /ERR_DATASET: .*lone.bottle has train.good: name that folder/);
});

test('score --product judges by that product; without it, or with another, it is a usage error', async () => {
  const { code, stdout, stderr } = await run(['score', model, bad, '--json', '--product', 'screw', '--threads', '1']);
  assert.equal(code, 0, stderr);
  assert.equal(JSON.parse(stdout).threshold, trained.perProduct.screw.threshold);
  for (const [more, message] of [
    [[], /ERR_OPTION: --product: expected one of .*"bottle", "screw", got none/],
    [['--product', 'scrw'], /"bottle", "screw", got "scrw"; did you mean "screw"\?/],
    [['--prodct', 'screw'], /unknown option "--prodct"; did you mean "--product"\?/],
  ]) {
    const refused = await run(['score', model, bad, ...more]);
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, message);
    assert.equal(refused.stdout, '');
  }
  const anomaly = await run(['score', model, bad, '--product', 'screw', '--threshold', '-1e9', '--fail-on-anomaly']);
  assert.equal(anomaly.code, 3);
});

test('info lists the products', async () => {
  const { stdout } = await run(['info', model]);
  assert.match(stdout, /^products: bottle, screw$/m);
  assert.deepEqual(JSON.parse((await run(['info', model, '--json'])).stdout).products, ['bottle', 'screw']);
});

test('evaluate prints a line a product, and the report has them', async () => {
  const out = at('out');
  const { code, stdout, stderr } = await run(['evaluate', model, parts, '--out', out, '--threads', '1']);
  assert.equal(code, 0, stderr);
  const [, head, bottle, screw, mean, , ...rest] = stdout.trimEnd().split('\n');
  assert.match(head, /^product +images +AUROC/);
  assert.match(bottle, /^bottle {2,}1( +[01]\.\d{4}){8}$/);
  assert.match(screw, /^screw {2,}1( +[01]\.\d{4}){8}$/);
  assert.match(mean, /^mean {2,}2 +[01]\.\d{4} +[01]\.\d{4} +-/);
  assert.match(rest[0], /^each against its own good images/);
  assert.match(rest[2], /^bottle: above the threshold -?\d\S*: [01] of 1 image with defects/);
  assert.match(rest[3], /^screw: above the threshold/);
  const metrics = JSON.parse(await readFile(path.join(out, 'metrics.json'), 'utf8'));
  assert.equal(metrics.perProduct.screw.threshold, trained.perProduct.screw.threshold);
  assert.equal(metrics.scores.length, 4);
  const report = await readFile(path.join(out, 'report.html'), 'utf8');
  for (const text of [
    'Image scores of bottle',
    'Image scores of screw',
    'screw/bad',
    'mean of 2 products',
    'one a product',
    'all good images of its product',
  ]) {
    assert.ok(report.includes(text), text);
  }
  assert.ok(!report.includes('No chart'));
  const one = await run([
    'evaluate',
    model,
    path.join(parts, 'screw'),
    '--product',
    'screw',
    '--json',
    '--threads',
    '1',
  ]);
  assert.equal(one.code, 0, one.stderr);
  const { perProduct, threshold } = JSON.parse(one.stdout);
  assert.deepEqual([perProduct, threshold], [undefined, metrics.perProduct.screw.threshold]);
});

test('a detector that is loaded with a threshold keeps it for every product', async () => {
  const { code, stdout } = await run(['evaluate', model, parts, '--json', '--threshold', '-1e9', '--threads', '1']);
  assert.equal(code, 0);
  const { perProduct } = JSON.parse(stdout);
  assert.deepEqual([perProduct.bottle.threshold, perProduct.screw.falseAlarmRate], [-1e9, 1]);
});
