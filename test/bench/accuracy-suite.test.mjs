// How bench/accuracy/suite judges: halves, intervals, figures, the peers' answers, and a run from end to end.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { groupOf, halfNames, kindsOf, otherHalf } from '../../bench/accuracy/suite/halves.mjs';
import { imagesOf } from '../../bench/accuracy/suite/images.mjs';
import { wilson } from '../../bench/accuracy/suite/interval.mjs';
import { judge } from '../../bench/accuracy/suite/judge.mjs';
import { kindNames } from '../../bench/accuracy/suite/kinds.mjs';
import { frames } from '../../bench/accuracy/suite/peers.mjs';
import { inserted, markdown } from '../../bench/accuracy/suite/table.mjs';
import { gainsOf, verdictOf } from '../../bench/accuracy/suite/verdict.mjs';
import { tinyData } from '../helpers/accuracy.mjs';
import { png, root, temporaryFolder } from '../helpers/common.mjs';

const close = (actual, expected, tolerance = 1e-4) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `expected ${expected}, got ${actual}`);

test('every kind of defect is in one half, and both halves have their share', () => {
  assert.deepEqual([otherHalf.A, otherHalf.B], ['B', 'A']);
  const all = halfNames.flatMap(kindsOf);
  assert.equal(new Set(all).size, all.length, 'no kind is in both');
  assert.deepEqual([...all].sort(), [...kindNames, 'blowhole', 'break', 'fray'].sort());
  assert.ok(Math.abs(kindsOf('A').length - kindsOf('B').length) <= 1);
  for (const half of halfNames) {
    for (const kind of kindsOf(half)) {
      const group = kindNames.includes(kind) ? 'synthetic' : 'real';
      const folders = group === 'real' ? [kind] : ['low', 'medium', 'high'].map((contrast) => `${kind}-${contrast}`);
      for (const folder of folders) assert.deepEqual(groupOf(folder), { group, kind, half });
    }
  }
  for (const folder of ['defective', 'defect', 'defect-low']) {
    assert.deepEqual(groupOf(folder), { group: 'real', kind: folder, half: null });
  }
});

test('the interval is that of Wilson', () => {
  // As statsmodels' proportion_confint(hits, count, method="wilson").
  for (const [hits, count, low, high] of [
    [0, 10, 0, 0.277533],
    [10, 10, 0.722467, 1],
    [5, 10, 0.236593, 0.763407],
    [1, 60, 0.002947, 0.088551],
    [80, 100, 0.711169, 0.866633],
  ]) {
    const found = wilson(hits, count);
    close(found.rate, hits / count, 1e-12);
    close(found.low, low);
    close(found.high, high);
  }
  assert.equal(wilson(0, 0), null);
  assert.throws(() => wilson(3, 2), RangeError);
  assert.throws(() => wilson(-1, 2), RangeError);
  assert.throws(() => wilson(0.5, 2), RangeError);
});

/** A stream in pieces of so many bytes. */
function inPieces(bytes, size) {
  const pieces = [];
  for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.subarray(i, i + size));
  return Readable.from(pieces);
}

async function all(iterable) {
  const found = [];
  for await (const one of iterable) found.push(one);
  return found;
}

test("a peer's answers are read whatever pieces they come in", async () => {
  const values = Float32Array.from([1.5, -2, 10, 4, 5, 1e-8]);
  const map = { width: 3, height: 2 };
  const line = (object) => Buffer.from(`${JSON.stringify(object)}\n`);
  const image = (name) => Buffer.concat([line({ image: name, ...map }), Buffer.from(values.buffer)]);
  const bytes = Buffer.concat([line({ fitSeconds: 2 }), image('ä.png'), image('b.png')]);
  for (const size of [1, 2, 3, 7, 40, bytes.length]) {
    const found = await all(frames(inPieces(bytes, size)));
    assert.deepEqual(found, [
      { fitSeconds: 2 },
      { image: 'ä.png', map: { ...map, data: values } },
      { image: 'b.png', map: { ...map, data: values } },
    ]);
  }
  assert.deepEqual(await all(frames(inPieces(Buffer.alloc(0), 1))), []);
  await assert.rejects(all(frames(inPieces(bytes.subarray(0, -1), 16))), /ended within a map, 23 of 24 bytes/);
  await assert.rejects(all(frames(inPieces(bytes.subarray(0, 5), 2))), /ended within a line, after 5 bytes/);
});

