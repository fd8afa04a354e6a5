// Reconstructions and samples through the API and the command line, and the Gaussian that some of them need.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import sharp from 'sharp';
import { Detector, evaluate, Trainer } from '../../dist/index.js';
import {
  makeDataset,
  makeProducts,
  pattern,
  png,
  run,
  start,
  temporaryFolder,
  trainTiny,
  until,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 8, 40, 36);
const products = await makeProducts(at('products'), { bottle: 3, screw: 3 });
const [texture, aligned, unified] = [at('texture'), at('aligned'), at('unified')].map((name) => `${name}.safetensors`);
await trainTiny({ Trainer }, parts, texture);
await trainTiny({ Trainer }, parts, aligned, { mode: 'resize', memoryBank: null });
await trainTiny({ Trainer }, products, unified, { memoryBank: null });
const good = path.join(parts, 'train', 'good', '03.png');
const few = { respacing: '10', step: 3 };

async function load(file, options = {}) {
  const detector = await Detector.load(file, { threads: 1, ...options });
  after(() => detector.dispose());
  return detector;
}

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
/** Batches of other sizes compute to other last digits. */
const nearly = (a, b) => a.length === b.length && a.every((v, i) => Math.abs(v - b[i]) <= 1e-4);
const inRange = (image) => image.data.every((v) => v >= 0 && v <= 1);

for (const method of ['ddpm', 'ddim']) {
  test(`${method}: an image of its own size, the same for a seed, with previews and progress`, async () => {
    const detector = await load(texture);
    const seen = [];
    const options = { ...few, method, seed: 4, previews: 2, onProgress: (progress) => seen.push(progress) };
    const first = await detector.reconstruct(good, options);
    assert.deepEqual([first.image.width, first.image.height, first.image.channels], [40, 36, 1]);
    assert.ok(inRange(first.image));
    assert.deepEqual(
      first.trajectory.map(({ step }) => step),
      [2, 4],
    );
    assert.deepEqual(first.trajectory[1].image.data, first.image.data);
    assert.notDeepEqual(first.trajectory[0].image.data, first.image.data);
    assert.deepEqual(
      seen.map(({ step, steps, done, distance }) => [step, steps, done, distance]),
      [1, 2, 3, 4].map((step) => [step, 4, step / 4, null]),
    );
    const again = await detector.reconstruct(good, { ...few, method, seed: 4 });
    assert.deepEqual(again.image.data, first.image.data);
    assert.deepEqual(again.trajectory, []);
    const other = await detector.reconstruct(good, { ...few, method, seed: 5 });
    assert.notDeepEqual(other.image.data, first.image.data);
    const both = await detector.reconstructAll([good, pattern(40, 36, 9)], { ...few, method, seed: 4 });
    assert.ok(nearly(both[0].image.data, first.image.data));
    assert.ok(!nearly(both[1].image.data, first.image.data));
    const { width, height, format } = await sharp(await first.png()).metadata();
    assert.deepEqual([width, height, format], [40, 36, 'png']);
  });
}

test("a model that takes images whole gives pictures of the image's size, and few steps change little", async () => {
  const detector = await load(aligned);
  const near = await detector.reconstruct(good, { method: 'ddim', respacing: '250', step: 0 });
  assert.deepEqual([near.image.width, near.image.height], [16, 16]);
  const { width, height } = await sharp(await near.png()).metadata();
  assert.deepEqual([width, height], [40, 36]);
  const seen = await sharp(good).toColourspace('b-w').resize(16, 16, { fit: 'fill' }).raw().toBuffer();
  const moved = mean(Array.from(near.image.data, (v, i) => Math.abs(v - seen[i] / 255)));
  assert.ok(moved < 0.05, `${moved}`);
});

