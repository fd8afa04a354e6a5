import assert from 'node:assert/strict';
import { test } from 'node:test';
import queues from '../../dist/product-queue.js';

const { ProductQueue } = queues;
const tick = () => new Promise((resolve) => setTimeout(resolve, 1));

/** A queue over a thing that knows what it is set to; work says what it was set to all the while. */
function make({ onChange = () => undefined } = {}) {
  const changes = [];
  let set;
  const queue = new ProductQueue(async (key) => {
    set = undefined;
    await tick();
    onChange(key);
    set = key;
    changes.push(key);
  });
  const work = (key, done = tick(), signal) =>
    queue.run(
      key,
      async () => {
        assert.equal(set, key);
        await done;
        assert.equal(set, key, 'not changed while work runs');
        return key;
      },
      signal,
    );
  return { queue, changes, work };
}

test('work of different products never meets, whatever the order', async () => {
  const { work, changes } = make();
  const keys = Array.from({ length: 60 }, (_, i) => 'abc'[(i * 7 + (i >> 2)) % 3]);
  assert.deepEqual(await Promise.all(keys.map((key) => work(key))), keys);
  assert.ok(changes.length <= 9, `${changes.length} changes for 60 calls`);
});

test('work of one product runs side by side, and changes nothing', async () => {
  const { queue, changes } = make();
  let [running, most] = [0, 0];
  const one = () =>
    queue.run('a', async () => {
      most = Math.max(most, ++running);
      await tick();
      running -= 1;
    });
  await Promise.all(Array.from({ length: 5 }, one));
  await one();
  assert.deepEqual([changes, most], [['a'], 5]);
});

test('a product in a row does not keep another one waiting for ever', async () => {
  const { work } = make();
  let other = false;
  let calls = 0;
  const stream = async () => {
    while (!other && calls < 1000) {
      calls += 1;
      await work('a');
    }
  };
  const streams = [stream(), stream()]; // there is always one of them running
  await tick();
  await tick();
  await work('b').then(() => (other = true));
  await Promise.all(streams);
  assert.ok(calls < 40, `waited for ${calls} calls`);
});

test('aborted while it waits, work never runs, and the others go on', async () => {
  const { work } = make();
  const controller = new AbortController();
  let finish;
  const first = work('a', new Promise((resolve) => (finish = resolve)));
  await tick();
  await tick();
  const waiting = work('b', tick(), controller.signal);
  const after = work('c');
  controller.abort(new Error('enough'));
  await assert.rejects(waiting, (error) => error.code === 'ERR_ABORTED' && error.cause.message === 'enough');
  finish();
  assert.deepEqual(await Promise.all([first, after]), ['a', 'c']);
  await assert.rejects(work('a', tick(), controller.signal), { code: 'ERR_ABORTED' });
  assert.equal(await work('a'), 'a', 'nothing is left running');
});

test('a change that fails is the error of the call that asked for it; the next one tries again', async () => {
  let broken = true;
  const { work } = make({
    onChange: (key) => {
      if (broken && key === 'b') throw new Error('no such product');
    },
  });
  assert.equal(await work('a'), 'a');
  await assert.rejects(work('b'), { message: 'no such product' });
  assert.equal(await work('a'), 'a', 'set again: nobody knows how far the change came');
  broken = false;
  assert.deepEqual(await Promise.all([work('b'), work('a')]), ['b', 'a']);
  const failing = make();
  await assert.rejects(
    failing.queue.run('a', () => Promise.reject(new Error('work'))),
    { message: 'work' },
  );
  assert.equal(await failing.work('b'), 'b', 'failed work makes room');
});
