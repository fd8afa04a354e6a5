// The command line and the API on a GPU, against the CPU. The GPU is the emulated one (test/emulated), on which nothing
// happens before it is waited for and whose memory the host cannot touch.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import {
  makeDataset,
  pattern,
  png,
  readSafetensors,
  root,
  run,
  temporaryFolder,
  tinyFlags,
} from '../helpers/common.mjs';

const library = path.join(root, 'build', 'libddad_cuda_emulated.so');
assert.ok(existsSync(library), `${library} is not built: npm test builds it`);
const env = { DDAD_CUDA_LIBRARY: library };

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 8);
await mkdir(at('parts', 'test', 'hole'), { recursive: true });
await mkdir(at('parts', 'test', 'good'), { recursive: true });
for (const i of [1, 2]) {
  await png(pattern(72, 66, i, true)).toFile(at('parts', 'test', 'hole', `${i}.png`));
  await png(pattern(72, 66, i + 5)).toFile(at('parts', 'test', 'good', `${i}.png`));
}
const images = at('parts', 'test', 'hole');

/** Runs a command on the GPU, or the CPU; what it printed. */
async function ran(args, options = {}) {
  const { code, stdout, stderr } = await run(args, { env, ...options });
  assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
  return { stdout, stderr };
}
const json = async (args) => JSON.parse((await ran([...args, '--json'])).stdout);
const lines = async (args) =>
  (await ran([...args, '--json'])).stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

const close = (a, b, tolerance, what) => assert.ok(Math.abs(a - b) <= tolerance * Math.abs(b), `${what}: ${a} ${b}`);

/** The largest difference of two folders' images, of 255. */
async function difference(a, b) {
  const names = await readdir(a);
  assert.deepEqual(await readdir(b), names);
  let worst = 0;
  for (const name of names) {
    const [one, other] = await Promise.all([a, b].map((of) => sharp(path.join(of, name)).raw().toBuffer()));
    assert.equal(one.length, other.length, name);
    one.forEach((value, i) => (worst = Math.max(worst, Math.abs(value - other[i]))));
  }
  return worst;
}

const model = at('cpu.ddad');
const withGaussian = at('padim.ddad');
const training = ['train', parts, ...tinyFlags, '--steps', '12', '--mode', 'resize', '--seed', '3'];
await ran([...training, '--device', 'cpu', '--out', model]);

test('info: the GPUs, and what a training takes on one', async () => {
  const { engine } = await json(['info', '--device', 'cuda']);
  const { available, gpus } = engine.devices.find(({ name }) => name === 'cuda');
  assert.equal(available, true);
  assert.deepEqual(
    gpus.map(({ name }) => name),
    ['Emulated GPU', 'Emulated GPU'],
  );
  const { trainingMemory } = await json(['info', '--preset', 'nano', '--batch-size', '4', '--device', 'cuda:1']);
  assert.ok(trainingMemory.total > 0);
  const { code, stderr } = await run(['info', '--preset', 'nano', '--device', 'cuda:2'], { env });
  assert.equal(code === 0, false);
  assert.match(stderr, /there is no GPU 2: found 2: 0 Emulated GPU, 1 Emulated GPU/);
});

for (const precision of ['float32', 'bf16']) {
  test(`train, in ${precision}, and its weights`, async () => {
    const [file, again] = [at(`${precision}.ddad`), at(`${precision}-again.ddad`)];
    for (const out of [file, again])
      await ran([...training, '--device', 'cuda', '--precision', precision, '--out', out]);
    assert.ok((await readFile(file)).equals(await readFile(again)), 'the same training twice');
    const [own, reference] = await Promise.all([file, model].map(readSafetensors));
    const values = ({ header, data }, name) => {
      const [from, to] = header[name].data_offsets;
      return new Float32Array(data.buffer.slice(data.byteOffset + from, data.byteOffset + to));
    };
    // Adam divides by the gradient's size, so rounding shows in weights whose gradient is next to nothing
    const tolerance = precision === 'float32' ? 1e-2 : 0.2;
    for (const name of ['input_blocks.0.0.weight', 'middle_block.1.qkv.weight', 'out.2.weight']) {
      const [a, b] = [values(own, name), values(reference, name)];
      const squares = b.reduce((sum, value, i) => sum + (value - a[i]) ** 2, 0);
      const distance = Math.sqrt(squares / b.reduce((sum, value) => sum + value ** 2, 0));
      assert.ok(distance <= tolerance, `${name}: ${distance}`);
    }
  });
}

test('a checkpoint of the GPU goes on on the CPU', async () => {
  const [checkpoint, out] = [at('half.safetensors'), at('resumed.ddad')];
  const half = training.map((arg, i) => (training[i - 1] === '--steps' ? '6' : arg));
  await ran([...half, '--device', 'cuda', '--checkpoint', checkpoint, '--out', at('half.ddad')]);
  const { stdout } = await ran([...training, '--device', 'cpu', '--resume', checkpoint, '--out', out, '--json']);
  assert.match(stdout, /"steps":12/);
});

for (const [name, device] of Object.entries({
  cuda: ['--device', 'cuda'],
  'the second GPU': ['--device', 'cuda:1'],
  bf16: ['--device', 'cuda', '--precision', 'bf16'],
})) {
  test(`score: ${name}`, async () => {
    const [cpu, gpu] = [at(`cpu ${name}`), at(`gpu ${name}`)];
    const expected = await lines(['score', model, images, '--device', 'cpu', '--out', cpu]);
    const found = await lines(['score', model, images, ...device, '--out', gpu]);
    assert.equal(found.length, expected.length);
    const tolerance = name === 'bf16' ? 0.1 : 1e-4;
    expected.forEach(({ image, score }, i) => close(found[i].score, score, tolerance, image));
  });
}

