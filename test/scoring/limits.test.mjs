// Numbers of a model file are bounded, long steps end with an abort or the process, and threads that the system refuses
// end nothing.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmod } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import {
  makeDataset,
  pattern,
  readSafetensors,
  root,
  temporaryFolder,
  tiny,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 4);
const [model, checkpoint] = [at('model.safetensors'), at('checkpoint.safetensors')];
await trainTiny({ Trainer }, parts, model, { steps: 2, backbone: null, memoryBank: null }, { checkpoint });

/** A copy whose configuration `change` has changed. */
async function changed(from, change) {
  const { header, data } = await readSafetensors(from);
  const config = JSON.parse(header.__metadata__.config);
  change(config);
  header.__metadata__.config = JSON.stringify(config);
  await writeSafetensors(at('changed.safetensors'), { header, data });
  return at('changed.safetensors');
}

const huge = [8192 * 4, 2 ** 31, 2 ** 53, 1e300, -1, 0.5];
const fields = [
  ...['imageSize', 'modelChannels', 'outChannels', 'numResBlocks', 'numHeads', 'numHeadChannels', 'numClasses'].map(
    (name) => ['unet', name],
  ),
  ['unet', 'featureChannels'],
  ['diffusion', 'steps'],
  ['input', 'size'],
  ['score', 'seed'],
  ['score', 'scales', 0],
  ['training', 'batchSize'],
  ['training', 'seed'],
];
const wide = [
  ['unet', 'attentionResolutions'],
  ['unet', 'channelMult'],
  ['score', 'scales'],
];
const reals = [
  ['score', 'smoothing'],
  ['score', 'alpha'],
  ['calibration', 'quantile'],
  ['training', 'lr'],
  ['training', 'ema'],
  ['training', 'quantile'],
];

function set(config, names, value) {
  const last = names.at(-1);
  names.slice(0, -1).reduce((inner, name) => inner[name], config)[last] = value;
}

test('each number of a model is bounded', async () => {
  const cases = [
    ...fields.flatMap((names) => huge.map((value) => [names, value])),
    ...wide.map((names) => [names, Array(100_000).fill(1)]),
    ...reals.flatMap((names) => [1e300, -1e300, 1e9].map((value) => [names, value])),
    [['calibration', 'pixelMean', 0], 1e300],
    [['threshold'], 1e300],
    [['score', 'tile'], 2 ** 31],
    [['input', 'size'], 8192],
    [['input', 'size'], 2 ** 31],
  ];
  const allowed = (names, value) =>
    (names.at(-1) === 'seed' && value >= 0 && value <= 2 ** 53 - 1 && Number.isInteger(value)) ||
    (['numClasses', 'featureChannels'].includes(names.at(-1)) && value === 8192 * 4) ||
    (names.at(-1) === 'steps' && value === 8192 * 4) ||
    (names.at(-1) === 'numHeadChannels' && value === -1);
  for (const [names, value] of cases) {
    if (allowed(names, value)) continue;
    const file = await changed(model, (config) => set(config, names, value));
    const start = performance.now();
    const outcome = await Detector.load(file, { threads: 1 }).then(
      (detector) => (detector.dispose(), 'accepted'),
      (error) => error.code,
    );
    const what = `${names.join('.')} = ${JSON.stringify(value).slice(0, 20)}`;
    assert.equal(outcome, 'ERR_MODEL_FORMAT', what);
    assert.ok(performance.now() - start < 2000, what);
  }
  const trainer = new Trainer(tiny);
  const resume = await changed(checkpoint, (config) => (config.input.size = 8192));
  await assert.rejects(
    async () => {
      for await (const progress of trainer.fit(parts, { resume })) void progress;
    },
    { code: 'ERR_MODEL_FORMAT', message: /input\.size/ },
  );
});

/** A model that takes an image whole, up to 4096 pixels a side, and then blurs the map. */
const heavy = async () => {
  const file = await changed(model, (config) => {
    Object.assign(config.score, { tile: 4096, overlap: 0, smoothing: 100, scales: [5], normalization: 'none' });
    Object.assign(config.input, { mode: 'crop' });
    config.calibration = null;
  });
  const detector = await Detector.load(file, { threads: 1 });
  after(() => detector.dispose());
  return { detector, file };
};
const large = pattern(2400, 2400);