test('samples are numbered: a later part of them is what it would be in one call', async () => {
  const detector = await load(texture);
  const all = await detector.sample({ count: 3, respacing: '5', seed: 2 });
  assert.equal(all.length, 3);
  assert.deepEqual([all[0].image.width, all[0].image.height], [16, 16]);
  assert.ok(all.every(({ image }) => inRange(image)));
  const [last] = await detector.sample({ count: 1, first: 2, respacing: '5', seed: 2 });
  assert.ok(nearly(last.image.data, all[2].image.data));
  assert.ok(!nearly(all[0].image.data, all[2].image.data));
});

test('a Gaussian is fitted, kept in the file, and takes an image nearer to good ones', async () => {
  const detector = await load(aligned);
  const seen = [];
  await detector.fitPadim(parts, { channels: 12, seed: 3, onProgress: ({ step, steps }) => seen.push([step, steps]) });
  assert.deepEqual(seen.at(-1), [8, 8]);
  assert.deepEqual([detector.config.padim.channels.length, detector.config.padim.images], [12, 8]);
  assert.deepEqual(detector.config.padim.grid, [4, 4]);
  assert.equal(detector.memoryUsage.gaussians, 4 * 16 * (12 + 144));
  assert.equal(detector.memoryUsage.reconstructions, undefined);
  const saved = at('fitted.safetensors');
  await detector.save(saved);
  const again = await load(saved);
  assert.deepEqual(again.config.padim, detector.config.padim);
  assert.equal(again.threshold, detector.threshold);

  const bad = path.join(parts, 'test', 'bad', '00.png');
  const options = { rounds: 5, gradientSteps: 3, step: 0, previews: 5 };
  const found = await again.reconstruct(bad, options);
  assert.equal(found.distances.length, 5);
  assert.ok(found.distances.at(-1) < found.distances[0], String(found.distances));
  assert.equal(found.trajectory.length, 5);
  assert.deepEqual((await detector.reconstruct(bad, options)).image.data, found.image.data);

  const judge = await load(saved, { scoring: { kind: 'padim' } });
  assert.equal(judge.threshold, null);
  const scores = [];
  for (const image of [good, bad]) {
    const result = await judge.score(image);
    assert.deepEqual([result.map.width, result.map.height], [40, 36]);
    assert.ok(result.map.data.every((v) => v >= 0));
    assert.notDeepEqual(result.map.data, result.pixelMap.data);
    scores.push(result.score);
  }
  assert.ok(scores[1] > scores[0], String(scores));
});

test('a seed chooses the channels; a texture has one Gaussian for all places', async () => {
  const detector = await load(texture);
  const chosen = [];
  for (const seed of [0, 0, 1]) {
    await detector.fitPadim(parts, { channels: 10, seed });
    chosen.push(detector.config.padim.channels);
  }
  assert.deepEqual(chosen[0], chosen[1]);
  assert.notDeepEqual(chosen[0], chosen[2]);
  assert.equal(detector.config.padim.grid, null);
  const large = await detector.reconstruct(pattern(80, 50), { rounds: 1, gradientSteps: 1 });
  assert.deepEqual([large.image.width, large.image.height], [80, 50]);
});

test('a unified model has a Gaussian for each product', async () => {
  const detector = await load(unified);
  await detector.fitPadim(products, { channels: 6 });
  assert.equal(detector.config.padim.images, 6);
  const image = path.join(products, 'screw', 'test', 'bad', '00.png');
  const options = { rounds: 1, gradientSteps: 1 };
  const [bottle, screw] = await Promise.all(
    ['bottle', 'screw'].map((product) => detector.reconstruct(image, { ...options, product })),
  );
  assert.notEqual(bottle.distances[0], screw.distances[0]);
  await assert.rejects(detector.reconstruct(image, options), { code: 'ERR_OPTION' });
  assert.equal((await detector.sample({ product: 'screw', respacing: '4' })).length, 1);
});

