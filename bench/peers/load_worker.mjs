// A side of the load test, a process of its own: answers JSON lines on stdin with JSON lines on stdout (`load.mjs` has
// the requests). `node load_worker.mjs ddad-native PACKAGE` or `node load_worker.mjs onnxruntime FOLDER`.
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import { answerRequests, sessionOptions } from './answer.mjs';
import { quantile } from './stats.mjs';

const [side, folder] = process.argv.slice(2);
const require = createRequire(join(folder, 'package.json'));

/** Our side: the public API, which queues the calls and scores them in batches. */
async function detector({ model, threads, maxBatch, concurrent }) {
  const { Detector } = require(join(folder, 'dist', 'index.js'));
  const given = { ...(maxBatch && { maxBatch }), maxQueue: 2 * concurrent, whenFull: 'wait' };
  const loaded = await Detector.load(model, { device: 'cpu', threads, ...given });
  return async (bytes) => (await loaded.score(bytes)).score;
}

/** The peer: what one writes with sharp and onnxruntime-node, a run for each image. */
async function session({ graph, size, threads }) {
  const ort = require('onnxruntime-node');
  const loaded = await ort.InferenceSession.create(graph, sessionOptions(threads));
  const pixels = size * size;
  return async (bytes) => {
    const image = sharp(bytes, { autoOrient: true }).resize(size, size, { fit: 'fill' });
    const data = await image.removeAlpha().toColourspace('srgb').raw().toBuffer();
    const x0 = new Float32Array(3 * pixels);
    for (let i = 0; i < pixels; i++) for (let c = 0; c < 3; c++) x0[c * pixels + i] = data[3 * i + c] / 127.5 - 1;
    const { scores } = await loaded.run({ x0: new ort.Tensor('float32', x0, [1, 3, size, size]) });
    return scores.data[0];
  };
}

let score;
let images;
/** Of each image as first scored; null where the side draws fresh noise, so that no two scores are the same. */
let expected;

async function setup(message) {
  score = await (side === 'onnxruntime' ? session(message) : detector(message));
  images = readdirSync(message.images)
    .sort()
    .map((name) => readFileSync(join(message.images, name)));
  const scores = [];
  for (const bytes of images) scores.push(await score(bytes));
  expected = side === 'onnxruntime' ? null : scores;
  const manifest = side === 'onnxruntime' ? 'onnxruntime-node/package.json' : join(folder, 'package.json');
  return { engine: `${side} ${require(manifest).version}`, scores };
}

/** Keeps `concurrent` requests in flight until the time is over, then waits for the last of them. */
async function load({ seconds, concurrent }) {
  const answers = []; // how often each request has been answered
  const latencies = [];
  let [failed, mixedUp] = [0, 0];
  let problem = null;
  const delay = monitorEventLoopDelay({ resolution: 1 });
  await sleep(50); // what came before is over
  delay.enable();
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  const end = start + 1000 * seconds;
  const client = async () => {
    while (performance.now() < end) {
      const id = answers.push(0) - 1;
      const begun = performance.now();
      try {
        const found = await score(images[id % images.length]);
        latencies.push(performance.now() - begun);
        // Batches may round differently, but not as images differ.
        const own = expected?.[id % images.length];
        if (own !== undefined && !(Math.abs(found - own) <= 1e-5 * Math.abs(own))) mixedUp += 1;
      } catch (error) {
        failed += 1;
        problem ??= error.message;
      }
      answers[id] += 1;
    }
  };
  const clients = Array.from({ length: concurrent }, client);
  // A request that is never answered must not hold up the report.
  const patience = 1000 * seconds + 60_000;
  await Promise.race([Promise.all(clients), sleep(patience, undefined, { ref: false })]);
  const elapsed = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  delay.disable();
  const ms = (nanoseconds) => nanoseconds / 1e6;
  const at = (q) => quantile(latencies, q);
  return {
    concurrent,
    seconds: elapsed,
    requests: answers.length,
    perSecond: latencies.length / elapsed,
    latencyMs: { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) },
    eventLoopDelayMs: { p50: ms(delay.percentile(50)), p99: ms(delay.percentile(99)), max: ms(delay.max) },
    coresBusy: (user + system) / 1e6 / elapsed,
    lost: answers.filter((count) => count === 0).length,
    answeredTwice: answers.filter((count) => count > 1).length,
    failed,
    mixedUp: expected ? mixedUp : null,
    problem,
    peakRssMb: process.resourceUsage().maxRSS / 1024,
  };
}

await answerRequests({ setup, load });
process.exit(0); // also where a request is still out
