// Metrics of a training run as JSON lines.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { Trainer } from '../../dist/index.js';
import logs from '../../dist/training/metrics-log.js';
import {
  makeDataset,
  openFiles,
  readSafetensors,
  run,
  smallDisk,
  start,
  temporaryFolder,
  tiny,
  tinyFlags,
  until,
} from '../helpers/common.mjs';

const { MetricsLog } = logs;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 4);

async function linesOf(file) {
  const text = await readFile(file, 'utf8');
  assert.ok(text === '' || text.endsWith('\n'), 'whole lines');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}
const stepsOf = async (file) => (await linesOf(file)).map(({ step }) => step);
const upTo = (n, from = 1) => Array.from({ length: n - from + 1 }, (_, i) => from + i);
const checkpointStep = async (file) =>
  JSON.parse((await readSafetensors(file)).header.__metadata__.config).checkpoint.step;

/** Fits to the end, or until `stop` says so; returns the progress of training. */
async function fit(options, fitOptions, stop = () => false) {
  const trainer = new Trainer({ ...tiny, ...options });
  const seen = [];
  try {
    for await (const progress of trainer.fit(parts, fitOptions)) {
      if (progress.phase === 'train') seen.push(progress);
      if (await stop(progress)) break;
    }
    return seen;
  } finally {
    trainer.dispose();
  }
}

const metricsOf = (step) => ({
  ...{ step, loss: 1 / step, mse: 0.5, vb: 0.25, feature: null, gradNorm: 2, lr: 1e-4 },
  ...{ samplesPerSecond: 12.3456789, elapsedMs: 1234.5 },
});

test('a run writes a line a step, with what its progress says', async () => {
  const seen = await fit({}, { metrics: at('run.jsonl') });
  const lines = await linesOf(at('run.jsonl'));
  assert.equal(lines.length, 6);
  for (const [i, line] of lines.entries()) {
    const { step, loss, mse, vb, feature, gradNorm, lr, samplesPerSecond, elapsedMs } = seen[i];
    assert.deepEqual(line, {
      ...{ step, loss, mse, vb, feature, gradNorm, lr },
      samplesPerSecond: Number(samplesPerSecond.toPrecision(6)),
      elapsedMs: Math.round(elapsedMs),
    });
    assert.ok(gradNorm > 0 && Number.isFinite(feature));
  }
  assert.equal(await openFiles(folder), 0);
});

test('a line is in the file within a second, also while a step takes long', async () => {
  const file = at('live.jsonl');
  await fit({}, { metrics: file }, async ({ step }) => {
    if (step !== 2) return false;
    await new Promise((resolve) => setTimeout(resolve, 1300));
    assert.deepEqual(await stepsOf(file), [1, 2]);
    return true;
  });
  assert.deepEqual(await stepsOf(file), [1, 2]);
});

test('a resumed run goes on after its checkpoint, dropping what comes later and what was cut off', async () => {
  const [metrics, checkpoint] = [at('resumed.jsonl'), at('resumed.ckpt.safetensors')];
  const first = await fit({}, { metrics, checkpoint }, ({ step }) => step === 3);
  await appendFile(metrics, `${JSON.stringify(metricsOf(4))}\n${JSON.stringify(metricsOf(5))}\n{"step":6,"lo`);
  const rest = await fit({}, { metrics, checkpoint, resume: checkpoint });
  assert.deepEqual(await stepsOf(metrics), upTo(6));
  assert.deepEqual(
    (await linesOf(metrics)).map(({ loss }) => loss),
    [...first, ...rest].map(({ loss }) => loss),
  );
});

test('a checkpoint never knows a step that is not in the file', async () => {
  const [metrics, checkpoint] = [at('each.jsonl'), at('each.ckpt.safetensors')];
  const options = { metrics, checkpoint, checkpointEverySeconds: 1e-6 };
  await fit({}, options, async ({ step, phase }) => {
    if (phase !== 'train') return false;
    assert.equal(await checkpointStep(checkpoint), step);
    assert.deepEqual(await stepsOf(metrics), upTo(step));
    return false;
  });
});

test('a new run begins the file anew', async () => {
  const metrics = at('again.jsonl');
  await fit({}, { metrics });
  await fit({ steps: 2 }, { metrics });
  assert.deepEqual(await stepsOf(metrics), [1, 2]);
});

test('a file that holds something else is refused and left alone', async () => {
  for (const [i, text] of [
    'step,loss\n1,0.5\n',
    '{"image":"a.png","score":1}\n',
    'no line',
    '\n',
    '[1]\n',
    '{"step":1,"accuracy":0.5}\n',
    `${JSON.stringify(metricsOf(1))}\nsomething\n${JSON.stringify(metricsOf(2))}\n`,
    `${JSON.stringify(metricsOf(1))}\nanother ending`,
  ].entries()) {
    const file = at(`other-${i}`);
    await writeFile(file, text);
    await assert.rejects(fit({}, { metrics: file }), { code: 'ERR_FILE_WRITE', message: /other-.*holds no metrics/ });
    assert.equal(await readFile(file, 'utf8'), text);
  }
  await assert.rejects(fit({}, { metrics: at('no/such/x.jsonl') }), { code: 'ERR_FILE_WRITE', message: /x\.jsonl/ });
  await assert.rejects(fit({}, { metrics: folder }), { code: 'ERR_FILE_WRITE' });
  await assert.rejects(fit({}, { metrics: '' }), { code: 'ERR_OPTION' });
  assert.equal(await openFiles(folder), 0);
});

