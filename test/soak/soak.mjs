// Hours of mixed load on detectors: scores, overlays, aborts, disposals, bad images, small files that want gigabytes, and
// camera buffers that are filled again, from many clients at once.
//   npm run soak -- --minutes 60 [--clients 200] [--seed 1] [--json file]
// Every answer is compared with what the image scores alone. Fails when an answer is lost, wrong or unexpected, when
// a handle is left, where memory grows by more than --max-growth MB (30) or JavaScript's thread is held up for longer
// than --max-delay ms (10) at the 99th percentile, and where resident memory above that of an idle detector exceeds
// --budget MB (256) by more than --allowance MB (256): maps that have been given back and await collection, the caches of
// sharp, what the allocator keeps, the other detectors that come and go.
import { writeFile } from 'node:fs/promises';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { Detector } from '../../dist/index.js';
import { random } from '../helpers/common.mjs';
import { makeBadImages, makeFrames, makeHostile, makeImages, makeModel } from './images.mjs';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    clients: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
    json: { type: 'string' },
    'max-growth': { type: 'string', default: '30' },
    'max-delay': { type: 'string', default: '10' },
    budget: { type: 'string', default: '256' },
    allowance: { type: 'string', default: '256' },
  },
});
function positive(name) {
  const value = Number(values[name]);
  if (!(value > 0)) throw new Error(`--${name}: expected a positive number, got "${values[name]}"`);
  return value;
}
const [minutes, clients] = [positive('minutes'), Math.ceil(positive('clients'))];
const next = random(Number(values.seed));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

const model = await makeModel();
const images = await makeImages(24, Number(values.seed));
const bad = await makeBadImages();
const hostile = await makeHostile();
const frames = makeFrames(16);
const memoryBudget = 1e6 * positive('budget');
const load = (options) => Detector.load(model.model, { maxQueue: 10 * clients, memoryBudget, ...options });
let detector = await load();
const alone = async (list) => {
  const scores = [];
  for (const image of list) scores.push((await detector.score(image)).score);
  return scores;
};
const expected = await alone(images);
const expectedOfWaiting = await alone(hostile.waiting);
const expectedOfFrames = await alone(frames);

const counts = { requests: 0, answered: 0, lost: 0, duplicated: 0, aborted: 0, refused: 0, disposed: 0, reloads: 0 };
const hostileCounts = { refusedForMemory: 0, refusedByFormat: 0, waited: 0, reusedBuffers: 0, withoutRoom: 0 };
const unexpected = new Map();
const open = new Set();

/** Makes a request; `allowed` maps the codes that it may fail with to the counter. */
async function request(call, index, allowed = {}, scores = expected) {
  const id = counts.requests++;
  open.add(id);
  try {
    const { score } = await call();
    if (index !== null && score !== scores[index]) counts.duplicated += 1; // another image's answer
    counts.answered += 1;
  } catch (error) {
    const counter = allowed[error.code];
    if (counter in hostileCounts) hostileCounts[counter] += 1;
    else if (counter) counts[counter] += 1;
    else unexpected.set(String(error.stack), (unexpected.get(String(error.stack)) ?? 0) + 1);
  }
  open.delete(id);
}

async function aborted(index) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), 60 * next() ** 3);
  const call = () => detector.score(images[index], { signal: controller.signal });
  await request(call, index, { ERR_ABORTED: 'aborted', ERR_DISPOSED: 'disposed' });
  clearTimeout(timer);
}

async function overlay(index) {
  const result = await detector.score(images[index]);
  const { length } = await result.heatmap();
  if (!(length > 0)) throw new Error('an empty overlay');
  return result;
}

/** A detector that is disposed of while it works. */
async function shortLived(index) {
  const other = await load({ threads: 1 + Math.floor(2 * next()), maxBatch: 1 + Math.floor(6 * next()) });
  const calls = Array.from({ length: 6 }, (_, i) => {
    const at = (index + i) % images.length;
    return request(() => other.score(images[at]), at, { ERR_DISPOSED: 'disposed' });
  });
  await pause(40 * next());
  other.dispose();
  await Promise.all(calls);
  counts.reloads += 1;
}

/** The main detector is replaced while everybody uses it. */
async function replace() {
  const before = detector;
  detector = await load({ threads: 2 });
  await before[Symbol.asyncDispose]();
  counts.reloads += 1;
}

/** A small file that wants much; some of those who send them go away at once. */
async function attack() {
  const disposed = { ERR_DISPOSED: 'disposed' };
  if (next() < 0.4) {
    const { image, code } = hostile.refused[Math.floor(hostile.refused.length * next())];
    const counter = code === 'ERR_MEMORY' ? 'refusedForMemory' : 'refusedByFormat';
    await request(() => detector.score(image), null, { [code]: counter, ERR_BUSY: 'withoutRoom', ...disposed });
    return;
  }
  const index = Math.floor(hostile.waiting.length * next());
  const controller = new AbortController();
  const timer = next() < 0.5 ? setTimeout(() => controller.abort(), 30 * next() ** 2) : undefined;
  const { signal } = controller;
  const call = async () => {
    const result = await detector.score(hostile.waiting[index], { signal });
    if (next() < 0.2) await result.heatmap({ signal });
    hostileCounts.waited += 1;
    return result;
  };
  const allowed = { ERR_ABORTED: 'aborted', ERR_BUSY: 'withoutRoom', ...disposed };
  await request(call, index, allowed, expectedOfWaiting);
  clearTimeout(timer);
}