/** Images in both halves and in none, with masks of the upper half; two each. */
async function judged(scoreOf, options = {}) {
  const folder = await temporaryFolder();
  const [width, height] = [16, 8];
  const upper = new Uint8Array(width * height).fill(255, 0, (width * height) / 2);
  const mask = path.join(folder, 'mask.png');
  await mkdir(folder, { recursive: true });
  await png({ data: upper, width, height, channels: 1 }).toFile(mask);
  const folders = ['good', 'stain-low', 'stain-high', 'crack-low', 'defect'];
  const test = folders.flatMap((defect) =>
    [0, 1].map((i) => {
      const input = `${defect}/${i}`;
      if (defect === 'good') return { defect, input, image: input, mask: null };
      return { ...groupOf(defect), defect, input, image: input, mask: defect === 'defect' ? null : mask };
    }),
  );
  const heldBack = Array.from({ length: 5 }, (_, i) => `held/${i}`);
  const seen = [];
  async function* score(files) {
    for (const file of files) {
      seen.push(file);
      const found = scoreOf(file);
      // Maps that find what is masked, but for the crack, which is found upside down.
      const data = new Float32Array(width * height).fill(1, file.startsWith('crack') ? (width * height) / 2 : 0);
      if (!file.startsWith('crack')) data.fill(0, (width * height) / 2);
      if (file.startsWith('good') || file.startsWith('held')) data.fill(0);
      yield { scores: { one: found, other: -found }, seconds: 0.002, map: { data, width, height, ...options.map } };
    }
  }
  const rows = [
    { row: 'first', score: 'one' },
    { row: 'second', score: 'other' },
  ];
  const result = await judge({ images: { test, heldBack }, score, rows, ...options });
  return { ...result, seen };
}

const levels = { good: 1, 'stain-low': 0, 'stain-high': 3, 'crack-low': 2, defect: 5, held: 1.5 };
const levelOf = (file) => levels[file.split('/')[0]] + 0.1 * Number(file.split('/')[1]);

test('figures are of each half by itself, and thresholds of good images that were held back', async () => {
  const { rows, goodImages, heldBackImages, msPerImage, seen } = await judged(levelOf);
  assert.deepEqual(seen.slice(0, 5), ['held/0', 'held/1', 'held/2', 'held/3', 'held/4']);
  assert.deepEqual([goodImages, heldBackImages], [2, 5]);
  close(msPerImage, 2);
  const [first, second] = rows;
  const { 'synthetic/A': a, 'synthetic/B': b, 'real/all': real } = first.groups;
  // Half A: of four stains two are below all good images and two above.
  assert.deepEqual([a.images, a.imageAuroc, b.images, b.imageAuroc, real.images], [4, 0.5, 2, 1, 2]);
  assert.deepEqual([a.pixelAuroc, a.aupro], [1, 1]);
  assert.ok(b.pixelAuroc < 0.5);
  assert.equal(real.pixelAuroc, null);
  // The quantile 0.99 of 1.5, 1.6, 1.7, 1.8, 1.9.
  close(first.threshold, 1.896, 1e-9);
  assert.equal(first.shipped, false);
  assert.deepEqual([a.recall.hits, a.recall.count, b.recall.hits], [2, 4, 2]);
  close(a.recall.low, wilson(2, 4).low, 1e-12);
  assert.deepEqual([first.falseAlarms.hits, first.falseAlarms.count], [0, 2]);
  assert.deepEqual([first.folders['stain-low'].imageAuroc, first.folders['stain-high'].imageAuroc], [0, 1]);
  // The other score has the same maps and is judged by itself.
  assert.deepEqual(
    [second.groups['synthetic/B'].imageAuroc, second.groups['synthetic/B'].pixelAuroc],
    [0, b.pixelAuroc],
  );
  close(second.threshold, -1.504, 1e-9);
});

test('a threshold that is shipped is taken, and nothing held back is scored for it', async () => {
  const { rows, seen } = await judged(levelOf, { threshold: 1.05 });
  assert.equal(seen[0], 'good/0');
  assert.deepEqual([rows[0].threshold, rows[0].shipped, rows[0].falseAlarms.hits], [1.05, true, 1]);
});

