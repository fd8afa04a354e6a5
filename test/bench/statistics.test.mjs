import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { random as generator, root } from '../helpers/common.mjs';

const load = createRequire(import.meta.url);
const { medianInterval, precedence, quantileOf, roundsFor, shiftBetween } = load(
  path.join(root, 'dist', 'bench', 'statistics.js'),
);
const { compareDocuments, slowerNames } = load(path.join(root, 'dist', 'bench', 'compare.js'));
const { judge } = load(path.join(root, 'dist', 'bench', 'verdict.js'));

/** Times like those of processes on a shared machine: a few percent of spread, now and then one that was disturbed. */
function processes(random, count, scale) {
  return Array.from({ length: count }, () => {
    const gauss = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return scale * Math.exp(0.02 * gauss) * (random() < 0.06 ? 1.3 + 0.5 * random() : 1);
  });
}

const rows = 70;

function documentOf(random, { slowed = new Set(), by = 1, rounds = 15, unit = 'ms', machine = 1 } = {}) {
  const measurements = Array.from({ length: rows }, (_, i) => {
    const times = processes(random, rounds, (1 + i) * (slowed.has(i) ? by : 1));
    const samples = unit === 'ms' ? times : times.map((time) => 1 / time);
    const median = quantileOf(samples, 0.5);
    return { suite: 'ops', name: `nano forward op ${i}`, unit, median, low: median, high: median, samples };
  });
  const limit = (name) => ({ suite: 'machine', name, unit: 'GB/s', median: 30 / machine, samples: [30 / machine] });
  return { suites: ['ops'], presets: ['nano'], machine: [limit('copy'), limit('multiply-add')], measurements };
}

const options = { maxRegression: 0.05, allowForMachine: true };