test('scores have their turn while a long reconstruction runs', async () => {
  const detector = await load(texture);
  await detector.score(good); // compiled
  let [steps, meanwhile] = [0, 0];
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  const onProgress = ({ step }) => {
    steps += 1;
    if (step === 3) begin();
    // only while the engine has the image: decoding it takes as long as it takes
    if (detector.stats().running > 0) meanwhile += 1;
  };
  const long = detector.reconstruct(good, { method: 'ddpm', respacing: '250', step: 249, onProgress });
  await begun;
  // as it is, so that it is with the engine before the steps are through
  await detector.score(pattern(40, 36));
  assert.ok(meanwhile <= 3, `${meanwhile} steps went by`);
  assert.ok(steps < 250, 'it was scored while the reconstruction ran');
  await long;
  assert.equal(steps, 250);
});

test('an abort ends it between two steps, a disposal too; nothing stays behind', async () => {
  const detector = await load(texture);
  const controller = new AbortController();
  const onProgress = ({ step }) => step === 3 && controller.abort();
  const endless = { method: 'ddpm', respacing: '250', step: 249 };
  await assert.rejects(detector.reconstruct(good, { ...endless, onProgress, signal: controller.signal }), {
    code: 'ERR_ABORTED',
  });
  assert.equal(detector.memoryUsage.reconstructions, undefined);
  let begun = false;
  const running = detector.reconstruct(good, { ...endless, onProgress: () => (begun = true) });
  const ended = assert.rejects(running, { code: 'ERR_DISPOSED' });
  await until(() => begun);
  detector.dispose();
  await ended;
});

test('the command line fits, reconstructs and samples', async () => {
  const model = at('cli.safetensors');
  const fitted = await run([
    'fit-padim',
    aligned,
    parts,
    '--out',
    model,
    '--channels',
    '8',
    '--json',
    '--threads',
    '1',
  ]);
  assert.equal(fitted.code, 0, fitted.stderr);
  assert.equal(JSON.parse(fitted.stdout).padim.channels.length, 8);

  await png(pattern(30, 30)).toFile(at('other.png'));
  const out = at('out');
  const flags = ['--out', out, '--rounds', '2', '--gradient-steps', '1', '--previews', '2', '--threads', '1', '--json'];
  const images = [path.join(parts, 'test'), at('other.png'), at('missing.png')];
  const found = await run(['reconstruct', model, ...images, ...flags, '--batch', '3']);
  assert.equal(found.code, 1, found.stderr);
  const lines = found.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.equal(lines.length, 3);
  assert.equal(lines[0].distances.length, 2);
  assert.equal(lines[2].error.code, 'ERR_IMAGE');
  const { width, height } = await sharp(lines[1].reconstruction).metadata();
  assert.deepEqual([width, height], [30, 30]);
  assert.equal((await readdir(out, { recursive: true })).filter((name) => name.endsWith('.png')).length, 6);

  const samples = await run([
    'sample',
    texture,
    '--out',
    at('samples'),
    '--count',
    '3',
    '--batch',
    '2',
    '--respacing',
    '4',
  ]);
  assert.equal(samples.code, 0, samples.stderr);
  assert.deepEqual(await readdir(at('samples')), ['sample-000.png', 'sample-001.png', 'sample-002.png']);
});

test('Ctrl-C ends a reconstruction with status 130', { skip: process.platform === 'win32' }, async () => {
  const args = ['reconstruct', texture, good, '--out', at('never'), '--method', 'ddpm', '--step', '900', '--respacing'];
  const { child, finished } = start([...args, '1000', '--previews', '3', '--threads', '1']);
  await until(() => existsSync(at('never'))); // the model is loaded then
  child.kill('SIGINT');
  assert.equal((await finished).code, 130);
});

test('evaluate judges by padim', async () => {
  const detector = await load(at('fitted.safetensors'), { scoring: { kind: 'padim' } });
  const set = at('set');
  await makeDataset(set, 2, 40, 36);
  await png(pattern(40, 36, 1)).toFile(path.join(set, 'train', 'good', '00.png'));
  await mkdir(path.join(set, 'test', 'good'), { recursive: true });
  await copyFile(good, path.join(set, 'test', 'good', '00.png'));
  const found = await evaluate(detector, set);
  assert.equal(found.imageAuroc, 1);
});
