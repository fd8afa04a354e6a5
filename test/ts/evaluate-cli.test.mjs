import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { Trainer } from '../../dist/index.js';
import { makeDataset, pattern, png, run, start, temporaryFolder, trainTiny, until } from './helpers.mjs';

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
  const [head, bad, all, , ...rest] = stdout.trimEnd().split('\n');
  assert.match(head, /^defect +images +image AUROC +AP +best F1 +pixel AUROC +AP +best F1 +AUPRO 0\.3 +AUPRO 0\.05$/);
  assert.match(bad, /^bad {5,}1( +[01]\.\d{4}){8}$/);
  assert.equal(all.replace(/^all/, 'bad'), bad, 'there is one defect');
  assert.match(rest[0], /^each against 3 good images; - where/);
  assert.match(
    rest[1],
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
    [['evaluate', model, parts, '--treshold', '1'], 2, /unknown option "--treshold"; did you mean "threshold"\?/],
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

test('a damaged image ends it and leaves nothing half-written', async () => {
  const broken = await makeDataset(at('broken'), 1);
  await writeFile(path.join(broken, 'test', 'bad', '99.png'), 'not an image');
  const out = at('broken-out');
  const { code, stdout, stderr } = await run(['evaluate', model, broken, '--out', out, '--threads', '1']);
  assert.equal(code, 1);
  assert.match(stderr, /^ddad-native: ERR_IMAGE: .*99\.png: not an image/);
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
