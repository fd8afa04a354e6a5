import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import readAhead from '../../dist/base/read-ahead.js';

const { mapAhead } = readAhead;
const collect = async (iterable) => {
  const all = [];
  for await (const item of iterable) all.push(item);
  return all;
};

test('keeps the order and bounds the work in flight', async () => {
  let running = 0;
  let most = 0;
  const work = async (i) => {
    most = Math.max(most, ++running);
    await sleep(i % 3 === 0 ? 8 : 1);
    running -= 1;
    return i * i;
  };
  const numbers = Array.from({ length: 20 }, (_, i) => i);
  assert.deepEqual(
    await collect(mapAhead(numbers, work, { ahead: 2 })),
    numbers.map((i) => i * i),
  );
  assert.ok(most >= 2 && most <= 3, `at most the one waited for and two ahead, not ${most}`);
});

test('an error comes at its turn and ends it', async () => {
  const seen = [];
  const work = async (i) => {
    if (i === 2) throw new Error('two');
    return i;
  };
  await assert.rejects(async () => {
    for await (const i of mapAhead([0, 1, 2, 3, 4], work, { ahead: 3 })) seen.push(i);
  }, /two/);
  assert.deepEqual(seen, [0, 1]);
});

test('an error of the source comes after what was read before it', async () => {
  const seen = [];
  async function* source() {
    yield 1;
    throw new Error('source');
  }
  await assert.rejects(async () => {
    for await (const i of mapAhead(source(), async (x) => x, { ahead: 2 })) seen.push(i);
  }, /source/);
  assert.deepEqual(seen, [1]);
});

test('a slow source holds back no result', async () => {
  async function* camera() {
    yield 1;
    await sleep(3000, undefined, { ref: false });
    yield 2;
  }
  const start = performance.now();
  for await (const frame of mapAhead(camera(), async (x) => x, { ahead: 2 })) {
    assert.equal(frame, 1);
    break;
  }
  assert.ok(performance.now() - start < 1000, 'neither waiting for the next frame nor for the source to close');
});

test('leaving the loop aborts work in flight and closes the source', async () => {
  let closed = false;
  const aborted = [];
  function* source() {
    try {
      for (let i = 0; ; i++) yield i;
    } finally {
      closed = true;
    }
  }
  const work = (i, signal) =>
    i === 0
      ? Promise.resolve(i)
      : new Promise((_, reject) => signal.addEventListener('abort', () => reject(aborted.push(i))));
  for await (const i of mapAhead(source(), work, { ahead: 2 })) {
    assert.equal(i, 0);
    await sleep(5);
    break;
  }
  assert.equal(closed, true);
  assert.ok(aborted.length >= 2);
});

test('the signal ends it, also while the source is silent', async () => {
  const controller = new AbortController();
  async function* silent() {
    await sleep(60_000, undefined, { ref: false });
    yield 1;
  }
  setTimeout(() => controller.abort(), 10);
  await assert.rejects(collect(mapAhead(silent(), async (x) => x, { ahead: 2, signal: controller.signal })), {
    code: 'ERR_ABORTED',
  });
  await assert.rejects(collect(mapAhead([1], async (x) => x, { ahead: 2, signal: controller.signal })), {
    code: 'ERR_ABORTED',
  });
});
