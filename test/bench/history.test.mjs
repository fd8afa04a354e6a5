import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { root, temporaryFolder } from '../helpers/common.mjs';

const load = createRequire(import.meta.url);
const { poolHistory, readHistory, sameMachine } = load(path.join(root, 'dist', 'bench', 'history.js'));
const { historyPage } = load(path.join(root, 'dist', 'bench', 'history-page.js'));
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);

function documentOf(day, more = {}) {
  const one = (suite, name, unit, value) => {
    const samples = [1, 1.25, 1.5].map((by) => by * value);
    return { suite, name, unit, median: samples[1], low: samples[0], high: samples[2], samples };
  };
  return {
    kind: 'ddad-native-bench',
    formatVersion: 1,
    date: `2026-11-0${day}T03:00:00.000Z`,
    processor: 'Some <CPU>',
    instructionSet: 'avx2',
    threads: 2,
    versions: { package: '0.1.0', node: 'v20.0.0', onednn: '3.2.0' },
    commit: `${day}`.repeat(40),
    presets: ['nano'],
    suites: ['unet', 'score'],
    rounds: 3,
    quick: true,
    confidence: 0.75,
    machine: [one('machine', 'copy', 'GB/s', 30)],
    measurements: [one('unet', 'nano pass, 1 image', 'ms', 10 + day), one('score', 'nano images', 'images/s', 9)],
    ...more,
  };
}

const lines = (documents) => documents.map((document) => `${JSON.stringify(document)}\n`).join('');

test('a history is read line by line; a line that was cut off at the end is left out', async () => {
  assert.deepEqual(await readHistory(at('nowhere.jsonl')), []);
  const history = [documentOf(1), documentOf(2)];
  await writeFile(at('history.jsonl'), `${lines(history)}{"kind":"ddad-na`);
  assert.deepEqual(await readHistory(at('history.jsonl')), history);
  await writeFile(at('broken.jsonl'), `nonsense\n${lines(history)}`);
  await assert.rejects(readHistory(at('broken.jsonl')), { code: 'ERR_BASELINE', message: /line 1 is not JSON/ });
  await writeFile(at('other.jsonl'), `${lines(history)}{"kind":1}\n`);
  await assert.rejects(readHistory(at('other.jsonl')), { code: 'ERR_BASELINE', message: /line 3: .*kind/ });
  await assert.rejects(readHistory(folder), { code: 'ERR_FILE_READ' });
});

test('the last runs of a machine become one baseline with the processes of them all', () => {
  const history = [1, 2, 3, 4].map((day) => documentOf(day));
  history[2] = documentOf(3, { threads: 1 });
  const here = sameMachine(history, history[3]);
  assert.deepEqual(
    here.map(({ date }) => date.slice(9, 10)),
    ['1', '2', '4'],
  );
  const baseline = poolHistory(here, 2);
  assert.equal(baseline.rounds, 6);
  assert.deepEqual(baseline.measurements[0].samples, [12, 15, 18, 14, 17.5, 21]);
  assert.equal(baseline.measurements[0].median, (15 + 17.5) / 2);
  assert.equal(baseline.machine[0].samples.length, 6);
  assert.equal(poolHistory([], 5), undefined);
});

test('the page draws every measurement and needs no network', async () => {
  const page = await historyPage([1, 2, 3].map((day) => documentOf(day)));
  assert.equal(page.match(/<svg/g).length, 2);
  assert.match(page, /aria-label="nano pass, 1 image: 3 runs, at last 16.3 ms"/);
  assert.match(page, /Some &lt;CPU&gt;, avx2, 2 threads; 3 runs, the last at 2026-11-03 03:00 UTC/);
  assert.match(page, /default-src 'none'/);
  assert.doesNotMatch(page, /<script|https?:\/\/(?!www\.w3\.org)|@import|url\(/);
});

test('bench/nightly/run keeps a history, draws it and compares with it', async () => {
  const nightly = (...args) => {
    const line = ['--out', at('nightly'), '--', 'unet', '--quick', '--threads', '1', ...args];
    return spawnSync(path.join(root, 'bench', 'nightly', 'run'), line, { encoding: 'utf8' });
  };
  const first = nightly('--rounds=1');
  assert.equal(first.status, 0, first.stderr);
  assert.doesNotMatch(first.stdout, /compared with/);
  // many processes that were much faster
  const [document] = await readHistory(at('nightly/history.jsonl'));
  for (const one of document.measurements) one.samples = Array.from({ length: 200 }, () => one.median / 3);
  await writeFile(at('nightly/history.jsonl'), lines([document, { ...document, threads: 9 }]));
  const second = nightly('--rounds=2');
  assert.equal(second.status, 1, second.stderr);
  assert.match(second.stderr, /SLOWER: unet nano pass, 4 images, by \d+/);
  const history = await readHistory(at('nightly/history.jsonl'));
  assert.equal(history.length, 3);
  const page = await readFile(at('nightly/history.html'), 'utf8');
  assert.match(page, /aria-label="nano pass, 1 image: 2 runs/, 'those of the other machine are not drawn');
});
