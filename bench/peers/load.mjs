// A service under load, with ddad-native and with onnxruntime-node: `npm run bench:peers-load -- --help`.
//
// Each side is a process that decodes and scores the same images with the same weights, first one at a time, then many at
// once. They run one after the other, never together.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { installOnnxruntime } from './onnxruntime.mjs';
import { ownEnvironment, root, scratch, UsageError } from './options.mjs';
import { preparePython, runScript } from './python.mjs';
import { ours } from './sides.mjs';
import { table } from './stats.mjs';
import { Worker, workerEnvironment } from './worker.mjs';
import { workloadsOf } from './workloads.mjs';

const peer = 'onnxruntime';

const usage = `Usage: npm run bench:peers-load -- [options]

Decodes and scores camera images one at a time and then many at once, with ddad-native and with onnxruntime-node, and
reports throughput, latency, the delay of JavaScript's event loop, memory, and requests without or with two answers.

  --seconds N       how long the load lasts; one at a time a fifth of it, at least 5 (300)
  --image WxH       size of the camera's images (2448x2048)
  --concurrent N    requests in flight (200)
  --threads N       threads of each side (2)
  --max-batch N     images that ddad-native scores together (its own default)
  --sides LIST      comma-separated, of ${ours}, ${peer} (both)
  --package DIR     the built ddad-native to take (this one)
  --venv DIR        Python environment with the pinned packages, made if absent (.deps/peers/python)
  --json FILE       write the report as JSON`;

function parseCommandLine() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        seconds: { type: 'string', default: '300' },
        image: { type: 'string', default: '2448x2048' },
        concurrent: { type: 'string', default: '200' },
        threads: { type: 'string', default: '2' },
        'max-batch': { type: 'string' },
        sides: { type: 'string', default: `${ours},${peer}` },
        package: { type: 'string', default: root },
        venv: { type: 'string', default: ownEnvironment },
        json: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const whole = (name) => {
    const text = values[name];
    if (!/^[1-9]\d{0,4}$/.test(text)) throw new UsageError(`--${name}: expected a positive whole number, got ${text}`);
    return Number(text);
  };
  const image = /^([1-9]\d{1,4})x([1-9]\d{1,4})$/.exec(values.image)?.slice(1).map(Number);
  if (!image) throw new UsageError(`--image: expected a size such as 1280x960, got ${values.image}`);
  const sides = values.sides.split(',');
  for (const name of sides)
    if (![ours, peer].includes(name)) throw new UsageError(`--sides: expected ${ours}, ${peer}, got ${name}`);
  return {
    ...values,
    image,
    sides,
    seconds: whole('seconds'),
    concurrent: whole('concurrent'),
    threads: whole('threads'),
    maxBatch: values['max-batch'] === undefined ? undefined : whole('max-batch'),
    package: resolve(values.package),
    venv: resolve(values.venv),
  };
}

/** The workload that the other comparison times as well, but for whole images, scaled to the network's size. */
function workload() {
  const { config, size } = workloadsOf(['nano'])[0];
  return { config: { ...config, input: { ...config.input, mode: 'resize' } }, size };
}

/** Photographs of a texture as a camera makes them, each with another grain and another spot. */
async function writeImages(folder, [width, height], count = 8) {
  mkdirSync(folder);
  for (let n = 0; n < count; n++) {
    const data = Buffer.alloc(3 * width * height);
    for (let y = 0, i = 0; y < height; y++)
      for (let x = 0; x < width; x++, i += 3) {
        const grain = ((Math.imul(x + width * y + n, 0x9e3779b1) >>> 24) - 128) / 6;
        const wave = 40 * Math.sin((x + 13 * n) / (9 + n)) * Math.cos((y - 7 * n) / 11);
        const spot = Math.hypot(x - 150 * n, y - 100 * n) < 60 ? 60 : 0;
        for (let c = 0; c < 3; c++) data[i + c] = Math.max(0, Math.min(255, 110 + 8 * c + wave + grain + spot));
      }
    const image = sharp(data, { raw: { width, height, channels: 3 } });
    const name = join(folder, `${n}`);
    await (n % 2 ? image.png().toFile(`${name}.png`) : image.jpeg({ quality: 92 }).toFile(`${name}.jpg`));
  }
}

async function runSide(name, setup, options) {
  const home = name === peer ? installOnnxruntime(join(scratch, 'onnxruntime')) : options.package;
  const command = [process.execPath, join(import.meta.dirname, 'load_worker.mjs'), name, home];
  const worker = new Worker(command, workerEnvironment());
  try {
    const { engine, scores } = await worker.ask({ op: 'setup', ...setup });
    const say = (what) => console.error(`load: ${name}: ${what}`);
    const aloneSeconds = Math.max(5, options.seconds / 5);
    await worker.ask({ op: 'load', seconds: 1, concurrent: options.concurrent }); // buffers and code become warm
    say(`one at a time, ${aloneSeconds} s`);
    const alone = await worker.ask({ op: 'load', seconds: aloneSeconds, concurrent: 1 });
    say(`${options.concurrent} at once, ${options.seconds} s`);
    const loaded = await worker.ask({ op: 'load', seconds: options.seconds, concurrent: options.concurrent });
    await worker.quit();
    return { engine, scores, alone, load: loaded, speedup: loaded.perSecond / alone.perSecond };
  } finally {
    worker.kill();
  }
}

