// Calls every function and method of the addon with arbitrary values: the process must not crash, every promise must
// settle, what is thrown must be an Error with a known code (or what hostile code threw), and memory must stay flat.
//   node test/fuzz/binding.mjs [--runs 20000] [--seed 1] [--minutes M] [--batch 25000]
// A run is one to four calls. Batches run in processes of their own; a crash names the seed and the run.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import fc from 'fast-check';
import { flags } from './flags.mjs';
import { tinyConfig, writeBackbone } from './models.mjs';
import * as values from './values.mjs';

const self = fileURLToPath(import.meta.url);
const root = path.resolve(path.dirname(self), '..', '..');
const settleMs = 60_000;
const growthLimit = 150 << 20;
const workerEvery = 1000;
const codes = new Set(
  'ABORTED ARGUMENT CONFIG DEVICE DISPOSED FILE_READ FILE_WRITE IMAGE MEMORY MODEL_FORMAT NUMERIC OPTION'
    .split(' ')
    .map((name) => `ERR_${name}`),
);

const { token, anything } = values;
/** Where each method is found and what its arguments are like. */
const methods = {
  info: ['addon'],
  loadDetector: ['addon', values.path, values.options, token],
  verify: ['addon', values.path, values.options, token],
  backboneTaps: ['addon', values.path, token],
  trainingMemory: ['addon', values.config, values.trainerOptions, token],
  release: ['addon', values.floats],
  profile: ['addon', values.measured, values.config, values.repetition, token],
  exportOnnx: ['addon', values.path, values.savePath, values.exported, token],
  exportWeights: ['addon', values.path, values.savePath, values.exported, token],
  fileDigest: ['addon', values.path, values.choice, token],
  NativeTrainer: ['new', values.config, values.trainerOptions],
  NativeImporter: ['new', values.path],
  CancelToken: ['new'],
  PixelBuffer: ['new', values.count],
  append: ['pixels', values.floats],
  cancel: ['token'],
  config: ['detector'],
  setConfig: ['detector', values.config],
  setMemory: ['detector', values.label, values.floats, values.count],
  observePlaces: ['detector', values.floats, values.count],
  setEvidence: ['detector', values.label, values.floats, values.floats, values.count, token],
  beginGaussian: ['detector', values.gaussian],
  observeGaussian: ['detector', values.image, token],
  finishGaussian: ['detector', values.label],
  reconstruct: ['detector', values.images, values.reconstruction, token],
  sample: ['detector', values.reconstruction, token],
  advance: ['detector', values.label, values.count, token],
  endReconstruction: ['detector', values.label],
  score: ['detector', values.image, token],
  scoreBatch: ['detector', values.images, values.tokens],
  save: ['detector', values.savePath, values.config, token],
  memory: ['detector'],
  origin: ['detector'],
  dispose: ['detector'],
  open: ['trainer', token],
  observe: ['trainer', values.floats, token],
  step: ['trainer', values.floats, values.labels, values.rate, token],
  saveCheckpoint: ['trainer', values.savePath, values.config, token],
  loadCheckpoint: ['trainer', values.path, token],
  initialize: ['trainer', values.path, values.choice, token],
  toDetector: ['trainer', values.config],
  trainerMemory: ['trainer'],
  trainerDispose: ['trainer'],
  importerOpen: ['importer', values.inspection, token],
  importerBegin: ['importer', values.savePath, values.config, values.path, token],
  importerWrite: ['importer', token],
  importerClose: ['importer'],
  importerDispose: ['importer'],
};
const weights = { score: 6, scoreBatch: 6, step: 3, setConfig: 2, dispose: 1 };
const receivers = {
  detector: ['detector', 'featureDetector', 'freshDetector', 'disposedDetector'],
  importer: ['importer', 'freshImporter', 'disposedImporter'],
  trainer: ['trainer', 'featureTrainer', 'freshTrainer', 'closedTrainer', 'disposedTrainer'],
};

const call = fc.oneof(
  ...Object.entries(methods).map(([name, [where, ...args]]) => ({
    weight: weights[name] ?? 2,
    arbitrary: fc.record({
      name: fc.constant(name),
      on: fc.constantFrom(...(receivers[where] ?? [where])),
      // another receiver, now and then
      self: fc.option(anything, { freq: 12 }),
      args: fc.oneof(
        { weight: 9, arbitrary: fc.tuple(...args) },
        { weight: 1, arbitrary: fc.array(anything, { maxLength: 5 }) },
      ),
      wait: fc.boolean(),
    }),
  })),
);
const sequence = fc.array(call, { minLength: 1, maxLength: 4 });