test('evaluate', async () => {
  const of = (device) => json(['evaluate', model, parts, '--device', device, '--out', at(device)]);
  const [cpu, gpu] = [await of('cpu'), await of('cuda')];
  assert.equal(gpu.imageAuroc, cpu.imageAuroc);
});

test('fit-padim, reconstruct, sample', async (t) => {
  const gpuGaussian = at('padim-gpu.ddad');
  await ran(['fit-padim', model, parts, '--out', withGaussian, '--device', 'cpu', '--channels', '8']);
  await ran(['fit-padim', model, parts, '--out', gpuGaussian, '--device', 'cuda', '--channels', '8']);
  const scores = async (file, device) =>
    lines(['score', file, images, '--device', device, '--score', 'padim', '--normalization', 'none']);
  const [cpu, gpu] = [await scores(withGaussian, 'cpu'), await scores(gpuGaussian, 'cuda')];
  cpu.forEach(({ image, score }, i) => close(gpu[i].score, score, 1e-3, image));

  const ways = {
    ddpm: ['--respacing', '10', '--step', '4'],
    ddim: ['--respacing', '10', '--step', '4', '--previews', '2'],
    gradient: ['--rounds', '3', '--previews', '1'],
  };
  for (const [method, options] of Object.entries(ways)) {
    await t.test(method, async () => {
      const folders = ['cpu', 'cuda'].map((device) => [device, at(`${method}-${device}`)]);
      for (const [device, out] of folders)
        await ran([
          'reconstruct',
          withGaussian,
          images,
          '--method',
          method,
          ...options,
          '--out',
          out,
          '--device',
          device,
        ]);
      assert.ok((await difference(folders[0][1], folders[1][1])) <= 2);
    });
  }
  await t.test('sample', async () => {
    const options = ['--count', '2', '--respacing', '5', '--seed', '7'];
    const folders = ['cpu', 'cuda'].map((device) => [device, at(`sample-${device}`)]);
    for (const [device, out] of folders) await ran(['sample', model, ...options, '--out', out, '--device', device]);
    assert.ok((await difference(folders[0][1], folders[1][1])) <= 2);
  });
});

test('too large a training is refused with the batch that fits', async () => {
  const args = ['train', parts, '--preset', 'nano', '--size', '16', '--batch-size', '512', '--steps', '2'];
  const small = { env: { ...env, DDAD_EMULATED_GPU_MEMORY: '100000000' } };
  const { code, stderr } = await run([...args, '--device', 'cuda', '--out', at('none.ddad')], small);
  assert.equal(code === 0, false);
  assert.match(stderr, /ERR_MEMORY/);
  assert.match(stderr, /the largest batch that fits is \d+/);
  assert.ok(!existsSync(at('none.ddad')));
});

test('a GPU that fails in the middle of a training: an error, and the last checkpoint is there', async () => {
  const checkpoint = at('before.safetensors');
  const args = [...training, '--device', 'cuda', '--checkpoint', checkpoint, '--checkpoint-every', '1ms'];
  const { code, stderr } = await run([...args, '--out', at('lost.ddad')], {
    env: { ...env, DDAD_EMULATED_GPU_DIES_AT: '140' },
  });
  assert.equal(typeof code, 'number', stderr);
  assert.notEqual(code, 0);
  assert.match(
    stderr,
    /interrupted; go on with --resume .*before\.safetensors\n.*ERR_DEVICE.*unspecified launch failure/,
  );
  assert.ok(!existsSync(at('lost.ddad')));
  await ran([...training, '--device', 'cpu', '--resume', checkpoint, '--out', at('saved.ddad')]);
});

/** Runs a program with the API on the GPU; its exit status and what it printed. */
function program(text) {
  const script = `
    const { Detector, Trainer } = require(${JSON.stringify(root)});
    const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
    const image = { data: Buffer.alloc(72 * 66, 90), width: 72, height: 66, channels: 1 };
    const load = () => Detector.load(${JSON.stringify(model)}, { device: 'cuda', threads: 1 });
    (async () => { ${text} })();`;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', script], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.equal(signal, null, stderr);
  return { status, stdout, stderr };
}

test('detectors side by side, closed while they work', () => {
  const { status, stdout, stderr } = program(`
    const detectors = await Promise.all([load(), load(), load()]);
    const each = await Promise.all(detectors.flatMap((d) => [d.score(image), d.score(image)]));
    console.log(new Set(each.map(({ score }) => score)).size);
    const late = detectors.map((d) => d.score(image).then(() => 'done', ({ code }) => code));
    detectors.forEach((d) => d.dispose());
    console.log(new Set(await Promise.all(late)).size);`);
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^1\n1\n$/);
});

test('the process and a thread of it end while the GPU works', () => {
  assert.equal(program(`const d = await load(); d.score(image); process.exit(3);`).status, 3);
  const { status, stderr } = program(`
    const text = "const { Detector } = require(" + JSON.stringify(${JSON.stringify(root)}) + ");" +
      "Detector.load(" + JSON.stringify(${JSON.stringify(model)}) + ", { device: 'cuda' }).then((d) => {" +
      "for (let i = 0; i < 20; i++) d.score({ data: Buffer.alloc(4752), width: 72, height: 66, channels: 1 });" +
      "setTimeout(() => process.exit(), 5); });";
    const ends = Array.from({ length: 3 }, () => new Promise((end) => new Worker(text, { eval: true }).on('exit', end)));
    await Promise.all(ends);
    const d = await load();
    await d.score(image);
    d.dispose();`);
  assert.equal(status, 0, stderr);
});
