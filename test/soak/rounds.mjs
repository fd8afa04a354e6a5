// Randomised ends: aborts, exits of the process and terminations of workers, at any moment of scoring and training.
//   node test/soak/rounds.mjs [--rounds 200] [--seed 1]
// Each round must end as such a round ends: no crash, no hang, the expected codes. DDAD_ADDON names another build, the
// debug build say, whose sanitizers then watch (npm run build:debug -- --addon tells the command).
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { Detector, Trainer } from '../../dist/index.js';
import { random, tiny } from '../helpers/common.mjs';
import { makeImages, makeModel } from './images.mjs';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '200' }, seed: { type: 'string', default: '1' } },
});
const rounds = Number(values.rounds);
const next = random(Number(values.seed));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const busy = fileURLToPath(new URL('busy.mjs', import.meta.url));
const model = await makeModel();
const images = await makeImages(6, 1);
const slowest = 60_000; // ms for a round to end, with sanitizers on a loaded machine

/** The code with which work ends, or `done`. */
const endOf = (work) =>
  work.then(
    () => 'done',
    ({ code }) => code,
  );
function expect(what, found, allowed) {
  for (const end of [found].flat()) if (!allowed.includes(end)) throw new Error(`${what}: ended with ${end}`);
}

async function abortScores() {
  const detector = await Detector.load(model.model, { threads: 1 + Math.floor(2 * next()) });
  const work = Array.from({ length: 12 }, () => {
    const controller = new AbortController();
    const when = next();
    if (when < 0.2) controller.abort();
    else if (when < 0.9) setTimeout(() => controller.abort(), 40 * next());
    return endOf(detector.score(images[Math.floor(images.length * next())], { signal: controller.signal }));
  });
  if (next() < 0.5) await pause(30 * next()).then(() => detector.dispose());
  expect('scores', await Promise.all(work), ['done', 'ERR_ABORTED', 'ERR_DISPOSED']);
  detector.dispose();
}

async function abortTraining() {
  const controller = new AbortController();
  const trainer = new Trainer({ ...tiny, steps: 50, threads: 2 });
  setTimeout(() => controller.abort(), 400 * next());
  const work = (async () => {
    for await (const progress of trainer.fit(model.dataset, { signal: controller.signal })) void progress;
  })();
  expect('training', await endOf(work), ['done', 'ERR_ABORTED']);
  trainer.dispose();
}

/** What busy.mjs is asked to do. */
const task = () => ({ model: model.model, dataset: model.dataset, train: next() < 0.4, tiny });

async function terminateWorker() {
  const worker = new Worker(busy, { workerData: { ...task(), images } });
  let failure;
  worker.on('error', (error) => (failure = error));
  if (next() < 0.7) await Promise.race([once(worker, 'message'), once(worker, 'exit')]);
  await pause(80 * next() ** 2);
  await worker.terminate();
  if (failure) throw failure;
}

/** A process that ends itself or is told to, in the middle of its work. */
async function exitProcess() {
  const ways = { exit: [7], throw: [1], SIGTERM: ['SIGTERM'], SIGINT: ['SIGINT'] };
  const way = Object.keys(ways)[Math.floor(4 * next())];
  const child = spawn(process.execPath, [busy, JSON.stringify({ ...task(), way, after: 300 * next() ** 2 })], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  child.stdout.once('data', () => way.startsWith('SIG') && setTimeout(() => child.kill(way), 200 * next() ** 2));
  const [code, signal] = await once(child, 'close');
  expect(`process (${way})${stderr && `: ${stderr}`}`, code ?? signal, ways[way]);
}

const kinds = { abortScores, abortTraining, terminateWorker, exitProcess };
const done = Object.fromEntries(Object.keys(kinds).map((kind) => [kind, 0]));
try {
  for (let round = 0; round < rounds; round++) {
    const kind = Object.keys(kinds)[Math.floor(4 * next())];
    const limit = setTimeout(() => {
      console.error(`rounds: round ${round} (${kind}, seed ${values.seed}) hangs`);
      process.exit(1);
    }, slowest);
    try {
      await kinds[kind]();
    } catch (error) {
      throw new Error(`round ${round} (${kind}, seed ${values.seed})`, { cause: error });
    } finally {
      clearTimeout(limit);
    }
    done[kind] += 1;
  }
} finally {
  await model.remove();
}
console.log(
  JSON.stringify({ rounds, seed: Number(values.seed), ...done, addon: path.basename(process.env.DDAD_ADDON ?? '') }),
);
