// The queue of a detector: order, batches, back-pressure, cancelling, and what it counts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import budgets from '../../dist/image/memory-budget.js';
import errors from '../../dist/base/errors.js';
import queues from '../../dist/scoring/queue.js';

const newQueue = (engine, given, bytes = 2 ** 40) =>
  new queues.ScoreQueue(engine, given, new budgets.MemoryBudget(bytes));
const add = (queue, prepare, signal, take = () => {}) => queue.add({ name: 'an image', take, prepare }, signal);
const options = { maxBatch: 4, maxDelayMs: 0, maxQueue: 100, whenFull: 'reject' };
const image = (id) => ({ id, data: new Uint8Array(4), width: 2, height: 2, channels: 1 });
const turn = () => new Promise((resolve) => setImmediate(resolve));
async function turns(count = 20) {
  for (let i = 0; i < count; i++) await turn();
}

/** An engine that ends a batch when told; it answers with the ids of the images. */
function fakeEngine() {
  const batches = [];
  const scoreBatch = (images, tokens) =>
    new Promise((resolve, reject) => {
      const ids = images.map(({ id }) => id);
      batches.push({ ids, tokens, reject, resolve, finish: () => resolve(ids.map((score) => ({ score }))) });
    });
  return { batches, scoreBatch };
}

/** Starts calls for these ids; `ended` gets an id or a code as each settles. */
function start(queue, ids, { signal, prepare = async (id) => image(id) } = {}) {
  const ended = [];
  const calls = ids.map((id) =>
    add(queue, (inner, claim) => prepare(id, inner, claim), signal).then(
      ({ score }) => ended.push(score),
      ({ code }) => ended.push(code),
    ),
  );
  return { ended, calls };
}

test('what waits goes to the engine in full batches, in order, and a second full one waits there', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, options);
  const { ended, calls } = start(queue, [0]);
  await turns();
  assert.deepEqual(engine.batches[0].ids, [0], 'nothing else to wait for');
  const more = start(queue, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  await turns();
  assert.deepEqual(
    engine.batches.map(({ ids }) => ids),
    [[0], [1, 2, 3, 4]],
  );
  assert.equal(queue.stats().queued, 5);
  assert.equal(queue.stats().running, 5);
  for (let i = 0; i < 4; i++) {
    engine.batches[i].finish();
    await turns();
  }
  await Promise.all([...calls, ...more.calls]);
  assert.deepEqual([...ended, ...more.ended], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const { batches, batchSizes, scored, queued, running, latencyMs } = queue.stats();
  assert.deepEqual([batches, batchSizes, scored, queued, running], [4, [2, 0, 0, 2], 10, 0, 0]);
  assert.equal(latencyMs.count, 10);
  assert.ok(latencyMs.p50 > 0 && latencyMs.p50 <= latencyMs.p95 && latencyMs.p99 <= latencyMs.max);
});

test('an image that decodes slowly holds its place', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, options);
  let release;
  const slow = new Promise((resolve) => (release = resolve));
  const prepare = async (id) => (id === 1 && (await slow), image(id));
  const { ended, calls } = start(queue, [0, 1, 2, 3], { prepare });
  await turns();
  engine.batches[0].finish();
  await turns();
  assert.deepEqual(ended, [0]);
  release();
  await turns();
  assert.deepEqual(engine.batches[1].ids, [1, 2, 3]);
  engine.batches[1].finish();
  await Promise.all(calls);
  assert.deepEqual(ended, [0, 1, 2, 3]);
});

test('a batch that is not full waits as long as it may, and no longer', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, { ...options, maxDelayMs: 80 });
  const began = performance.now();
  const { calls } = start(queue, [0, 1]);
  await turns();
  assert.equal(engine.batches.length, 0);
  while (engine.batches.length === 0) await turn();
  assert.ok(performance.now() - began >= 79, `waited ${performance.now() - began} ms`);
  assert.deepEqual(engine.batches[0].ids, [0, 1]);
  const more = start(queue, [2, 3, 4, 5]);
  await turns();
  assert.deepEqual(engine.batches[1].ids, [2, 3, 4, 5], 'a full one does not wait');
  for (const batch of engine.batches) batch.finish();
  await Promise.all([...calls, ...more.calls]);
});

test('a full queue refuses with ERR_BUSY, or lets wait', async () => {
  for (const whenFull of ['reject', 'wait']) {
    const engine = fakeEngine();
    const queue = newQueue(engine, { ...options, maxBatch: 1, maxQueue: 2, whenFull });
    const first = start(queue, [0, 1]);
    await turns(); // both at the engine
    const { ended, calls } = start(queue, [2, 3, 4, 5]);
    await turns();
    assert.deepEqual(ended, whenFull === 'reject' ? ['ERR_BUSY', 'ERR_BUSY'] : []);
    while (queue.stats().queued + queue.stats().running > 0) {
      engine.batches.forEach(({ finish }) => finish());
      await turns();
    }
    await Promise.all([...first.calls, ...calls]);
    assert.deepEqual(ended, whenFull === 'reject' ? ['ERR_BUSY', 'ERR_BUSY', 2, 3] : [2, 3, 4, 5]);
    assert.equal(queue.stats().refused, whenFull === 'reject' ? 2 : 0);
  }
});

