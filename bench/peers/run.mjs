// Times ddad-native against PyTorch and onnxruntime, in turns, in one run: `npm run bench:peers -- --help`.
//
// Each side is a process that stays alive and answers one JSON line with one JSON line; README.md has the protocol.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ownEnvironment, parseCommandLine, root, usage, UsageError } from './options.mjs';
import { preparePython, runScript } from './python.mjs';
import { commandsFor, makeSides, ours, ourWorker, peersAmong } from './sides.mjs';
import { median, relativeError, summary, table } from './stats.mjs';
import { Worker, workerEnvironment } from './worker.mjs';
import { isMemoryWorkload, nameOf, workloadsOf } from './workloads.mjs';

const tolerances = { out: 1e-4, kl: 1e-4, maps: 1e-4, scores: 1e-4, losses: 1e-4, gradNorm: 1e-3 };

/** Models, check inputs and ONNX graphs that the sides read. */
function makeFiles(works, folder, python, environment, exported) {
  const file = (name) => join(folder, name);
  const plan = { models: [], inputs: [], graphs: [], exports: [] };
  const files = new Map();
  for (const work of works) {
    const { workload, preset, config, size, images } = work;
    const model = file(`${preset}.safetensors`);
    if (!plan.models.some(({ path }) => path === model)) plan.models.push({ path: model, config });
    const inputs = file(`${nameOf(work)}.safetensors`);
    plan.inputs.push({ path: inputs, config, workload, size, images });
    const graphs = {};
    const addGraphs = (name, list) => {
      const path = (kind) => file(`${nameOf(work)}-${name}-${kind}.onnx`);
      graphs[name] = { timed: path('timed'), check: path('check') };
      for (const [kind, target] of Object.entries(graphs[name]))
        list.push({ path: target, model, config, images, fresh_noise: kind === 'timed' });
    };
    if (workload === 'score') addGraphs('written', plan.graphs);
    if (workload === 'score' && exported) addGraphs('exported', plan.exports);
    files.set(work, { model, inputs, graphs });
  }
  const planFile = file('plan.json');
  writeFileSync(planFile, JSON.stringify(plan));
  if (!runScript(python, environment, 'make_inputs.py', planFile)) throw new Error('make_inputs.py failed');
  if (exported && !runScript(python, environment, 'export_torch.py', planFile))
    throw new Error('export_torch.py failed');
  return files;
}

const setupMessage = (work, { model, graphs }, { threads }) => ({
  op: 'setup',
  workload: work.workload,
  preset: work.config.unet,
  config: work.config,
  size: work.size,
  images: work.images,
  threads,
  model,
  graphs,
});

function decode({ shape, data }) {
  const bytes = Buffer.from(data, 'base64');
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  if (values.length !== shape.reduce((product, size) => product * size, 1))
    throw new Error(`expected ${shape.join('x')} float32 values, got ${values.length}`);
  return { shape, values };
}

/** Error of each tensor against the first peer's, PyTorch's if it is there; throws when one is above its tolerance. */
async function compareOutputs(workers, inputs, title) {
  const [reference] = peersAmong(Object.keys(workers));
  const replies = {};
  for (const [name, worker] of Object.entries(workers)) replies[name] = await worker.ask({ op: 'output', inputs });
  const errors = {};
  for (const [name, { tensors }] of Object.entries(replies)) {
    if (name === reference) continue;
    if (!tensors.out) throw new Error(`${name}: no tensor "out" in its output`);
    for (const [tensor, tolerance] of Object.entries(tolerances)) {
      if (!tensors[tensor] || !replies[reference].tensors[tensor]) continue;
      const out = decode(tensors[tensor]);
      const ref = decode(replies[reference].tensors[tensor]);
      if (String(out.shape) !== String(ref.shape))
        throw new Error(`${title}: ${name}: "${tensor}" has shape ${out.shape}, expected ${ref.shape}`);
      const error = relativeError(out.values, ref.values);
      // Not "error > tolerance": NaN must fail.
      if (!(error <= tolerance))
        throw new Error(`${title}: ${name}: "${tensor}" differs from ${reference} by ${error}, allowed ${tolerance}`);
      errors[name] = { ...errors[name], [tensor]: error };
    }
  }
  return errors;
}