/** The objects that calls go to; those that may be disposed come anew. */
async function openWorld(addon, folder) {
  const at = (name) => path.join(folder, name);
  const plain = JSON.stringify(tinyConfig());
  const featured = JSON.stringify(tinyConfig(true));
  const engine = JSON.stringify({ threads: 1, backbone: at('backbone') });
  const newToken = () => (world.lastToken = new addon.CancelToken());
  const opened = async (config) => {
    const trainer = new addon.NativeTrainer(config, engine);
    await trainer.open(new addon.CancelToken());
    return trainer;
  };
  const hostile = new Set();
  const world = { addon, newToken, depth: 0, round: 0, path: at, plain };
  world.thrown = (value) => {
    hostile.add(value);
    return value;
  };
  world.wasThrown = (value) => hostile.has(value);
  world.reset = async () => {
    hostile.clear();
    world.depth = 0;
    if (!world.closedTrainer) world.closedTrainer = new addon.NativeTrainer(plain, engine);
    world.freshTrainer = new addon.NativeTrainer(plain, '{"threads":1}');
    // whatever an earlier run has disposed comes anew
    if (!alive(world.trainer)) world.trainer = await opened(plain);
    if (!alive(world.featureTrainer)) world.featureTrainer = await opened(featured);
    if (!alive(world.detector)) world.detector = await world.trainer.toDetector(plain);
    if (!alive(world.featureDetector)) world.featureDetector = await world.featureTrainer.toDetector(featured);
    world.freshDetector = world.detector;
    world.freshImporter = new addon.NativeImporter(at('model'));
    world.importer = await inspected();
    world.pixels = new addon.PixelBuffer(64);
    if (world.round++ % 2) world.pixels.append(new Uint8Array(64));
    world.victim = world.freshTrainer;
  };
  const alive = (object) => {
    try {
      return object.memory() !== undefined;
    } catch {
      return false;
    }
  };
  const inspected = async () => {
    const importer = new addon.NativeImporter(at('model'));
    await importer.open('{}', newToken());
    return importer;
  };
  world.disposedImporter = new addon.NativeImporter(at('model'));
  world.disposedImporter.dispose();
  if (!fs.existsSync(at('backbone'))) writeBackbone(at('backbone'));
  world.trainer = await opened(plain);
  world.featureTrainer = await opened(featured);
  world.detector = await world.trainer.toDetector(plain);
  world.featureDetector = await world.featureTrainer.toDetector(featured);
  world.disposedTrainer = new addon.NativeTrainer(plain, '{}');
  world.disposedTrainer.dispose();
  world.disposedDetector = await world.trainer.toDetector(plain);
  world.disposedDetector.dispose();
  if (!fs.existsSync(at('model'))) {
    await world.detector.save(at('model'), plain, newToken());
    await world.featureDetector.save(at('features'), featured, newToken());
    await world.trainer.saveCheckpoint(at('checkpoint'), plain, newToken());
  }
  return world;
}

/** Fails unless this is something that the call may throw or reject with. */
function judge(error, world, made, step) {
  if (world.wasThrown(error)) return;
  if (error instanceof Error && codes.has(error.code)) return;
  // JavaScript's own: a receiver of another class, a class that is called, a revoked proxy, a symbol as a number.
  const foreign = step.self !== null || step.on === 'new' || made.hostile;
  if (error instanceof TypeError && foreign) return;
  throw new Error(
    `${step.name}: unexpected ${error?.constructor?.name} ${error?.code}: ${error?.message ?? String(error)}`,
    {
      cause: error,
    },
  );
}

