// The memory that a detector's images may take: who gets it when, and that nobody waits for ever.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import budgets from '../../dist/image/memory-budget.js';
import machine from '../../dist/image/memory-limit.js';
import { random, temporaryFolder } from '../helpers/common.mjs';

const { MemoryBudget } = budgets;
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A claim that asks for something, and what has become of it. */
function ask(claim, method, bytes, signal) {
  const asked = { claim, state: 'waiting' };
  claim[method](bytes, signal).then(
    () => (asked.state = 'granted'),
    ({ code }) => (asked.state = code),
  );
  return asked;
}

test('what fits is granted at once, what does not waits in order, and nothing overtakes what waits', async () => {
  const budget = new MemoryBudget(1000);
  const [a, b, c] = ['a', 'b', 'c'].map((name) => budget.open(name));
  const first = ask(a, 'admit', 700);
  const second = ask(b, 'admit', 400);
  const third = ask(c, 'admit', 100);
  await turn();
  assert.deepEqual([first.state, second.state, third.state, budget.used], ['granted', 'waiting', 'waiting', 700]);
  a.shrink(650);
  await turn();
  assert.equal(second.state, 'waiting');
  a.shrink(500);
  await turn();
  assert.deepEqual([second.state, third.state, budget.used], ['granted', 'granted', 1000]);
  for (const claim of [a, b, c, c]) claim.release();
  assert.equal(budget.used, 0);
});

test('what never fits is refused before anything is taken', async () => {
  const budget = new MemoryBudget(1000);
  const claim = budget.open('huge.png');
  assert.throws(() => claim.hold(751), { code: 'ERR_MEMORY', message: /^huge\.png: takes 0 MB of memory, expected/ });
  claim.hold(400);
  await assert.rejects(claim.admit(351), { code: 'ERR_MEMORY' });
  await claim.admit(350);
  assert.equal(budget.used, 750);
  claim.release();
});

test('ordered claims are admitted in order, whoever asks first', async () => {
  const budget = new MemoryBudget(1000);
  const [a, b] = [budget.open('a', true), budget.open('b', true)];
  const later = ask(b, 'admit', 10);
  await turn();
  assert.equal(later.state, 'waiting', 'its result comes after one that is not decoded yet');
  const other = ask(budget.open('overlay'), 'admit', 10);
  await turn();
  assert.equal(other.state, 'granted', 'others do not wait for that');
  a.release(); // it failed, say
  await turn();
  assert.equal(later.state, 'granted');
});

test('those that wait hold a quarter at most, but for the first of all', async () => {
  const budget = new MemoryBudget(1000);
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => budget.open(name, true));
  a.hold(600);
  b.hold(200);
  assert.throws(() => c.hold(60), { code: 'ERR_BUSY' });
  c.hold(50);
  const held = ask(d, 'holdLater', 60);
  await turn();
  assert.equal(held.state, 'waiting');
  const whole = ask(a, 'admit', 150);
  await turn();
  assert.deepEqual([whole.state, held.state, budget.used], ['granted', 'waiting', 1000]);
  a.release();
  await turn();
  assert.equal(held.state, 'granted', 'b is the first now');
});

test('an abort takes an ask back, and lets those behind it go on', async () => {
  const budget = new MemoryBudget(1000);
  const [a, b, c] = ['a', 'b', 'c'].map((name) => budget.open(name));
  await a.admit(600);
  const controller = new AbortController();
  const [stopped, behind] = [ask(b, 'admit', 500, controller.signal), ask(c, 'admit', 300)];
  await turn();
  assert.equal(behind.state, 'waiting');
  controller.abort();
  await turn();
  assert.deepEqual([stopped.state, behind.state], ['ERR_ABORTED', 'granted']);
  await assert.rejects(b.admit(1, controller.signal), { code: 'ERR_ABORTED' });
});