test('a half is the mean over its kinds', async () => {
  const { rows } = await judged(levelOf);
  const { kinds, groups } = rows[0];
  assert.deepEqual(Object.keys(kinds), ['stain', 'crack', 'defect']);
  assert.deepEqual([kinds.stain.half, kinds.crack.half, kinds.defect.half], ['A', 'B', null]);
  assert.equal(groups['synthetic/A'].imageAuroc, kinds.stain.imageAuroc);
});

test('a method that leaves images out or maps of another size are refused', async () => {
  await assert.rejects(judged(levelOf, { map: { width: 8, height: 16 } }), /mask\.png: expected 8 x 16/);
  const short = { test: [{ defect: 'good', input: 'x', image: 'x', mask: null }], heldBack: [] };
  const none = async function* () {};
  await assert.rejects(
    judge({ images: short, score: none, rows: [], threshold: 1 }),
    /expected 1 scored images, got 0/,
  );
});

/** Results of a run: the image AUROC of both halves by set and method. */
function resultsOf(sets) {
  return Object.entries(sets).flatMap(([set, methods]) =>
    Object.entries(methods).map(([candidate, [a, b]]) => {
      const none = candidate === 'defaults';
      const row = none ? 'ours' : `${candidate}/ours`;
      const figures = (imageAuroc) => ({
        ...{ images: 4, imageAuroc, pixelAuroc: null, aupro: 0.5 },
        recall: { hits: 2, count: 4, ...wilson(2, 4) },
      });
      const groups = { 'synthetic/A': figures(a), 'synthetic/B': figures(b) };
      const falseAlarms = { hits: 0, count: 60, ...wilson(0, 60) };
      const rows = [{ row, threshold: 1, shipped: true, falseAlarms, groups, kinds: {}, folders: {} }];
      const titles = { [row]: none ? 'ours' : `ours (${candidate})` };
      return { set, candidate: none ? null : candidate, titles, rows, msPerImage: 12.3, goodImages: 60 };
    }),
  );
}

test('a candidate has to gain on the half that did not choose it, on two sets', () => {
  const defaults = [0.8, 0.8];
  const results = resultsOf({
    tiles: { defaults, both: [0.9, 0.9], once: [0.9, 0.9], tuned: [0.95, 0.7] },
    cells: { defaults, both: [0.85, 0.85], once: [0.9, 0.7], tuned: [0.95, 0.7] },
    boards: { defaults, both: [0.7, 0.7], once: [0.9, 0.7], tuned: [0.95, 0.7] },
  });
  const accepted = (name) => verdictOf(gainsOf(results, name)).accepted;
  assert.equal(accepted('both'), true);
  assert.equal(accepted('once'), false, 'gains on half B on one set only');
  assert.equal(accepted('tuned'), false, 'what half A chooses is worse on half B');
  assert.equal(accepted('unknown'), false);
  const { halves } = verdictOf(gainsOf(results, 'tuned'));
  assert.deepEqual(halves[0], { half: 'A', chosen: true, leftOut: 'B', gaining: [] });
  assert.deepEqual(halves[1].chosen, false);
});

test('the table has a row a method, both halves, and the verdict', () => {
  const results = resultsOf({ tiles: { defaults: [0.8, 0.75], better: [0.9, 0.85] } });
  const machine = { cpu: 'a processor', cores: 2 };
  const failed = [{ set: 'cells', method: 'padim', error: 'no Python' }];
  const text = markdown({ short: true, seed: 1, limit: { steps: 60 }, machine, results, failed });
  assert.match(text, /\| tiles +\| synthetic +\| ours +\| 0\.800 \/ 0\.750 +\| - \/ - +\| 0\.500 \/ 0\.500/);
  assert.match(text, /\| 0 % of 60 \(0-6\) +\| 12 +\|/);
  assert.match(text, /ours \(better\)/);
  assert.match(text, /\| better +\| A +\| yes +\| tiles 0\.100 +\| 1 +\| no +\|/);
  assert.match(text, /cells, padim: failed: no Python/);

  const page = 'before\n<!-- begin short run -->\nold\n<!-- end short run -->\nafter\n';
  const filled = inserted(page, text, { short: true });
  assert.ok(filled.startsWith('before\n<!-- begin short run -->\n\nTraining: 60 steps'));
  assert.ok(filled.endsWith('<!-- end short run -->\nafter\n') && !filled.includes('old'));
  assert.equal(inserted(filled, text, { short: true }), filled);
  assert.throws(() => inserted(page, text, { short: false }), /expected the marks <!-- begin whole run -->/);
});