async function settled(promise, step) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${step.name}: its promise has not settled`)), settleMs);
  });
  const result = promise.then(
    (value) => ({ value }),
    (error) => ({ error, failed: true }),
  );
  try {
    return await Promise.race([result, late]);
  } finally {
    clearTimeout(timer);
  }
}

function receiverOf(step, world, make) {
  if (step.self !== null) return make(step.self);
  return step.on === 'addon' || step.on === 'new'
    ? world.addon
    : step.on === 'token'
      ? world.newToken()
      : world[step.on];
}

function functionOf(step, world) {
  const name =
    /^(?:trainer|importer)([A-Z]\w+)$/.exec(step.name)?.[1].replace(/^./, (c) => c.toLowerCase()) ?? step.name;
  if (step.on === 'addon' || step.on === 'new') return world.addon[name];
  if (step.on === 'token') return world.addon.CancelToken.prototype.cancel;
  return world[step.on][name];
}

let calls = 0;

async function runSequence(world, steps) {
  await world.reset();
  const make = values.maker(world);
  const pending = [];
  for (const step of steps) {
    calls++;
    const made = {
      hostile: JSON.stringify(step.args, (_, v) => (typeof v === 'bigint' ? 0 : v)).match(/"(odd|proxy|getters)"/),
    };
    let result;
    try {
      const receiver = receiverOf(step, world, make);
      const target = functionOf(step, world);
      const args = step.args.map(make);
      if (/^save|Begin$/.test(step.name) && typeof args[0] === 'string' && !args[0].startsWith(world.path('')))
        args[0] = args[0] && world.path(encodeURIComponent(args[0].toWellFormed?.() ?? 'x').slice(0, 300));
      result =
        step.on !== 'new'
          ? target.apply(receiver, args)
          : step.self === null
            ? new target(...args)
            : target.apply(receiver, args);
    } catch (error) {
      judge(error, world, made, step);
      continue;
    }
    if (!(result instanceof Promise)) continue;
    const end = settled(result, step).then(({ error, failed, value }) => {
      if (failed) judge(error, world, made, step);
      else if (step.name === 'loadDetector' || step.name === 'toDetector') value.dispose();
    });
    if (step.wait) await end;
    else pending.push(end);
  }
  await Promise.all(pending);
  for (const made of [world.freshTrainer, world.freshImporter, world.importer]) made.dispose();
}

/** A worker that makes calls and is stopped wherever it then is. */
async function stopWorker(folder, seed) {
  const worker = new Worker(self, { workerData: { folder, seed }, argv: [] });
  const ended = new Promise((resolve, reject) => worker.once('error', reject).once('exit', resolve));
  await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 100 + (seed % 200)))]);
  await worker.terminate();
  await ended;
}

function loadAddon() {
  return createRequire(import.meta.url)(
    path.resolve(process.env.DDAD_ADDON || path.join(root, 'build', 'Release', 'ddad.node')),
  );
}

/** One batch, in this process; `progress` takes the number of the run that begins. */
async function batch(folder, { seed, runs, end }, progress) {
  const world = await openWorld(loadAddon(), folder);
  let run = 0;
  let low = Infinity;
  const property = fc.asyncProperty(sequence, async (steps) => {
    progress(run++);
    if (run % workerEvery === 0 && isMainThread) await stopWorker(folder, seed + run);
    await runSequence(world, steps);
    if (run % 2000 !== 0) return;
    globalThis.gc?.();
    await new Promise(setImmediate);
    const now = process.memoryUsage.rss();
    if (run > runs / 4) low = Math.min(low, now);
    if (now - low > growthLimit) throw new Error(`memory grew from ${low} to ${now} bytes`);
  });
  const limit =
    end === undefined ? {} : { interruptAfterTimeLimit: Math.max(1, end - Date.now()), markInterruptAsFailure: false };
  const report = await fc.check(property, { seed, numRuns: runs, endOnFailure: true, ...limit });
  if (report.failed) throw new Error(fc.defaultReportMessage(report), { cause: report.errorInstance });
  return report.numRuns;
}

async function child([folder, seed, runs, end]) {
  process.chdir(folder);
  const progress = fs.openSync(path.join(folder, 'progress'), 'w');
  const number = Buffer.alloc(12);
  const tell = (run) => {
    number.write(String(run).padEnd(12));
    fs.writeSync(progress, number, 0, 12, 0);
  };
  const done = await batch(
    folder,
    { seed: Number(seed), runs: Number(runs), end: end ? Number(end) : undefined },
    tell,
  );
  fs.writeFileSync(path.join(folder, 'done'), JSON.stringify({ runs: done, calls }));
}

/** Runs batches until `runs` or `minutes` are over; returns { runs, calls }. Throws with what was found. */
export function fuzzBinding({ runs = 20_000, seed = 1, minutes, batch: most = 25_000, log = () => {} }) {
  const end = minutes === undefined ? undefined : Date.now() + minutes * 60_000;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ddad-fuzz-'));
  const total = { runs: 0, calls: 0 };
  try {
    for (let at = seed; minutes === undefined ? total.runs < runs : Date.now() < end; at++) {
      const count = minutes === undefined ? Math.min(most, runs - total.runs) : most;
      const args = ['--expose-gc', self, '--child', folder, String(at), String(count), ...(end ? [String(end)] : [])];
      fs.rmSync(path.join(folder, 'done'), { force: true });
      const env = { ...process.env, DDAD_AUTOTUNE: 'off', GOMP_SPINCOUNT: '1000' };
      const result = spawnSync(process.execPath, args, { encoding: 'utf8', env, maxBuffer: 1 << 26 });
      if (result.status !== 0) {
        const run = fs.readFileSync(path.join(folder, 'progress'), 'utf8').trim();
        const how = result.signal ?? `status ${result.status}`;
        throw new Error(`binding: seed ${at}, run ${run}: ${how}\n${result.stdout}${result.stderr}`);
      }
      const done = JSON.parse(fs.readFileSync(path.join(folder, 'done'), 'utf8'));
      total.runs += done.runs;
      total.calls += done.calls;
      log(`binding: seed ${at}: ${total.runs} runs, ${total.calls} calls`);
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
  return total;
}

if (!isMainThread) {
  await batch(workerData.folder, { seed: workerData.seed, runs: 100_000 }, () => {});
} else if (process.argv[2] === '--child') {
  await child(process.argv.slice(3));
} else if (process.argv[1] === self) {
  const start = performance.now();
  const done = fuzzBinding({ ...flags(['runs', 'seed', 'minutes', 'batch']), log: (line) => console.log(line) });
  console.log(
    `binding: ${done.runs} runs, ${done.calls} calls in ${Math.round((performance.now() - start) / 1000)} s, no finding`,
  );
}
