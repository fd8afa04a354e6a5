// The soak and the randomised ends in short; by hand for hours: npm run soak -- --minutes 60.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { root, temporaryFolder } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const run = promisify(execFile);
const script = (name) => path.join(root, 'test', 'soak', name);

test('mixed load: every answer comes, once, and is right', async () => {
  const report = path.join(folder, 'soak.json');
  // Other tests share the machine and the run is short: no bounds on time and memory here.
  const loose = ['--max-delay', '10000', '--max-growth', '1000'];
  const args = [script('soak.mjs'), '--minutes', '0.1', '--clients', '60', '--json', report, ...loose];
  await run(process.execPath, args);
  const { requests, lost, duplicated, unexpectedErrors, eventLoopP99Ms, rssGrowthMB, memory, details } = JSON.parse(
    await readFile(report, 'utf8'),
  );
  assert.deepEqual([lost, duplicated, unexpectedErrors], [0, 0, 0]);
  assert.ok(requests > 100, `${requests} requests`);
  assert.ok(eventLoopP99Ms > 0 && Number.isFinite(rssGrowthMB));
  assert.ok(memory.mostUsedMB > 0 && memory.mostUsedMB <= memory.budgetMB && memory.leftInUse === 0);
  for (const kind of ['answered', 'aborted', 'refused', 'disposed', 'reusedBuffers'])
    assert.ok(details[kind] > 0, `none ${kind}`);
});

test('aborts, exits and terminations at any moment', async () => {
  const { stdout } = await run(process.execPath, [script('rounds.mjs'), '--rounds', '40']);
  const { rounds, abortScores, abortTraining, terminateWorker, exitProcess } = JSON.parse(stdout);
  assert.equal(rounds, 40);
  assert.equal(abortScores + abortTraining + terminateWorker + exitProcess, 40);
});