/** A camera whose frames come through one buffer, shared memory now and then. */
async function camera() {
  const { width, height } = frames[0];
  const data = new Uint8Array(next() < 0.3 ? new SharedArrayBuffer(width * height) : width * height);
  const calls = [];
  for (let i = 0; i < 6; i++) {
    const index = Math.floor(frames.length * next());
    data.set(frames[index].data);
    const call = () => detector.score({ ...frames[index], data });
    const allowed = { ERR_DISPOSED: 'disposed', ERR_BUSY: 'withoutRoom' };
    calls.push(request(call, index, allowed, expectedOfFrames));
    hostileCounts.reusedBuffers += 1;
    if (next() < 0.3) await pause(5 * next());
  }
  data.fill(0);
  await Promise.all(calls);
}

const end = performance.now() + 60_000 * minutes;
let extra = 0;
async function client() {
  while (performance.now() < end) {
    const index = Math.floor(images.length * next());
    const what = next();
    const disposed = { ERR_DISPOSED: 'disposed', ERR_BUSY: 'withoutRoom' };
    if (what < 0.1) await aborted(index);
    else if (what < 0.14) {
      await request(() => detector.score(bad[index % bad.length]), null, { ERR_IMAGE: 'refused', ...disposed });
    } else if (what < 0.17) await request(() => overlay(index), index, disposed);
    else if (what < 0.18 && extra < 2) {
      extra += 1;
      await shortLived(index);
      extra -= 1;
    } else if (what < 0.26) await attack();
    else if (what < 0.32) await camera();
    else await request(() => detector.score(images[index]), index, disposed);
  }
}

const delay = monitorEventLoopDelay({ resolution: 1 });
await pause(500);
const idle = process.memoryUsage.rss() / 1e6;
const rss = [];
let mostUsed = 0;
const sampler = setInterval(() => {
  rss.push(process.memoryUsage.rss() / 1e6);
  mostUsed = Math.max(mostUsed, detector.stats().imageMemory.used / 1e6);
}, 50);
const replacer = setInterval(() => void replace().catch((error) => unexpected.set(String(error.stack), 1)), 20_000);
delay.enable();
const work = Promise.all(Array.from({ length: clients }, client));
await Promise.race([work, pause(60_000 * minutes + 60_000)]);
delay.disable();
clearInterval(sampler);
clearInterval(replacer);
counts.lost = open.size;

// After the first sixth, when every size has been compiled and the heap has found its size.
const part = Math.max(1, rss.length / 6);
const growth = median(rss.slice(-Math.ceil(part))) - median(rss.slice(Math.floor(part), Math.ceil(2 * part)));
const leftInUse = detector.stats().imageMemory.used;
await detector[Symbol.asyncDispose]();
await pause(200);
const handles = process.getActiveResourcesInfo().filter((name) => !['TTYWrap', 'PipeWrap', 'Timeout'].includes(name));

const report = {
  requests: counts.requests,
  lost: counts.lost,
  duplicated: counts.duplicated,
  unexpectedErrors: [...unexpected.values()].reduce((a, b) => a + b, 0),
  eventLoopP99Ms: delay.percentile(99) / 1e6,
  rssGrowthMB: growth,
  memory: {
    budgetMB: memoryBudget / 1e6,
    mostUsedMB: mostUsed,
    leftInUse,
    rssAboveIdleMB: Math.max(...rss) - idle,
    allowanceMB: positive('allowance'),
  },
  details: {
    ...counts,
    ...hostileCounts,
    minutes,
    clients,
    eventLoopMaxMs: delay.max / 1e6,
    rssMB: { idle, start: rss[0], median: median(rss), largest: Math.max(...rss), end: rss.at(-1) },
    handles,
  },
};
await model.remove();
for (const [stack, times] of unexpected) console.error(`${times} times: ${stack}`);
if (values.json) await writeFile(values.json, `${JSON.stringify(report, null, 1)}\n`);
console.log(JSON.stringify(report, null, 1));
const wrong = [
  report.lost && 'answers were lost',
  report.duplicated && 'answers belong to other images',
  report.unexpectedErrors && 'unexpected errors',
  handles.length && 'handles are left',
  !(growth <= positive('max-growth')) && 'memory grew',
  !(mostUsed <= memoryBudget / 1e6 && leftInUse === 0) && 'the budget was exceeded, or not given back',
  !(report.memory.rssAboveIdleMB <= report.memory.budgetMB + report.memory.allowanceMB) &&
    'resident memory exceeded the budget and the allowance',
  !(report.eventLoopP99Ms <= positive('max-delay')) && "JavaScript's thread was held up",
].filter(Boolean);
if (wrong.length > 0) {
  console.error(`soak: FAILED: ${wrong.join('; ')}`);
  process.exitCode = 1;
}
