import assert from 'node:assert/strict';
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { Trainer } from '../../dist/index.js';
import { makeDataset, pattern, png, run, start, temporaryFolder, trainTiny, until } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const model = at('model.safetensors');
const [width, height] = [72, 66];
const parts = await makeDataset(at('parts'), 6, width, height);
for (const name of ['test/good', 'ground_truth/bad']) await mkdir(path.join(parts, name), { recursive: true });
for (let i = 0; i < 3; i++)
  await png(pattern(width, height, 20 + i)).toFile(path.join(parts, 'test', 'good', `${i}.png`));
const truth = { ...pattern(width, height, 0, true) };
truth.data = truth.data.map((value) => (value === 250 ? 255 : 0));
await png(truth).toFile(path.join(parts, 'ground_truth', 'bad', '00_mask.png'));
await trainTiny({ Trainer }, parts, model);
const evaluate = (...more) => run(['evaluate', model, parts, '--threads', '1', ...more]);

test('evaluate prints a table a person can read', async () => {
  const { code, stdout, stderr } = await evaluate();
  assert.equal(code, 0, stderr);
  const [groups, head, bad, all, , ...rest] = stdout.trimEnd().split('\n');
  assert.match(groups, /^ +image +pixel$/);
  assert.match(head, /^defect +images +AUROC +AP +F1 +AUROC +AP +F1 +AUPRO +at \.05$/);
  assert.equal(groups.indexOf('image') + 5, head.indexOf('AUROC') + 5, 'each group stands above its first figure');
  assert.ok(
    [groups, head, bad, all, ...rest.slice(0, 2)].every((line) => line.length <= 80),
    'a terminal of 80 columns',
  );
  assert.match(bad, /^bad {5,}1( +[01]\.\d{4}){8}$/);
  assert.equal(all.replace(/^all/, 'bad'), bad, 'there is one defect');
  assert.match(rest[0], /^each against 3 good images; - where/);
  assert.match(
    rest[2],
    /^above the threshold -?\d\S*: [01] of 1 image with defects, \d of 3 good ones \(\d+\.\d %, calibration expected 1\.0 %\)$/,
  );
  assert.match(stderr, /^memory: /m);
});

test('evaluate --out writes metrics.json and report.html, and --json prints the same figures', async () => {
  const out = path.join(at('made'), 'below');
  const { code, stdout, stderr } = await evaluate('--json', '--out', out, '--threshold', '-1e9', '--limit-report', '2');
  assert.equal(code, 0, stderr);
  assert.deepEqual((await readdir(out)).sort(), ['metrics.json', 'report.html']);
  const evaluation = JSON.parse(stdout);
  const text = await readFile(path.join(out, 'metrics.json'), 'utf8');
  assert.deepEqual(JSON.parse(text), evaluation);
  assert.ok(text.split('\n').length < 200, 'a curve is a line');
  assert.deepEqual([evaluation.model, evaluation.dataset, evaluation.threshold], [model, parts, -1e9]);
  assert.deepEqual([evaluation.falseAlarmRate, evaluation.expectedFalseAlarmRate], [1, null]);
  assert.equal(evaluation.scores.length, 4);
  const { pixelAuroc, aupro } = evaluation.perDefect.bad;
  assert.ok(pixelAuroc >= 0 && pixelAuroc <= 1 && aupro >= 0 && aupro <= 1);
  const report = await readFile(path.join(out, 'report.html'), 'utf8');
  assert.match(report, /<html/);
  const shown = ['0.png', '1.png', '2.png'].map((name) => report.includes(`test/good/${name}`));
  assert.deepEqual(shown, [true, true, false]);
});

