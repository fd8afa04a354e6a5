// How the addon's calls end: disposal, cancellation, exits of the process, workers and their termination.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import * as shared from '../helpers/addon.mjs';
import { temporaryFolder } from '../helpers/common.mjs';

const { addon, configOf, file, grayImage, open, openDetector, options, pause, pixelsOf, slow, small, token } = shared;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);

test('dispose: later calls fail, calls in flight fail, twice is once', async (t) => {
  const disposed = { code: 'ERR_DISPOSED' };
  const detector = await openDetector(t);
  const busy = await openDetector(t, slow);
  const running = busy.score(grayImage(256, 256), token());
  const queued = [detector.score(grayImage(), token()), detector.save(at('never'), '{}', token())];
  detector.dispose();
  await Promise.all(queued.map((work) => assert.rejects(work, disposed)));
  busy.dispose();
  await assert.rejects(running, { ...disposed, message: 'the detector has been disposed' });
  detector.dispose();
  await assert.rejects(detector.score(grayImage(), token()), disposed);
  await assert.rejects(detector.setConfig(configOf()), disposed);
  await assert.rejects(detector.save(at('never'), '{}', token()), disposed);
  assert.throws(() => detector.config(), disposed);
  assert.throws(() => detector.memory(), disposed);

  const trainer = await open(t);
  trainer.dispose();
  await assert.rejects(trainer.open(token()), disposed);
  await assert.rejects(trainer.step(pixelsOf(small), null, 1e-4, token()), disposed);
  await assert.rejects(trainer.saveCheckpoint(at('never'), '{}', token()), disposed);
  await assert.rejects(trainer.loadCheckpoint(at('never'), token()), disposed);
  await assert.rejects(trainer.toDetector(configOf()), disposed);
  assert.throws(() => trainer.memory(), disposed);

  const again = await openDetector(t);
  const own = Object.defineProperty(grayImage(), 'label', { get: () => again.dispose() });
  await assert.rejects(again.score(own, token()), disposed, 'a getter may dispose');
});

test('cancel: before, while queued, while running, after', async (t) => {
  const aborted = { code: 'ERR_ABORTED' };
  const trainer = await open(t, slow);
  const early = token();
  early.cancel();
  await assert.rejects(trainer.step(pixelsOf(slow), null, 1e-4, early), aborted);
  await assert.rejects(addon.verify('x', '{}', early), aborted);
  await assert.rejects(addon.loadDetector('x', '{}', early), aborted);

  const [first, second] = [token(), token()];
  const running = trainer.step(pixelsOf(slow), null, 1e-4, first);
  const queued = trainer.step(pixelsOf(slow), null, 1e-4, second);
  await pause(50);
  second.cancel();
  await assert.rejects(queued, aborted); // does not wait for the one that runs
  const start = performance.now();
  first.cancel();
  await assert.rejects(running, aborted);
  assert.ok(performance.now() - start < 1000, `stopped after ${performance.now() - start} ms`);
  first.cancel();

  const shared = token();
  const both = [trainer.step(pixelsOf(slow), null, 0, shared), trainer.step(pixelsOf(slow), null, 0, shared)];
  shared.cancel();
  await Promise.all(both.map((work) => assert.rejects(work, aborted)));
  const late = token();
  const fast = await open(t);
  assert.equal((await fast.step(pixelsOf(small), null, 1e-4, late)).step, 1);
  late.cancel();
});

test("JavaScript's thread is free while the engine computes", async (t) => {
  const trainer = await open(t, slow);
  const stop = token();
  // more than enough for 200 ms on any machine; what is left is cancelled
  const steps = Array.from({ length: 200 }, () => trainer.step(pixelsOf(slow), null, 1e-4, stop));
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  await pause(200);
  clearInterval(timer);
  stop.cancel();
  const results = await Promise.allSettled(steps);
  assert.equal(results.at(-1).reason?.code, 'ERR_ABORTED', 'it still computed');
  assert.ok(ticks > 20, `${ticks} ticks in 200 ms`);
});

// Code for other threads and processes: everything above it that these need.
const prelude = `
  const addon = require(${JSON.stringify(file)});
  const configOf = ${configOf};
  const pixelsOf = ${pixelsOf};
  const options = ${JSON.stringify(options)};
  const token = () => new addon.CancelToken();
  const slow = ${JSON.stringify(slow)};
  const small = ${JSON.stringify(small)};
  async function open(shape) {
    const trainer = new addon.NativeTrainer(configOf(shape), options);
    await trainer.open(token());
    return trainer;
  }
`;