test('whatever comes together, everything is granted in the end, and never more than there is', async () => {
  for (let seed = 1; seed <= 60; seed++) {
    const next = random(seed);
    const budget = new MemoryBudget(1000);
    const most = () => assert.ok(budget.used <= 1000, `${budget.used} used`);
    const pause = async () => {
      for (let i = Math.floor(4 * next()); i > 0; i--) await turn();
    };
    let [done, refused] = [0, 0];
    let previous = Promise.resolve();
    /** As the queue of scores does: results in order, a few that are decoded at once. */
    let slots = 3;
    const queue = [];
    const start = () => {
      while (slots > 0 && queue.length > 0) {
        slots -= 1;
        void queue
          .shift()()
          .finally(() => {
            slots += 1;
            start();
          });
      }
    };
    const one = (ordered) =>
      new Promise((resolve, reject) => {
        const claim = budget.open('one', ordered);
        const total = Math.ceil(750 * next() ** 2);
        const part = Math.floor(total * next());
        const given = next() < 0.5;
        try {
          if (given) claim.hold(part);
        } catch (error) {
          assert.equal(error.code, 'ERR_BUSY');
          claim.release();
          refused += 1;
          resolve();
          return;
        }
        const work = async () => {
          await pause();
          if (!given) await claim.holdLater(part);
          await pause();
          await claim.admit(total - part);
          most();
          await pause();
          claim.shrink(Math.ceil(total / 2));
        };
        const end = async () => {
          await pause();
          claim.release();
          done += 1;
          resolve();
        };
        if (!ordered) {
          work().then(end).catch(reject);
          return;
        }
        const before = previous;
        let prepared;
        previous = new Promise((settled) => {
          queue.push(() => {
            prepared = work();
            prepared
              .then(() => before)
              .then(end)
              .then(settled)
              .catch(reject);
            return prepared;
          });
        });
        start();
      });
    const all = [];
    for (let i = 0; i < 60; i++) {
      all.push(one(next() < 0.7));
      if (next() < 0.3) await turn();
    }
    const late = setTimeout(() => {
      console.error(`budget: seed ${seed} hangs`);
      process.exit(1);
    }, 20_000);
    await Promise.all(all);
    clearTimeout(late);
    assert.deepEqual([done + refused, budget.used], [60, 0], `seed ${seed}`);
    assert.ok(done > 20, `${done} done`);
  }
});

const GB = 2 ** 30;

/** A system's files as they are seen below a folder. */
async function system(t, name, files) {
  const root = path.join(await folder, name);
  for (const [file, text] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(root, file)), { recursive: true });
    await writeFile(path.join(root, file), `${text}\n`);
  }
  return root;
}
const folder = temporaryFolder();

test('the limit of memory is the least of all control groups on the way up', async (t) => {
  const v2 = '30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw';
  const v1 = '31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory';
  const cases = {
    'no groups': [{}, 8 * GB],
    'version 2, a group far up': [
      {
        'proc/self/cgroup': '0::/a.slice/b.scope/c',
        'proc/self/mountinfo': v2,
        'sys/fs/cgroup/a.slice/memory.max': String(2 * GB),
        'sys/fs/cgroup/a.slice/b.scope/memory.max': 'max',
        'sys/fs/cgroup/a.slice/b.scope/c/memory.max': String(3 * GB),
      },
      2 * GB,
    ],
    'version 2, throttled': [
      {
        'proc/self/cgroup': '0::/a',
        'proc/self/mountinfo': v2,
        'sys/fs/cgroup/a/memory.max': 'max',
        'sys/fs/cgroup/a/memory.high': String(GB),
      },
      GB,
    ],
    'version 2, a container that sees itself as the root': [
      { 'proc/self/cgroup': '0::/', 'proc/self/mountinfo': v2, 'sys/fs/cgroup/memory.max': String(GB) },
      GB,
    ],
    'version 1, deep': [
      {
        'proc/self/cgroup': '4:memory:/docker/abc\n0::/',
        'proc/self/mountinfo': `${v1}\n30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw`,
        'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
        'sys/fs/cgroup/memory/docker/memory.limit_in_bytes': String(4 * GB),
        'sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes': String(5 * GB),
      },
      4 * GB,
    ],
    'version 1, a container whose group is what is mounted': [
      {
        'proc/self/cgroup': '4:memory:/docker/abc',
        'proc/self/mountinfo': v1.replace(' / /sys', ' /docker/abc /sys'),
        'sys/fs/cgroup/memory/memory.limit_in_bytes': String(GB),
      },
      GB,
    ],
    'a group outside of what is mounted': [
      { 'proc/self/cgroup': '0::/../../x', 'proc/self/mountinfo': v2, 'sys/fs/cgroup/memory.max': String(6 * GB) },
      6 * GB,
    ],
  };
  for (const [name, [files, limit]] of Object.entries(cases))
    assert.equal(machine.memoryLimit(await system(t, name, files), 8 * GB), limit, name);
  assert.ok(machine.memoryLimit() > 0);
});