test('failures are one line with a code, and write nothing', async () => {
  const out = at('never');
  await mkdir(at('plain'));
  await writeFile(at('file'), 'x');
  for (const [args, status, message] of [
    [['evaluate', model], 2, /ERR_USAGE: expected "ddad-native evaluate <model> <dataset>"/],
    [['evaluate', model, parts, '--treshold', '1'], 2, /unknown option "--treshold"; did you mean "--threshold"\?/],
    [['evaluate', model, parts, '--limit-report', '1.5'], 2, /--limit-report: expected a number of images, got "1.5"/],
    [['evaluate', model, at('plain'), '--out', out], 1, /ERR_DATASET: .*plain: expected a folder test\//],
    [['evaluate', model, at('nowhere'), '--out', out], 1, /ERR_DATASET: .*nowhere: no such folder/],
    [['evaluate', at('nowhere'), parts, '--out', out], 1, /ERR_FILE_READ/],
    [['evaluate', model, parts, '--out', path.join(at('file'), 'x')], 1, /ERR_FILE_WRITE/],
  ]) {
    const { code, stdout, stderr } = await run(args);
    assert.equal(code, status, stderr);
    assert.match(stderr, message);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    assert.equal(stdout, '');
  }
  assert.deepEqual(await readdir(out), []);
});

test('what cannot be read is named, skipped and counted; the others are measured, and the status is 1', async () => {
  const broken = at('broken');
  await cp(parts, broken, { recursive: true });
  await writeFile(path.join(broken, 'test', 'bad', '99.png'), 'not an image');
  await writeFile(path.join(broken, 'test', 'good', '1.png'), '');
  const whole = path.join(broken, 'test', 'bad', '00.png');
  await cp(whole, path.join(broken, 'test', 'bad', '01.png'));
  await png(pattern(20, 20)).toFile(path.join(broken, 'ground_truth', 'bad', '01_mask.png'));
  const out = at('broken-out');
  const { code, stdout, stderr } = await run(['evaluate', model, broken, '--out', out, '--threads', '1', '--json']);
  assert.equal(code, 1);
  assert.match(stderr, /^ddad-native: ERR_IMAGE: .*99\.png: not an image that can be read$/m);
  assert.match(stderr, /^ddad-native: ERR_IMAGE: .*1\.png: expected an image, got an empty file$/m);
  assert.match(stderr, /^ddad-native: ERR_IMAGE: .*01_mask\.png: expected 72 x 66, the size of .*, got 20 x 20$/m);
  const warning =
    /^warning: 3 of 6 test images skipped, since they cannot be read: test\/bad\/01\.png, test\/bad\/99\.png, test/m;
  assert.match(stderr, warning);
  const found = JSON.parse(stdout);
  assert.deepEqual(
    found.skipped.map(({ image, product, defect, error }) => [image, product, defect, error.code]),
    [
      ['test/bad/01.png', null, 'bad', 'ERR_IMAGE'],
      ['test/bad/99.png', null, 'bad', 'ERR_IMAGE'],
      ['test/good/1.png', null, 'good', 'ERR_IMAGE'],
    ],
  );
  assert.deepEqual(
    found.scores.map(({ image }) => image),
    ['test/bad/00.png', 'test/good/0.png', 'test/good/2.png'],
  );
  assert.deepEqual(JSON.parse(await readFile(path.join(out, 'metrics.json'), 'utf8')), found);
  assert.match(await readFile(path.join(out, 'report.html'), 'utf8'), /2 good, 1 with defects; [^<]*; 3 skipped/);
  // the figures are those of a dataset without them
  for (const name of ['bad/01.png', 'bad/99.png', 'good/1.png']) await rm(path.join(broken, 'test', name));
  const clean = await run(['evaluate', model, broken, '--threads', '1', '--json']);
  assert.equal(clean.code, 0, clean.stderr);
  const { skipped, warnings, ...figures } = JSON.parse(clean.stdout);
  assert.deepEqual(skipped, []);
  assert.deepEqual({ ...found, skipped, warnings }, { ...figures, skipped, warnings });
});

test('where nothing can be read nothing is written', async () => {
  const broken = at('unreadable');
  await mkdir(path.join(broken, 'test', 'good'), { recursive: true });
  await writeFile(path.join(broken, 'test', 'good', '0.png'), 'not an image');
  const out = at('unreadable-out');
  const { code, stdout, stderr } = await run(['evaluate', model, broken, '--out', out, '--threads', '1']);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^ddad-native: ERR_DATASET: .*unreadable: none of the test images \(1\) can be read: .*0\.png: /,
  );
  assert.equal(stdout, '');
  assert.deepEqual(await readdir(out), []);
});

test('Ctrl-C ends it with 130, and leaves what was there', async () => {
  const many = at('many');
  await mkdir(path.join(many, 'test', 'good'), { recursive: true });
  await png(pattern(700, 700)).toFile(path.join(many, 'test', 'good', '000.png'));
  const bytes = await readFile(path.join(many, 'test', 'good', '000.png'));
  for (let i = 1; i < 400; i++)
    await writeFile(path.join(many, 'test', 'good', `${String(i).padStart(3, '0')}.png`), bytes);
  const out = at('interrupted');
  await mkdir(out);
  await writeFile(path.join(out, 'metrics.json'), 'of an earlier run');
  const { child, finished } = start(['evaluate', model, many, '--out', out, '--threads', '1', '--force']);
  await until(async () => (await readdir(out)).length > 1);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const begun = performance.now();
  child.kill('SIGINT');
  const { code, stdout, stderr } = await finished;
  assert.equal(code, 130, stderr);
  assert.ok(performance.now() - begun < 3000, `took ${performance.now() - begun} ms`);
  assert.equal(stdout, '');
  assert.deepEqual(await readdir(out), ['metrics.json']);
  assert.equal(await readFile(path.join(out, 'metrics.json'), 'utf8'), 'of an earlier run');
});