test('lines up to the step are kept as they are', async () => {
  const file = at('kept.jsonl');
  const text = upTo(5)
    .map((step) => `${JSON.stringify(metricsOf(step))}\n`)
    .join('');
  for (const [step, left] of [
    [0, []],
    [1, [1]],
    [4, [1, 2, 3, 4]],
    [5, [1, 2, 3, 4, 5]],
    [9, [1, 2, 3, 4, 5]],
  ]) {
    await writeFile(file, text);
    const log = await MetricsLog.open(file, step);
    log.add(metricsOf(step + 1));
    await log.close();
    await log.close();
    assert.deepEqual(await stepsOf(file), [...left, step + 1]);
    assert.ok(left.length === 0 || (await readFile(file, 'utf8')).startsWith(text.slice(0, text.indexOf('\n'))));
  }
  const twice = [1, 2, 3, 2, 3].map((step) => `${JSON.stringify(metricsOf(step))}\n`);
  await writeFile(file, twice.join(''));
  await (await MetricsLog.open(file, 2)).close();
  assert.deepEqual(await stepsOf(file), [1, 2], 'nothing behind what is dropped is kept');
});

test('a full disk ends the run soon with ERR_FILE_WRITE; its checkpoint can be resumed', async (t) => {
  const disk = at('full');
  if (!(await smallDisk(t, disk, '12k'))) return t.skip('a small file system cannot be mounted here');
  // leaves a page, for the lock
  await writeFile(path.join(disk, 'filler'), Buffer.alloc(8192));
  const metrics = path.join(disk, 'run.jsonl');
  const checkpoint = at('full.ckpt.safetensors');
  let last = 0;
  const begun = performance.now();
  await assert.rejects(
    fit({ steps: 100_000 }, { metrics, checkpoint }, ({ step }) => ((last = step), false)),
    { code: 'ERR_FILE_WRITE', message: /run\.jsonl: cannot be written: ENOSPC/ },
  );
  assert.ok(performance.now() - begun < 5000);
  assert.ok(last > 0 && (await checkpointStep(checkpoint)) >= last);
  // Where it is found at the very end only, or on the way to a checkpoint, it is told as well.
  for (const checkpointEverySeconds of [30, 1e-6]) {
    const options = { metrics, checkpoint: at('end.ckpt.safetensors'), checkpointEverySeconds };
    await assert.rejects(fit({ steps: 2 }, options), { code: 'ERR_FILE_WRITE' });
    assert.ok((await checkpointStep(at('end.ckpt.safetensors'))) >= 1);
  }
  const rest = await fit({ steps: last + 4 }, { resume: checkpoint });
  assert.equal(rest.at(-1).step, last + 4);
});

test('what is no regular file is refused before the first step', { skip: !existsSync('/dev/full') }, async () => {
  await assert.rejects(fit({ steps: 2 }, { metrics: '/dev/full' }), {
    code: 'ERR_FILE_WRITE',
    message: '/dev/full: cannot be written: expected a regular file or none, got a device',
  });
  assert.ok(!existsSync('/dev/full.lock'));
});

test('a disk that fills up keeps whole lines, and another disk its checkpoint', async (t) => {
  const disk = at('disk');
  if (!(await smallDisk(t, disk, '8k'))) return t.skip('a small file system cannot be mounted here');
  const [metrics, checkpoint] = [path.join(disk, 'run.jsonl'), at('filled.ckpt.safetensors')];
  const args = ['train', parts, ...tinyFlags];
  const more = ['--checkpoint', checkpoint, '--checkpoint-every', '10ms', '--metrics', metrics];
  const { code, stderr } = await run([...args, '--steps', '5000', ...more, '--out', at('filled.safetensors')]);
  assert.equal(code, 1);
  assert.match(stderr, /^ddad-native: ERR_FILE_WRITE: .*run\.jsonl: cannot be written: ENOSPC/m);
  const steps = await stepsOf(metrics);
  assert.ok(steps.length > 5);
  assert.deepEqual(steps, upTo(steps.length));
  assert.ok((await checkpointStep(checkpoint)) >= steps.length);
});

test('after kill -9 a resumed run has every step once', async () => {
  const [metrics, checkpoint, out] = [at('made/killed.jsonl'), at('killed.ckpt.safetensors'), at('killed.safetensors')];
  const args = ['train', parts, '--out', out, '--checkpoint', checkpoint, '--metrics', metrics];
  const first = [...tinyFlags, '--steps', '150'];
  const { child, finished } = start([...args, ...first, '--checkpoint-every', '150ms']);
  await until(async () => existsSync(checkpoint) && (await checkpointStep(checkpoint)) > 0);
  child.kill('SIGKILL');
  await finished;
  const left = await checkpointStep(checkpoint);
  assert.ok(left < 150, 'it was killed on its way');
  const { code, stderr } = await run([...args, '--resume', checkpoint]);
  assert.equal(code, 0, stderr);
  assert.deepEqual(await stepsOf(metrics), upTo(150));
});