async function runProcess(body, flags = []) {
  const code = `${prelude}\n(async () => {${body}\n})();`;
  const child = spawn(process.execPath, [...flags, '-e', code], { stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) child[name].setEncoding('utf8').on('data', (text) => (output[name] += text));
  const [status, signal] = await once(child, 'close');
  return { status: status ?? signal, ...output };
}

test('a process exits with work in flight', async () => {
  const work = `
    const trainer = await open(slow);
    trainer.step(pixelsOf(slow), null, 1e-4, token());
    trainer.step(pixelsOf(slow), null, 1e-4, token());
  `;
  const runs = await Promise.all([
    runProcess(`${work} setTimeout(() => process.exit(3), 100);`),
    runProcess(`${work} setTimeout(() => { throw new Error('uncaught'); }, 100);`),
    runProcess('new addon.NativeTrainer(configOf(slow), options).open(token()); process.exit(3);'),
    runProcess(`${work} setTimeout(() => process.kill(process.pid), 100);`),
  ]);
  assert.deepEqual(
    runs.map(({ status }) => status),
    [3, 1, 3, 'SIGTERM'],
    JSON.stringify(runs),
  );
});

test('a process ends by itself when its promises are settled, disposed or not, and not before', async () => {
  const { status, stdout, stderr } = await runProcess(`
    const trainer = await open(small);
    const { step } = await trainer.step(pixelsOf(small), null, 1e-4, token());
    console.log(step);
  `);
  assert.deepEqual([status, stdout.trim(), stderr], [0, '1', '']);
});

test('objects that are let go are collected by themselves, since V8 knows what hangs on them', async () => {
  const { status, stdout, stderr } = await runProcess(
    `
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    const shape = { size: 64, batch: 8 };
    let count = 0;
    while (count < 200 && collected < 3) {
      const trainer = await open(shape);
      registry.register(trainer);
      count++;
      await new Promise(setImmediate);
    }
    console.log(JSON.stringify({ count, collected }));
  `,
    ['--max-old-space-size=64'],
  );
  assert.equal(status, 0, stderr);
  const { collected } = JSON.parse(stdout);
  assert.ok(collected >= 3, stdout);
});

test('a call in flight keeps what it needs', async () => {
  const { status, stdout, stderr } = await runProcess(
    `
    let trainer = await open(small);
    const work = trainer.step(pixelsOf(small), null, 1e-4, token());
    trainer = undefined;
    globalThis.gc();
    console.log((await work).step);
  `,
    ['--expose-gc'],
  );
  assert.deepEqual([status, stdout.trim()], [0, '1'], stderr);
});

function startWorker(body) {
  return new Worker(
    `const { parentPort } = require('node:worker_threads');
    ${prelude}\n(async () => {${body}\n})();`,
    { eval: true },
  );
}

const busyWorker = `
  const trainer = await open(slow);
  const detector = await trainer.toDetector(configOf(slow));
  for (let i = 0; i < 3; i++) trainer.step(pixelsOf(slow), null, 1e-4, token()).catch(() => {});
  const data = new Uint8Array(256 * 256);
  detector.score({ data, width: 256, height: 256, channels: 1 }, token()).catch(() => {});
  parentPort.postMessage('busy');
`;

test('workers are terminated while they compute', async (t) => {
  for (let round = 0; round < 6; round++) {
    const worker = startWorker(busyWorker);
    await once(worker, 'message');
    await pause(round * 7);
    const start = performance.now();
    await worker.terminate();
    assert.ok(performance.now() - start < 2000, `terminated after ${performance.now() - start} ms`);
  }
  const starting = Array.from({ length: 4 }, () => startWorker(busyWorker));
  await pause(30);
  await Promise.all(starting.map((worker) => worker.terminate())); // wherever they are
  const trainer = await open(t);
  assert.equal((await trainer.step(pixelsOf(small), null, 1e-4, token())).step, 1);
});

test('workers are terminated while they call without a pause', async () => {
  const body = `
    const trainer = await open(small);
    const detector = await trainer.toDetector(configOf(small));
    parentPort.postMessage('busy');
    const image = { get data() { return new Uint8Array(4); }, width: 2, height: 2, channels: 1 };
    for (;;) {
      for (let i = 0; i < 100; i++) {
        const stop = token();
        detector.score(image, stop).catch(() => {});
        try { new addon.NativeTrainer('{', '{}'); } catch { /* that is the point */ }
        trainer.step(1, 2, 3, 4).catch(() => {});
        stop.cancel();
      }
      await detector.score(image, token());
    }
  `;
  for (let round = 0; round < 4; round++) {
    const worker = startWorker(body);
    await once(worker, 'message');
    await pause(5 + 11 * round);
    await worker.terminate();
  }
});

test('two workers and the main thread train side by side', async (t) => {
  const body = `
    const trainer = await open(small);
    const losses = [];
    for (let i = 0; i < 5; i++) losses.push((await trainer.step(pixelsOf(small), null, 1e-4, token())).loss);
    trainer.dispose();
    parentPort.postMessage(losses);
  `;
  const workers = [startWorker(body), startWorker(body)];
  const results = Promise.all(workers.map(async (worker) => (await once(worker, 'message'))[0]));
  const ends = Promise.all(workers.map(async (worker) => (await once(worker, 'exit'))[0]));
  const trainer = await open(t);
  const losses = [];
  for (let i = 0; i < 5; i++) losses.push((await trainer.step(pixelsOf(small), null, 1e-4, token())).loss);
  for (const other of await results) assert.deepEqual(other, losses);
  assert.deepEqual(await ends, [0, 0], 'workers end by themselves');
});

test('an addon that only workers load survives their end', async () => {
  const worker = `${prelude}\nopen(slow).then((t) => { t.step(pixelsOf(slow), null, 1e-4, token()); setTimeout(() => process.exit(), 50); });`;
  const code = `
    const { Worker } = require('node:worker_threads');
    const { once } = require('node:events');
    (async () => {
      for (let i = 0; i < 3; i++) await once(new Worker(${JSON.stringify(worker)}, { eval: true }), 'exit');
      setTimeout(() => {}, 100);
    })();
  `;
  const child = spawn(process.execPath, ['-e', code], { stdio: 'inherit' });
  assert.deepEqual(await once(child, 'close'), [0, null]);
});
