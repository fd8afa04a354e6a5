// Several contexts in one thread: arrays that another one made, and an addon that is loaded twice.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import vm from 'node:vm';
import sharp from 'sharp';
import { Detector, Trainer } from '../../dist/index.js';
import { addon, configOf, file, options, pixelsOf, small } from '../helpers/addon.mjs';
import { makeDataset, pattern, temporaryFolder, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const model = path.join(folder, 'model.safetensors');
await trainTiny({ Trainer }, await makeDataset(path.join(folder, 'parts'), 6), model, { mode: 'resize', size: 32 });

test('images and lists of another context score as our own do', async (t) => {
  const detector = await Detector.load(model);
  t.after(() => detector.dispose());
  const raw = pattern(40, 30, 1, true);
  const encoded = await sharp(raw.data, { raw }).toColourspace('b-w').png().toBuffer();
  const context = vm.createContext({ bytes: [...encoded], values: [...raw.data] });
  const foreign = (code) => vm.runInContext(code, context);
  const bytes = foreign('new Uint8Array(bytes)');
  assert.ok(!(bytes instanceof Uint8Array), 'another context has classes of its own');
  const pixels = (data) => ({ ...raw, data });
  const pairs = [
    [encoded, bytes],
    [encoded, bytes.buffer],
    [raw, pixels(foreign('new Uint8Array(values)'))],
    [raw, pixels(foreign('new Uint8ClampedArray(values)'))],
    [pixels(Uint16Array.from(raw.data, (v) => 257 * v)), pixels(foreign('Uint16Array.from(values, (v) => 257 * v)'))],
    [pixels(Float32Array.from(raw.data, (v) => v / 255)), pixels(foreign('Float32Array.from(values, (v) => v / 255)'))],
  ];
  for (const [own, other] of pairs)
    assert.equal((await detector.score(other)).score, (await detector.score(own)).score);
  const images = pairs.map(([, other]) => other);
  const list = foreign('(images) => Array.from(images)')(images);
  const scores = [];
  for await (const found of detector.scoreAll(list)) scores.push(found.score);
  assert.equal(scores.length, images.length);
  await assert.rejects(async () => void (await detector.scoreAll(bytes).next()), { code: 'ERR_ARGUMENT' });
});

test('an addon that is loaded twice in a thread is two, which stop each other neither by disposing nor by ending', async () => {
  const { addon: second } = loadAgain();
  assert.notEqual(second, addon);
  assert.notEqual(second.CancelToken, addon.CancelToken);
  const trainer = new addon.NativeTrainer(configOf(), options);
  const other = new second.NativeTrainer(configOf(), options);
  await Promise.all([trainer.open(new addon.CancelToken()), other.open(new second.CancelToken())]);
  const step = (one, token) => one.step(pixelsOf(small), null, 1e-3, token);
  const [a, b] = await Promise.all([step(trainer, new addon.CancelToken()), step(other, new second.CancelToken())]);
  assert.equal(a.loss, b.loss);
  trainer.dispose();
  assert.equal((await step(other, new second.CancelToken())).step, 2);

  // A token of the one given to the other: its calls end as well, whether they run or wait.
  const token = new addon.CancelToken();
  const calls = Array.from({ length: 4 }, () => step(other, token));
  token.cancel();
  const ends = await Promise.allSettled(calls);
  assert.ok(ends.slice(1).every(({ reason }) => reason?.code === 'ERR_ABORTED'));
  other.dispose();
});

function loadAgain() {
  const module = { exports: {} };
  process.dlopen(module, createRequire(import.meta.url).resolve(file));
  return { addon: module.exports };
}