test('scoring a large tile ends within a second of an abort, whatever it was at', { timeout: 60_000 }, async () => {
  const { detector } = await heavy();
  for (const delay of [150, 600, 1500]) {
    const controller = new AbortController();
    const scored = detector.score(large, { signal: controller.signal });
    setTimeout(() => controller.abort(), delay);
    const start = performance.now();
    await assert.rejects(scored, { code: 'ERR_ABORTED' });
    const late = performance.now() - start - delay;
    assert.ok(late < 1500, `ended ${late.toFixed(0)} ms after the abort at ${delay} ms`);
    // the engine, too: another image has its turn
    await detector.score(pattern(16, 16));
    const turn = performance.now() - start - delay;
    assert.ok(turn < 2500, `the next image was done ${turn.toFixed(0)} ms after the abort at ${delay} ms`);
  }
});

test('what scoring takes is compared with the memory there is before any is taken', async () => {
  const file = await changed(model, (config) => {
    const scales = Array.from({ length: 64 }, (_, i) => i);
    Object.assign(config.score, { tile: 4096, scales, normalization: 'none' });
    config.calibration = null;
  });
  const detector = await Detector.load(file, { threads: 1 });
  after(() => detector.dispose());
  await assert.rejects(detector.score(pattern(4000, 4000)), {
    code: 'ERR_MEMORY',
    message: /^scoring 4\d{3} x 4\d{3} at 64 noise scales takes \d+ MiB of memory, of which \d+ MiB are free$/,
  });
});

/** Runs a program of JavaScript on the package; resolves to its status, output and time. */
function child(program, { uid, limits = [] } = {}) {
  const index = JSON.stringify(path.join(root, 'dist', 'index.js'));
  const text = `const { Detector } = require(${index}); (async () => { ${program} })();`;
  const start = performance.now();
  const given = { env: { ...process.env, HOME: folder }, ...(uid === undefined ? {} : { uid, gid: uid }) };
  const started = spawn(process.execPath, [...limits, '-e', text], given);
  let output = '';
  for (const stream of [started.stdout, started.stderr]) stream.on('data', (data) => (output += data));
  return new Promise((resolve) =>
    started.on('close', (status, signal) => resolve({ status, signal, output, ms: performance.now() - start })),
  );
}

test('a process that exits while a large tile is scored ends soon', { timeout: 60_000 }, async () => {
  const { file } = await heavy();
  const { status, output } = await child(`
    const detector = await Detector.load(${JSON.stringify(file)}, { threads: 1 });
    const data = new Uint8Array(2400 * 2400).fill(7);
    detector.score({ data, width: 2400, height: 2400, channels: 1 }).catch(() => undefined);
    setTimeout(() => (require('node:fs').writeSync(1, String(Date.now())), process.exit(7)), 700);
  `);
  assert.equal(status, 7, output);
  const late = Date.now() - Number(output);
  assert.ok(late < 2000, `ended after ${late} ms`);
});

/** Lets this process have no more threads than it has; only where the system counts them, which it does not for root. */
const noMore = `require('node:child_process').spawnSync('prlimit', ['--pid', String(process.pid), '--nproc=1:1']);`;
const user = process.getuid() === 0 ? { uid: 65_534 } : {};

test('threads that the system refuses end in a coded error or in fewer threads', { timeout: 60_000 }, async () => {
  await chmod(folder, 0o755);
  const name = JSON.stringify(model);
  const first = await child(
    `${noMore} await Detector.load(${name}).then(() => console.log('loaded'), (error) => console.log(error.code, error.message));`,
    user,
  );
  assert.match(first.output, /ERR_DEVICE cannot start the compute thread: .+; raise the limit on threads/);
  assert.equal(first.status, 0, first.output);
  // OpenMP would end the process; the engine alone, since the decoders of images ask for threads of their own
  const native = JSON.stringify(path.join(root, 'dist', 'engine', 'native.js'));
  const second = await child(
    `const { addon } = require(${native});
     const { CancelToken, loadDetector } = addon();
     const options = (threads) => JSON.stringify({ device: 'cpu', threads });
     const one = await loadDetector(${name}, options(1), new CancelToken());
     ${noMore}
     const other = await loadDetector(${name}, options(2), new CancelToken());
     const image = { data: new Uint8Array(4096).fill(7), width: 64, height: 64, channels: 1 };
     const scores = [await one.score(image, new CancelToken()), await other.score(image, new CancelToken())];
     console.log(scores[0].score === scores[1].score, JSON.parse(other.origin()).threads);`,
    user,
  );
  assert.equal(second.status, 0, second.output);
  assert.equal(second.output, 'true 1\n');
});

test('more threads than there are processors are not used, and that is said', async () => {
  const detector = await Detector.load(model, { threads: 1024 });
  after(() => detector.dispose());
  assert.ok(detector.warnings.some((text) => /^threads: 1024 asked for, \d+ used: this process may use/.test(text)));
  assert.ok(Number.isFinite((await detector.score(pattern(40, 40))).score));
  await assert.rejects(Detector.load(model, { threads: 100_000 }), { code: 'ERR_OPTION' });
});