test('quantiles lie between two values', () => {
  assert.equal(quantileOf([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(quantileOf([5], 0.25), 5);
  assert.equal(quantileOf([1, 2, 3, 4, 5], 0.25), 2);
});

test('the interval of the median is that of order statistics', () => {
  // Tables of the sign test: n = 6 gives the extremes at 96.9 %, n = 15 the 4th and the 12th at 96.5 %.
  const values = (n) => Array.from({ length: n }, (_, i) => i + 1);
  assert.deepEqual(medianInterval(values(6)), { low: 1, high: 6, confidence: 1 - 2 / 64 });
  const fifteen = medianInterval(values(15));
  assert.deepEqual([fifteen.low, fifteen.high], [4, 12]);
  assert.ok(Math.abs(fifteen.confidence - 0.9648) < 1e-4, String(fifteen.confidence));
  assert.equal(medianInterval([7]).confidence, 0, 'one value says nothing of the spread');
  assert.equal(medianInterval(values(3)).confidence, 0.75);
});

test('the interval holds the median as often as it says', () => {
  const random = generator(1);
  let held = 0;
  for (let i = 0; i < 4000; i++) {
    const { low, high } = medianInterval(Array.from({ length: 12 }, random));
    if (low <= 0.5 && 0.5 <= high) held += 1;
  }
  assert.ok(held / 4000 >= 0.95 && held / 4000 < 0.98, String(held / 4000));
});

test('how often one order statistic lies above another is what counting finds', () => {
  // Of the 20 arrangements of 3 and 3, one has all of b above a, and 4 have at most one of b before the last of a.
  assert.equal(precedence(3, 3, 3, 1), 1 / 20);
  assert.equal(precedence(3, 3, 3, 2), 4 / 20);
  assert.equal(precedence(1, 1, 1, 1), 1 / 2);
  const random = generator(10);
  const sorted = (n) => Array.from({ length: n }, random).sort((x, y) => x - y);
  let above = 0;
  for (let i = 0; i < 20_000; i++) above += sorted(8)[1] > sorted(12)[5] ? 1 : 0;
  assert.ok(Math.abs(above / 20_000 - precedence(12, 6, 8, 2)) < 0.006, `${above / 20_000}`);
});

test('a shift is estimated with bounds, and with none where there is too little to tell', () => {
  const a = [1, 2, 3, 4, 5, 6, 7, 8];
  const b = a.map((x) => x + 10);
  const shift = shiftBetween(a, b, 0.025);
  assert.equal(shift.estimate, 10);
  assert.ok(shift.low > 3 && shift.low < 10 && shift.high > 10 && shift.high < 17);
  const disturbed = b.map((x, i) => (i > 5 ? 10 * x : x));
  assert.equal(shiftBetween(a, disturbed, 0.025).low, shift.low, 'disturbed processes change nothing');
  assert.deepEqual(shiftBetween([1, 2], [3, 4], 0.01), { estimate: 2, low: -Infinity, high: Infinity });
  assert.equal(roundsFor(0.5), 1);
  assert.equal(roundsFor(0.01), 5, '1 / 252');
});

test('20 % of one op and 10 % of one kernel are found in most runs', () => {
  const random = generator(2);
  let [one, kernel] = [0, 0];
  const rowsOfKernel = new Set(Array.from({ length: 20 }, (_, i) => i));
  for (let run = 0; run < 20; run++) {
    const base = documentOf(random);
    const slow = compareDocuments(base, documentOf(random, { slowed: new Set([7]), by: 1.2 }), options);
    one += slowerNames(slow).has('ops/nano forward op 7') ? 1 : 0;
    const found = slowerNames(compareDocuments(base, documentOf(random, { slowed: rowsOfKernel, by: 1.1 }), options));
    kernel += found.size > 0 ? 1 : 0;
    assert.ok(
      [...found].every((name) => rowsOfKernel.has(Number(name.split(' ').at(-1)))),
      [...found].join(),
    );
  }
  assert.ok(one >= 19 && kernel === 20, `${one}, ${kernel}`);
});

test('a build compared with itself is called slower in none of 200 runs', () => {
  const random = generator(3);
  for (let run = 0; run < 200; run++) {
    const found = slowerNames(compareDocuments(documentOf(random), documentOf(random), options));
    assert.equal(found.size, 0, `run ${run}: ${[...found].join()}`);
  }
});

test('what is faster is said, and what is slower within the limit is accepted', () => {
  const random = generator(4);
  const base = documentOf(random);
  const verdicts = (by, more) => {
    const now = documentOf(random, { slowed: new Set([3]), by });
    return compareDocuments(base, now, { ...options, ...more }).rows[3].verdict;
  };
  assert.equal(verdicts(0.7), 'faster');
  assert.equal(verdicts(1.3), 'slower');
  assert.equal(verdicts(1.3, { maxRegression: 0.5 }), 'same');
  assert.equal(verdicts(1.3, { only: new Set(['ops/nano forward op 4']) }), 'not-judged');
});

test('a rate that falls is a slowdown', () => {
  const random = generator(5);
  const [base, now] = [1, 4 / 3].map((by) => documentOf(random, { slowed: new Set([3]), by, unit: 'images/s' }));
  const { rows } = compareDocuments(base, now, options);
  assert.equal(rows[3].verdict, 'slower');
  assert.ok(Math.abs(rows[3].slowdown - 1 / 3) < 0.05, String(rows[3].slowdown));
});

test('what the machine itself has lost is allowed for, but not between builds that take turns', () => {
  const random = generator(6);
  const base = documentOf(random);
  const all = new Set(Array.from({ length: rows }, (_, i) => i));
  const now = documentOf(random, { slowed: all, by: 1.25, machine: 1.3 });
  const result = compareDocuments(base, now, options);
  assert.equal(slowerNames(result).size, 0);
  assert.ok(Math.abs(result.machineSlowdown - 0.3) < 1e-9);
  assert.ok(slowerNames(compareDocuments(base, now, { ...options, allowForMachine: false })).size > 60);
});

test('too few processes give no verdict, and the number that would', () => {
  const random = generator(7);
  const few = { rounds: 3 };
  const result = compareDocuments(documentOf(random, few), documentOf(random, { ...few, by: 9 }), options);
  assert.ok(result.rows.every(({ verdict, low }) => verdict === 'unknown' && low === null));
  assert.equal(result.roundsNeeded, 8);
});

test('trifles are not judged; names of one side are counted; nothing in common is an error', () => {
  const random = generator(8);
  const [base, now] = [documentOf(random), documentOf(random, { slowed: new Set([0, 1]), by: 2 })];
  now.measurements[0].details = { informative: true };
  now.measurements[5].name = 'nano forward another';
  const result = compareDocuments(base, now, options);
  assert.deepEqual([...slowerNames(result)], ['ops/nano forward op 1']);
  assert.deepEqual(result.unmatched.sort(), ['ops/nano forward another', 'ops/nano forward op 5']);
  for (const one of now.measurements) one.suite = 'unet';
  now.suites = ['unet'];
  assert.throws(() => compareDocuments(base, now, options), { code: 'ERR_BASELINE', message: /of unet, got those of/ });
});

test('something slower is looked at again, and forgotten when it is not slower then', async () => {
  const random = generator(9);
  const measured = { suites: ['ops', 'unet'], presets: ['nano', 'lite'], rounds: 15, threads: 2, quick: true };
  const base = documentOf(random);
  const slow = () => documentOf(random, { slowed: new Set([7]), by: 1.4 });
  const { signal } = new AbortController();
  const asked = [];
  const lookAgain = (document) => async (given) => {
    asked.push(given);
    return [base, document];
  };
  const gone = await judge('x', [base, slow()], options, measured, lookAgain(documentOf(random)), signal);
  assert.deepEqual([gone.regressions, gone.rows[7].verdict], [[], 'same']);
  assert.deepEqual(asked, [{ ...measured, suites: ['ops'], presets: ['nano'] }]);
  const real = await judge('x', [base, slow()], options, measured, lookAgain(slow()), signal);
  assert.deepEqual(
    real.regressions.map(({ name }) => name),
    ['nano forward op 7'],
  );
  await judge('x', [base, documentOf(random)], options, measured, () => assert.fail('nothing to look at'), signal);
});