/** Starts a worker a command, hands them to `use`, and ends them whatever happens. */
async function withWorkers(commands, environment, use) {
  const workers = {};
  try {
    for (const [name, command] of Object.entries(commands)) workers[name] = new Worker(command, environment);
    const result = await use(workers);
    for (const worker of Object.values(workers)) await worker.quit();
    return result;
  } finally {
    for (const worker of Object.values(workers)) worker.kill();
  }
}

/** Sets all sides up; an optional side that cannot is taken out of `workers` and of `sides`. */
async function setUp(workers, message, sides, leftOut) {
  const engines = {};
  for (const [name, worker] of Object.entries(workers)) {
    try {
      engines[name] = await worker.ask(message);
    } catch (error) {
      if (!sides[name].optional) throw error;
      worker.kill();
      delete workers[name];
      delete sides[name];
      leftOut.push(`${name}: ${error.message.split('\n')[0]}`);
      console.error(`peers: left out: ${leftOut.at(-1)}`);
    }
  }
  return engines;
}

async function timeWorkload(work, files, sides, leftOut, environment, options) {
  return withWorkers(commandsFor(sides, work), environment, async (workers) => {
    const engines = await setUp(workers, setupMessage(work, files, options), sides, leftOut);
    const errors = await compareOutputs(workers, files.inputs, work.title);

    const scoring = work.workload === 'score';
    const iterations = {};
    for (const [name, worker] of Object.entries(workers)) {
      const { seconds } = await worker.ask({ op: 'run', iterations: 1, warmup: scoring ? 2 : 1 });
      iterations[name] = Math.max(1, Math.min(50, Math.ceil((options.quick ? 0.3 : 1) / seconds[0])));
    }
    const turns = Object.fromEntries(Object.keys(workers).map((name) => [name, []]));
    for (let round = 0; round < options.rounds; round++) {
      const order = Object.keys(workers);
      if (round % 2) order.reverse();
      for (const name of order) {
        // The threads of the side before may spin after their last work, onnxruntime's for about 35 ms.
        await sleep(100);
        const request = { op: 'run', iterations: iterations[name], warmup: scoring ? 1 : 0 };
        turns[name].push((await workers[name].ask(request)).seconds);
      }
    }
    return { engines, errors, turns };
  });
}

/** Peak resident memory in KiB: after start-up (libraries loaded, nothing set up) and after a few iterations. */
async function measureMemory(work, files, sides, environment, options) {
  const result = {};
  for (const [name, command] of Object.entries(commandsFor(sides, work, true)))
    result[name] = await withWorkers({ [name]: command }, environment, async ({ [name]: worker }) => {
      const baseline = await worker.ask({ op: 'rss' });
      await worker.ask(setupMessage(work, files, options));
      await worker.ask({ op: 'run', iterations: 3 });
      const peak = await worker.ask({ op: 'rss' });
      return { baselineKb: baseline.peakKb, peakKb: peak.peakKb };
    });
  return result;
}

const milliseconds = (seconds) => (seconds * 1000).toFixed(seconds < 1 ? 1 : 0);
const best = (names, value) => names.reduce((a, b) => (value(b) < value(a) ? b : a));

/** Adds a workload's timings to the report; returns its row of the table. */
function reportTiming(work, { engines, errors, turns }, report, names) {
  const times = Object.fromEntries(Object.entries(turns).map(([name, rounds]) => [name, summary(rounds.flat())]));
  const peer = best(peersAmong(Object.keys(times)), (name) => times[name].median);
  report.times[nameOf(work)] = { unit: 's', sides: times, bestPeer: peer, outputErrors: errors };
  report.engines = { ...report.engines, ...engines };
  const row = [work.title, ...names.map((name) => (times[name] ? milliseconds(times[name].median) : '-'))];
  if (!times[ours]) return row;
  // Round by round, so that a drift of the machine's speed drops out.
  const ratios = summary(turns[ours].map((mine, round) => median(turns[peer][round]) / median(mine)));
  report[work.workload === 'score' ? 'scoring' : 'training'][work.key] = ratios.median;
  report.times[nameOf(work)].ratio = ratios;
  return [...row, ratios.median.toFixed(2), `${ratios.min.toFixed(2)} - ${ratios.max.toFixed(2)}`];
}