test('a short run takes some of each folder, spread over it', async () => {
  const data = await tinyData(await temporaryFolder(), { train: 20, good: 6 });
  const set = path.join(data, 'pcb');
  const most = { train: 10, good: 3, real: 5, synthetic: 1 };
  const some = await imagesOf(set, { seed: 1, most });
  assert.deepEqual([some.all.length, some.train.length, some.heldBack.length], [10, 9, 1]);
  assert.equal(some.test.filter(({ defect }) => defect === 'good').length, 3);
  assert.deepEqual(some.test.at(0).group, 'real');
  const every = await imagesOf(set, { seed: 1 });
  assert.deepEqual([every.all.length, every.heldBack.length, every.test.length], [20, 2, 7]);
});

const script = path.join(root, 'bench', 'accuracy', 'suite', 'run.mjs');

function accuracy(...args) {
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => (output[name] += text));
  }
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, ...output })));
}

test('a run makes the data, trains, judges, and goes on where it was', async () => {
  const folder = await temporaryFolder();
  const data = await tinyData(path.join(folder, 'data'));
  const json = path.join(folder, 'report.json');
  const places = ['--data', data, '--work', path.join(folder, 'work'), '--json', json];
  const run = (...more) => accuracy('--short', '--sets', 'boards', '--steps', '2', ...places, ...more);

  const first = await run('--methods', 'ours,ours-pixel', '--candidate', 'plain={"memoryBank":null,"alpha":0.5}');
  assert.equal(first.code, 0, first.stderr);
  const { results, failed } = JSON.parse(await readFile(json, 'utf8'));
  assert.deepEqual(failed, []);
  assert.deepEqual(
    results.map(({ method }) => method),
    ['ours', 'plain-ours', 'ours-pixel', 'plain-ours-pixel'],
  );
  for (const { rows } of results) {
    assert.deepEqual(Object.keys(rows[0].groups).sort(), ['real/all', 'synthetic/A', 'synthetic/B']);
    for (const { imageAuroc, pixelAuroc, aupro } of Object.values(rows[0].groups)) {
      for (const figure of [imageAuroc, pixelAuroc, aupro]) assert.ok(figure >= 0 && figure <= 1, `${figure}`);
    }
  }
  assert.equal(results[0].rows[0].shipped, true, "ours is judged at the model's own threshold");
  assert.equal(results[2].rows[0].shipped, false, 'the model has no threshold for a score alone');
  assert.match(await readFile(path.join(folder, 'report.md'), 'utf8'), /\| boards +\| synthetic +\| ours +\|/);

  const again = await run('--methods', 'ours');
  assert.match(again.stderr, /boards, ours: from an earlier run/);
  assert.deepEqual(JSON.parse(await readFile(json, 'utf8')).results, [results[0]]);
  const longer = await run('--methods', 'ours', '--steps', '3');
  assert.equal(longer.code, 0, longer.stderr);
  assert.doesNotMatch(longer.stderr, /from an earlier run/);

  // A method that cannot run is told, and the others' figures stay.
  const broken = await run('--methods', 'ours,padim', '--python', data);
  assert.equal(broken.code, 1);
  const report = JSON.parse(await readFile(json, 'utf8'));
  assert.deepEqual([report.results.length, report.failed.length], [1, 1]);
  assert.match(report.failed[0].error, /neither empty nor a Python virtual environment/);
});

test('the command line of a run is checked', async () => {
  for (const [args, message] of [
    [[], /--json: expected a file/],
    [['--json', 'x.json', '--sets', 'tiles,plates'], /--sets: expected some of tiles, .*, got "plates"/],
    [['--json', 'x.json', '--methods', 'best'], /--methods: expected some of ours, .*, got "best"/],
    [['--json', 'x.json', '--steps', 'many'], /--steps: expected a whole number, got many/],
    [['--json', 'x.json', '--candidate', 'a={'], /--candidate: expected NAME=/],
    [['--jsn'], /Unknown option/],
  ]) {
    const { code, stderr } = await accuracy(...args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
  const { code, stdout } = await accuracy('--help');
  assert.equal(code, 0);
  assert.match(stdout, /--short/);
});