const rows = [
  ['requests/s, one at a time', ({ alone }) => alone.perSecond.toFixed(1)],
  ['requests/s, under load', ({ load }) => load.perSecond.toFixed(1)],
  ['under load / one at a time', ({ speedup }) => speedup.toFixed(2)],
  ['latency alone p50, ms', ({ alone }) => alone.latencyMs.p50.toFixed(1)],
  ...['p50', 'p90', 'p99', 'max'].map((q) => [
    `latency under load ${q}, ms`,
    ({ load }) => load.latencyMs[q].toFixed(0),
  ]),
  ...['p50', 'p99', 'max'].map((q) => [`event-loop delay ${q}, ms`, ({ load }) => load.eventLoopDelayMs[q].toFixed(1)]),
  ['cores busy', ({ load }) => load.coresBusy.toFixed(2)],
  ['peak memory, MiB', ({ load }) => load.peakRssMb.toFixed(0)],
  ['requests', ({ load }) => String(load.requests)],
  ['lost', ({ load }) => String(load.lost)],
  ['answered twice', ({ load }) => String(load.answeredTwice)],
  ['failed', ({ load }) => String(load.failed)],
  ["another image's answer", ({ load }) => (load.mixedUp === null ? '-' : String(load.mixedUp))],
];

/** What is claimed of our side, and whether this run shows it. */
function claimsOf({ alone, load, speedup }) {
  const whole = [alone, load].every((one) => one.lost + one.answeredTwice + one.failed + one.mixedUp === 0);
  return {
    'event-loop delay below 10 ms at the 99th percentile': load.eventLoopDelayMs.p99 < 10,
    'every request answered once, with its own answer': whole,
    'throughput at least 1.5 times that of one at a time': speedup >= 1.5,
  };
}

async function main() {
  const options = parseCommandLine();
  if (options.help) {
    console.log(usage);
    return 0;
  }
  const { config, size } = workload();
  const { python } = preparePython(options.venv, options.venv === ownEnvironment, workerEnvironment(), false);
  const folder = mkdtempSync(join(tmpdir(), 'ddad-load-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])
    process.once(signal, () => process.exit(code));
  const [model, graph, images] = ['model.safetensors', 'graph.onnx', 'images'].map((name) => join(folder, name));
  const graphs = [{ path: graph, model, config, images: 1, fresh_noise: true }];
  writeFileSync(join(folder, 'plan.json'), JSON.stringify({ models: [{ path: model, config }], inputs: [], graphs }));
  if (!runScript(python, workerEnvironment(), 'make_inputs.py', join(folder, 'plan.json')))
    throw new Error('make_inputs.py failed');
  await writeImages(images, options.image);

  const { threads, concurrent, seconds, maxBatch } = options;
  const report = {
    ...{ seconds, concurrent, threads, maxBatch: maxBatch ?? null },
    image: `${options.image.join('x')}, PNG and JPEG`,
    processor: cpus()[0].model,
    processors: cpus().length,
    loadAverage: loadavg()[0],
    node: process.version,
    commit: spawnSync('git', ['rev-parse', 'HEAD'], { cwd: root, encoding: 'utf8' }).stdout?.trim() || null,
    date: new Date().toISOString(),
    sides: {},
  };
  if (report.loadAverage > 0.5) console.error(`load: the machine is busy (load ${report.loadAverage.toFixed(2)})`);
  for (const name of options.sides)
    report.sides[name] = await runSide(name, { model, graph, images, size, threads, maxBatch, concurrent }, options);

  const found = Object.entries(report.sides);
  const load = `${concurrent} requests at once for ${seconds} s`;
  console.log(`${report.processor}, ${threads} threads, images of ${report.image}, ${load}\n`);
  console.log(
    table([
      ['', ...found.map(([, { engine }]) => engine)],
      ...rows.map(([title, value]) => [title, ...found.map(([, one]) => value(one))]),
    ]),
  );
  const mine = report.sides[ours];
  if (mine) {
    report.claims = claimsOf(mine);
    console.log('');
    for (const [claim, met] of Object.entries(report.claims)) console.log(`${met ? 'met    ' : 'NOT MET'}  ${claim}`);
  }
  if (options.json) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  for (const [name, { alone, load }] of found)
    for (const { problem } of [alone, load]) if (problem) console.error(`load: ${name}: ${problem}`);
  return found.some(([, { load }]) => load.lost + load.answeredTwice + load.failed > 0) ? 1 : 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`load: ${error.message}`);
  if (error instanceof UsageError) console.error('load: see --help');
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