function reportMemory(work, usage, report, names) {
  const peers = peersAmong(Object.keys(usage));
  const peer = best(peers, (name) => usage[name].peakKb);
  report.memoryKb[nameOf(work)] = { sides: usage, bestPeer: peer };
  const mebibytes = ({ baselineKb, peakKb }) => `${Math.round(peakKb / 1024)} (${Math.round(baselineKb / 1024)})`;
  const row = [nameOf(work), ...names.map((name) => (usage[name] ? mebibytes(usage[name]) : '-'))];
  if (!usage[ours]) return row;
  const ratio = usage[ours].peakKb / usage[peer].peakKb;
  report.memory[nameOf(work)] = ratio;
  const grown = ({ baselineKb, peakKb }) => peakKb - baselineKb;
  report.memoryKb[nameOf(work)].ratioAboveStart =
    grown(usage[ours]) / Math.min(...peers.map((name) => grown(usage[name])));
  return [...row, ratio.toFixed(2), report.memoryKb[nameOf(work)].ratioAboveStart.toFixed(2)];
}

async function main() {
  const options = parseCommandLine();
  if (options.help) {
    console.log(usage);
    return 0;
  }
  const environment = workerEnvironment(options.isa);
  const ownPython = options.venv === ownEnvironment;
  if (options.check) {
    const { python, torch } = preparePython(options.venv, ownPython, environment, true);
    if (!torch) return 1;
    return runScript(python, environment, 'unet_torch.py', '--check', resolve(options.check)) ? 0 : 1;
  }
  if (!options.peerOnly) ourWorker(options); // a missing build is told before gigabytes are installed
  const { python, torch } = preparePython(options.venv, ownPython, environment, options.torch);
  const sides = makeSides(options, python, torch);
  const names = Object.keys(sides);
  const hasPeer = (work) => peersAmong(Object.keys(commandsFor(sides, work))).length > 0;
  const works = workloadsOf(options.presets).filter(hasPeer);
  if (works.length === 0) throw new Error('no peer is left');
  const leftOut = [];
  if (!torch) leftOut.push('PyTorch, and with it training');
  if (options.isa) leftOut.push('onnxruntime and torch.compile, whose instruction set cannot be capped');
  for (const what of leftOut) console.error(`peers: left out: ${what}`);
  const report = {
    scoring: {},
    training: {},
    memory: {},
    times: {},
    memoryKb: {},
    leftOut,
    threads: options.threads,
    rounds: options.rounds,
    isa: options.isa ?? 'best',
    processor: cpus()[0].model,
    processors: cpus().length,
    loadAverage: loadavg()[0],
    node: process.version,
    commit:
      spawnSync('git', ['rev-parse', '--verify', '--quiet', 'HEAD'], { cwd: root, encoding: 'utf8' }).stdout?.trim() ||
      null,
    date: new Date().toISOString(),
  };
  if (report.loadAverage > 0.5)
    console.error(`peers: the machine is busy (load ${report.loadAverage.toFixed(2)}); the spread will tell`);

  const folder = mkdtempSync(join(tmpdir(), 'ddad-peers-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])
    process.once(signal, () => {
      console.error(`peers: stopped by ${signal}`);
      process.exit(code);
    });
  const files = makeFiles(works, folder, python, environment, torch && options.exported);

  const withOurs = (...columns) => (options.peerOnly ? [] : columns);
  const timings = [['median, ms', ...names, ...withOurs('ours/best', 'spread')]];
  for (const work of works) {
    console.error(`peers: ${work.title}`);
    const timing = await timeWorkload(work, files.get(work), sides, leftOut, environment, options);
    timings.push(reportTiming(work, timing, report, names));
    // A long run that is stopped should not have been for nothing.
    console.error(`peers: ${names.map((name, i) => `${name} ${timings.at(-1)[i + 1]}`).join(', ')} ms`);
  }
  const memory = [['peak (at start), MiB', ...names, ...withOurs('ours/best', 'above start')]];
  for (const work of works.filter(isMemoryWorkload)) {
    console.error(`peers: memory of ${nameOf(work)}`);
    const usage = await measureMemory(work, files.get(work), sides, environment, options);
    memory.push(reportMemory(work, usage, report, names));
  }
  const engines = Object.values(report.engines).map(({ engine, isa }) => (isa ? `${engine} (${isa})` : engine));
  console.log(`${report.processor}, ${options.threads} threads; ${[...new Set(engines)].join(', ')}\n`);
  console.log(`${table(timings)}\n`);
  if (memory.length > 1) console.log(table(memory));
  if (options.json) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`peers: ${error.message}`);
  if (error instanceof UsageError) console.error('peers: see --help');
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