test('an aborted call leaves at once: waiting, being decoded, ready and at the engine', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, { ...options, maxBatch: 2 });
  const aborts = Array.from({ length: 12 }, () => new AbortController());
  const signals = [];
  let finish;
  const slow = new Promise((resolve) => (finish = resolve));
  const prepare = (id, signal) => {
    signals[id] = signal;
    return id === 5 ? slow.then(() => image(id)) : Promise.resolve(image(id));
  };
  const ended = [];
  const calls = aborts.map(({ signal }, id) =>
    add(queue, (inner, claim) => prepare(id, inner, claim), signal).then(
      ({ score }) => ended.push(score),
      ({ code, cause }) => ended.push(`${code} ${cause}`),
    ),
  );
  await turns();
  assert.deepEqual(
    engine.batches.map(({ ids }) => ids),
    [[0], [1, 2]],
  );
  for (const id of [1, 4, 5, 11]) {
    aborts[id].abort(`stop ${id}`);
    await turn();
    assert.equal(ended.at(-1), `ERR_ABORTED stop ${id}`);
  }
  assert.equal(signals[5].aborted, true, 'its decoding is told');
  assert.equal(signals[11], undefined, 'it never began');
  assert.equal(queue.stats().decoding, 1, 'it has not ended for that');
  finish();
  while (queue.stats().running > 0) {
    engine.batches.forEach(({ finish }) => finish());
    await turns();
  }
  await Promise.all(calls);
  assert.deepEqual(
    ended.filter((id) => typeof id === 'number'),
    [0, 2, 3, 6, 7, 8, 9, 10],
  );
  assert.equal(queue.stats().aborted, 4);
  const late = new AbortController();
  late.abort();
  await assert.rejects(
    add(queue, async () => image(0), late.signal),
    { code: 'ERR_ABORTED' },
  );
});

test('an image that cannot be decoded or scored fails alone', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, options);
  const prepare = async (id) => {
    if (id === 1) throw Object.assign(new Error('damaged'), { code: 'ERR_IMAGE' });
    return image(id);
  };
  const { ended, calls } = start(queue, [0, 1, 2, 3], { prepare });
  await turns();
  engine.batches[0].finish();
  await turns();
  engine.batches[1].resolve([{ score: 2 }, Object.assign(new Error('odd'), { code: 'ERR_NUMERIC' })]);
  await Promise.all(calls);
  assert.deepEqual(ended, ['ERR_IMAGE', 0, 2, 'ERR_NUMERIC']);
  const whole = start(queue, [4, 5]);
  await turns();
  engine.batches.at(-1).reject(new Error('broken'));
  await turns();
  engine.batches.at(-1).finish();
  await Promise.all(whole.calls);
  assert.deepEqual(whole.ended, ['ERR_INTERNAL', 5]);
  assert.equal(queue.stats().failed, 3);
});

test('a closed queue fails what it has and what comes', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, options);
  const { ended, calls } = start(queue, [0, 1, 2, 3, 4, 5, 6]);
  await turns();
  queue.close(new errors.DdadError('ERR_DISPOSED', 'gone'));
  await Promise.all(calls);
  assert.deepEqual(ended, Array(7).fill('ERR_DISPOSED'));
  await assert.rejects(
    add(queue, async () => image(0)),
    { code: 'ERR_DISPOSED' },
  );
  let idle = false;
  const waiting = queue.idle().then(() => (idle = true));
  await turns();
  assert.equal(idle, false, 'a batch is at the engine still');
  for (const batch of engine.batches) batch.finish();
  await waiting;
});

test('memory of decoded images is bounded', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, { ...options, maxBatch: 1 });
  let decoded = 0;
  const large = { byteLength: 100 * 2 ** 20 };
  const prepare = async (id) => {
    decoded += 1;
    return { ...image(id), data: large };
  };
  const { calls } = start(queue, [0, 1, 2, 3, 4, 5, 6, 7], { prepare });
  await turns();
  assert.ok(decoded <= 2 + 3 + 3, `${decoded} images decoded`); // at the engine, waiting, and begun meanwhile
  while (queue.stats().queued + queue.stats().running > 0) {
    engine.batches.forEach(({ finish }) => finish());
    await turns();
  }
  await Promise.all(calls);
});

test('an aborted call keeps its place and its memory until its decoding has ended', async () => {
  const engine = fakeEngine();
  const queue = newQueue(engine, { ...options, maxQueue: 3 }, 1000);
  const finish = [];
  const decodeSlowly = async (signal, claim) => {
    await claim.admit(100);
    await new Promise((resolve) => finish.push(resolve));
    return image(0);
  };
  const begun = () => finish.length;
  const controller = new AbortController();
  const aborted = [0, 1, 2].map(() => add(queue, decodeSlowly, controller.signal));
  await turns();
  const atOnce = begun();
  assert.ok(atOnce >= 1 && atOnce <= 3);
  controller.abort();
  for (const call of aborted) await assert.rejects(call, { code: 'ERR_ABORTED' });
  const { queued, decoding, imageMemory: memory } = queue.stats();
  assert.deepEqual([queued, decoding, memory.used], [0, atOnce, 100 * atOnce]);
  const others = Array.from({ length: 4 }, () => add(queue, decodeSlowly));
  const codes = (
    await Promise.all(others.map((call) => Promise.race([call.catch(({ code }) => code), turns()])))
  ).filter(Boolean);
  assert.deepEqual(codes, Array(4 - (3 - atOnce)).fill('ERR_BUSY'), 'only places that nobody works on are free');
  while (queue.stats().queued + queue.stats().running + queue.stats().decoding > 0) {
    for (const end of finish.splice(0)) end();
    engine.batches.forEach((batch) => batch.finish());
    await turns();
  }
  await Promise.allSettled(others);
  assert.deepEqual([queue.stats().imageMemory.used, queue.stats().decoding], [0, 0]);
});
