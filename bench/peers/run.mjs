// Times ddad-native against PyTorch, in turns, in one run: `node bench/peers/run.mjs --help`.
//
// Each side is a process that stays alive and answers one JSON line with one JSON line (stdin, stdout; stderr is free):
//   {"op":"setup","workload":"score"|"train","preset":{unet configuration},"config":{model configuration},"size":64,
//    "images":1,"threads":2,"model":"path.safetensors"|null}  -> {"ok":true,"engine":"name version","isa":"avx2"}
//   {"op":"output","inputs":"path.safetensors"}  -> {"tensors":{"out":{"shape":[..],"data":"base64 of float32"},..}}
//   {"op":"run","iterations":k,"warmup":w}       -> {"seconds":[k numbers]}
//   {"op":"rss"}                                 -> {"peakKb":n,"currentKb":n}   also before setup
//   {"op":"quit"}                                -> ends with exit code 0, as at the end of stdin
// A request that fails is answered by {"error":"message"}. README.md says what each op computes.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { pythonWithTorch, runScript } from './python.mjs';
import { median, relativeError, summary, table } from './stats.mjs';
import { Worker, workerEnvironment } from './worker.mjs';
import { isMemoryWorkload, nameOf, presetNames, workloadsOf } from './workloads.mjs';

const usage = `Usage: node bench/peers/run.mjs [options]

Compares the outputs of ddad-native and of PyTorch (eager, contiguous and channels-last) for the same weights, then times
them in turns and measures the peak memory of fresh processes.

  --json FILE       write the report as JSON
  --rounds N        turns of each side (7; 3 with --quick)
  --presets LIST    comma-separated, of ${presetNames.join(', ')} (all)
  --quick           shorter turns, fewer of them
  --threads N       threads of each side (2)
  --isa NAME        cap the instruction set of both sides: avx2 or avx512
  --worker PATH     our side (ddad_bench of the build folder)
  --peer-only       PyTorch alone
  --venv DIR        Python environment with the pinned PyTorch, made if absent (.deps/peers)
  --check DIR       compare the PyTorch network with the golden files in DIR instead`;

const root = resolve(import.meta.dirname, '../..');
const ownEnvironment = join(root, '.deps/peers');
const workerCandidates = ['build/ddad_bench', 'build/Release/ddad_bench'];
const tolerances = { out: 1e-4, kl: 1e-4, losses: 1e-4, gradNorm: 1e-3 };

class UsageError extends Error {}

function parseCommandLine() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        json: { type: 'string' },
        rounds: { type: 'string' },
        presets: { type: 'string', default: presetNames.join(',') },
        quick: { type: 'boolean', default: false },
        threads: { type: 'string', default: '2' },
        isa: { type: 'string' },
        worker: { type: 'string' },
        'peer-only': { type: 'boolean', default: false },
        venv: { type: 'string', default: ownEnvironment },
        check: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const whole = (name, text) => {
    if (!/^[1-9]\d{0,3}$/.test(text)) throw new UsageError(`--${name}: expected a positive whole number, got ${text}`);
    return Number(text);
  };
  const presets = values.presets.split(',');
  for (const name of presets)
    if (!presetNames.includes(name)) throw new UsageError(`--presets: expected ${presetNames.join(', ')}, got ${name}`);
  if (values.isa && !['avx2', 'avx512'].includes(values.isa))
    throw new UsageError(`--isa: expected avx2 or avx512, got ${values.isa}`);
  return {
    ...values,
    presets,
    rounds: whole('rounds', values.rounds ?? (values.quick ? '3' : '7')),
    threads: whole('threads', values.threads),
    venv: resolve(values.venv),
    peerOnly: values['peer-only'],
  };
}

/** The sides by name; ours is first. */
function sidesOf(options, python) {
  const script = join(import.meta.dirname, 'torch_worker.py');
  const sides = {
    'PyTorch eager': [python, script, '--layout', 'nchw'],
    'PyTorch channels-last': [python, script, '--layout', 'channels-last'],
  };
  if (options.peerOnly) return sides;
  const worker = options.worker
    ? resolve(options.worker)
    : workerCandidates.map((path) => join(root, path)).find((path) => existsSync(path));
  if (!worker || !existsSync(worker))
    throw new UsageError(
      `our side is not built: expected ${options.worker ?? workerCandidates.join(' or ')}; build the target ddad_bench ` +
        'or give --worker PATH or --peer-only',
    );
  return { [ours]: [worker, 'peer'], ...sides };
}

const ours = 'ddad-native';
const reference = 'PyTorch eager';

/** Models and check inputs that both sides read. */
function makeFiles(works, folder, python, environment) {
  const file = (name) => join(folder, `${name}.safetensors`);
  const plan = { models: [], inputs: [] };
  const files = new Map();
  for (const work of works) {
    const { workload, preset, config, size, images } = work;
    const model = file(preset);
    if (!plan.models.some(({ path }) => path === model)) plan.models.push({ path: model, config });
    const inputs = file(nameOf(work));
    plan.inputs.push({ path: inputs, config, workload, size, images });
    files.set(work, { model, inputs });
  }
  const planFile = join(folder, 'plan.json');
  writeFileSync(planFile, JSON.stringify(plan));
  if (!runScript(python, environment, 'make_inputs.py', planFile)) throw new Error('make_inputs.py failed');
  return files;
}

const setupMessage = (work, { model }, { threads }) => ({
  op: 'setup',
  workload: work.workload,
  preset: work.config.unet,
  config: work.config,
  size: work.size,
  images: work.images,
  threads,
  model,
});

function decode({ shape, data }) {
  const bytes = Buffer.from(data, 'base64');
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  if (values.length !== shape.reduce((product, size) => product * size, 1))
    throw new Error(`expected ${shape.join('x')} float32 values, got ${values.length}`);
  return { shape, values };
}

/** Largest error of each tensor against the reference side; throws when one is above its tolerance. */
async function compareOutputs(workers, inputs, title) {
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
        throw new Error(`${title}: ${name}: "${tensor}" differs from PyTorch by ${error}, allowed ${tolerance}`);
      errors[name] = { ...errors[name], [tensor]: error };
    }
  }
  return errors;
}

/** Starts a worker a side, hands them to `use`, and ends them whatever happens. */
async function withWorkers(sides, environment, use) {
  const workers = {};
  try {
    for (const [name, command] of Object.entries(sides)) workers[name] = new Worker(command, environment);
    const result = await use(workers);
    for (const worker of Object.values(workers)) await worker.quit();
    return result;
  } finally {
    for (const worker of Object.values(workers)) worker.kill();
  }
}

async function timeWorkload(work, files, sides, environment, options) {
  return withWorkers(sides, environment, async (workers) => {
    const engines = {};
    for (const [name, worker] of Object.entries(workers))
      engines[name] = await worker.ask(setupMessage(work, files, options));
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
        // The threads of the side before may spin for some milliseconds after their last work.
        await sleep(30);
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
  for (const [name, command] of Object.entries(sides))
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
const peersOf = (sides) => Object.keys(sides).filter((name) => name !== ours);

/** Adds a workload's timings to the report; returns its row of the table. */
function reportTiming(work, { engines, errors, turns }, report, sides) {
  const times = Object.fromEntries(Object.entries(turns).map(([name, rounds]) => [name, summary(rounds.flat())]));
  const peer = best(peersOf(sides), (name) => times[name].median);
  report.times[nameOf(work)] = { unit: 's', sides: times, bestPeer: peer, outputErrors: errors };
  report.engines = { ...report.engines, ...engines };
  const row = [work.title, ...Object.keys(sides).map((name) => milliseconds(times[name].median))];
  if (!sides[ours]) return row;
  // Round by round, so that a drift of the machine's speed drops out.
  const ratios = summary(turns[ours].map((mine, round) => median(turns[peer][round]) / median(mine)));
  report[work.workload === 'score' ? 'scoring' : 'training'][work.key] = ratios.median;
  report.times[nameOf(work)].ratio = ratios;
  return [...row, ratios.median.toFixed(2), `${ratios.min.toFixed(2)} - ${ratios.max.toFixed(2)}`];
}

function reportMemory(work, usage, report, sides) {
  const peer = best(peersOf(sides), (name) => usage[name].peakKb);
  report.memoryKb[nameOf(work)] = { sides: usage, bestPeer: peer };
  const mebibytes = ({ baselineKb, peakKb }) => `${Math.round(peakKb / 1024)} (${Math.round(baselineKb / 1024)})`;
  const row = [nameOf(work), ...Object.keys(sides).map((name) => mebibytes(usage[name]))];
  if (!sides[ours]) return row;
  const ratio = usage[ours].peakKb / usage[peer].peakKb;
  report.memory[nameOf(work)] = ratio;
  const grown = ({ baselineKb, peakKb }) => peakKb - baselineKb;
  report.memoryKb[nameOf(work)].ratioAboveStart =
    grown(usage[ours]) / Math.min(...peersOf(sides).map((name) => grown(usage[name])));
  return [...row, ratio.toFixed(2), report.memoryKb[nameOf(work)].ratioAboveStart.toFixed(2)];
}

async function main() {
  const options = parseCommandLine();
  if (options.help) {
    console.log(usage);
    return 0;
  }
  const environment = workerEnvironment(options.isa);
  if (options.check) {
    const python = pythonWithTorch(options.venv, options.venv === ownEnvironment, environment);
    return runScript(python, environment, 'unet_torch.py', '--check', resolve(options.check)) ? 0 : 1;
  }
  sidesOf(options, ''); // a missing build is told before gigabytes are installed
  const python = pythonWithTorch(options.venv, options.venv === ownEnvironment, environment);
  const sides = sidesOf(options, python);
  const works = workloadsOf(options.presets);
  const report = {
    scoring: {},
    training: {},
    memory: {},
    times: {},
    memoryKb: {},
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
  const files = makeFiles(works, folder, python, environment);

  const names = Object.keys(sides);
  const timings = [['median, ms', ...names, ...(sides[ours] ? ['ours/best', 'spread'] : [])]];
  for (const work of works) {
    console.error(`peers: ${work.title}`);
    const timing = await timeWorkload(work, files.get(work), sides, environment, options);
    timings.push(reportTiming(work, timing, report, sides));
  }
  const memory = [['peak (at start), MiB', ...names, ...(sides[ours] ? ['ours/best', 'above start'] : [])]];
  for (const work of works.filter(isMemoryWorkload)) {
    console.error(`peers: memory of ${nameOf(work)}`);
    memory.push(
      reportMemory(work, await measureMemory(work, files.get(work), sides, environment, options), report, sides),
    );
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
