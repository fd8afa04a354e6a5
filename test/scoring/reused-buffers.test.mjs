// Images that are given as memory: what the caller does with it after the call changes no verdict, overlay or result.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import { Detector, Trainer } from '../../dist/index.js';
import { makeDataset, pattern, png, temporaryFolder, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const parts = await makeDataset(path.join(folder, 'parts'), 4);
const model = path.join(folder, 'model.safetensors');
await trainTiny({ Trainer }, parts, model, { steps: 2 });
const whole = path.join(folder, 'whole.safetensors'); // takes a large image in one small piece
await trainTiny({ Trainer }, parts, whole, { steps: 2, mode: 'resize' });

const [width, height] = [72, 66];
const frames = Array.from({ length: 8 }, (_, i) => pattern(width, height, 5 * i, i % 2 === 1));
const encoded = await Promise.all(frames.map((frame) => png(frame).toBuffer()));
const room = Math.max(...encoded.map(({ length }) => length));

async function load(t, options = {}, file = model) {
  const detector = await Detector.load(file, { threads: 1, ...options });
  t.after(() => detector.dispose());
  return detector;
}

const scoresOf = async (detector, images) => {
  const scores = [];
  for (const image of images) scores.push((await detector.score(image)).score);
  return scores;
};

/** One buffer that every frame goes through, and the image that it is then. */
const shapes = {
  'pixels of 8 bits': () => {
    const data = new Uint8Array(width * height);
    return { fill: (i) => data.set(frames[i].data), image: () => ({ ...frames[0], data }) };
  },
  'clamped pixels': () => {
    const data = new Uint8ClampedArray(width * height);
    return { fill: (i) => data.set(frames[i].data), image: () => ({ ...frames[0], data }) };
  },
  'pixels of 16 bits in a part of a buffer': () => {
    const data = new Uint16Array(width * height + 9).subarray(4, 4 + width * height);
    return {
      fill: (i) => data.set(Array.from(frames[i].data, (v) => 257 * v)),
      image: () => ({ ...frames[0], data }),
    };
  },
  'pixels as floats in shared memory': () => {
    const data = new Float32Array(new SharedArrayBuffer(4 * width * height));
    return {
      fill: (i) => data.set(Array.from(frames[i].data, (v) => v / 255)),
      image: () => ({ ...frames[0], data }),
    };
  },
  'an encoded image': () => {
    const buffer = Buffer.alloc(room);
    return { fill: (i) => buffer.set(encoded[i]), image: (i) => buffer.subarray(0, encoded[i].length) };
  },
  'an encoded image as an ArrayBuffer': () => {
    const buffer = new ArrayBuffer(room);
    return { fill: (i) => new Uint8Array(buffer).set(encoded[i]), image: () => buffer };
  },
  'an encoded image in shared memory': () => {
    const buffer = new SharedArrayBuffer(room);
    const view = new Uint8Array(buffer);
    return { fill: (i) => view.set(encoded[i]), image: (i) => (i % 2 ? buffer : view) };
  },
};

for (const [name, make] of Object.entries(shapes)) {
  test(`frames that pass through one buffer get their own scores: ${name}`, async (t) => {
    const detector = await load(t);
    const alone = await scoresOf(detector, frames);
    assert.ok(new Set(alone).size > 4, 'the frames differ');
    const { fill, image } = make();
    const calls = frames.map((_, i) => {
      fill(i);
      return detector.score(image(i));
    });
    fill(0);
    const found = (await Promise.all(calls)).map(({ score }) => score);
    // another depth rounds in another way, yet far less than frames differ
    for (const [i, score] of found.entries())
      assert.ok(
        Math.abs(score - alone[i]) <= 1e-3 * Math.max(1, Math.abs(alone[i])),
        `${i}: ${score}, not ${alone[i]}`,
      );
  });
}

test('scoreAll copies an image when it takes it', async (t) => {
  const detector = await load(t);
  const alone = await scoresOf(detector, frames);
  const data = new Uint8Array(width * height);
  async function* camera() {
    for (const frame of frames) {
      data.set(frame.data);
      yield { ...frame, data };
    }
  }
  const found = [];
  for await (const { score } of detector.scoreAll(camera())) found.push(score);
  assert.deepEqual(found, alone);
});

test('a small budget holds scoreAll back, and does not end it', async (t) => {
  const large = Array.from({ length: 20 }, (_, i) => pattern(500, 500, i));
  const detector = await load(t, { memoryBudget: 8 * 2 ** 20, threads: 8 }, whole);
  const found = [];
  for await (const { score } of detector.scoreAll(large)) found.push(score);
  assert.deepEqual(found, await scoresOf(detector, large));
  const together = await Promise.allSettled(large.map((image) => detector.score(image)));
  assert.ok(
    together.some(({ reason }) => reason?.code === 'ERR_BUSY'),
    'all copies together have no room',
  );
  assert.equal(detector.stats().imageMemory.used, 0);
});

test('an overlay is drawn upon what was scored', async (t) => {
  const detector = await load(t);
  const data = new Uint8Array(frames[1].data);
  const result = await detector.score({ ...frames[1], data });
  const before = await result.heatmap();
  data.fill(0);
  assert.ok(before.equals(await result.heatmap()));
  const bytes = Buffer.from(encoded[3]);
  const other = await detector.score(bytes);
  bytes.fill(0);
  assert.deepEqual((await sharp(await other.heatmap()).metadata()).width, width);
});

test('a reconstruction is one of what was given', async (t) => {
  const detector = await load(t);
  const options = { method: 'ddim', step: 3, respacing: 'ddim50' };
  const alone = await detector.reconstruct(frames[1], options);
  const data = new Uint8Array(frames[1].data);
  const calls = [detector.reconstruct({ ...frames[1], data }, options)];
  data.fill(9);
  const bytes = Buffer.from(encoded[1]);
  calls.push(detector.reconstructAll([frames[0], bytes], options).then(([, found]) => found));
  bytes.fill(0);
  const [raw, png] = await Promise.all(calls);
  assert.deepEqual(raw.image.data, alone.image.data);
  const far = Math.max(...png.image.data.map((value, i) => Math.abs(value - alone.image.data[i])));
  assert.ok(far < 1e-3, `off by ${far}`); // two go through the network together
  assert.equal(detector.stats().imageMemory.used, 0);
});

test('transfer takes the memory over instead', async (t) => {
  const detector = await load(t);
  const [first, second] = await scoresOf(detector, frames);
  const data = new Uint8Array(frames[0].data);
  const call = detector.score({ ...frames[0], data }, { transfer: true });
  assert.equal(data.byteLength, 0, 'at once');
  const result = await call;
  assert.equal(result.score, first);
  assert.equal((await sharp(await result.heatmap()).metadata()).width, width);
  const bytes = Uint8Array.from(encoded[1]).buffer;
  assert.equal((await detector.score(bytes, { transfer: true })).score, second);
  assert.equal(bytes.byteLength, 0);
  const list = frames.map((frame) => ({ ...frame, data: frame.data.slice() }));
  const found = [];
  for await (const { score } of detector.scoreAll(list, { transfer: true })) found.push(score);
  assert.deepEqual(found.slice(0, 2), [first, second]);
  assert.ok(list.every(({ data: taken }) => taken.byteLength === 0));
  assert.equal((await detector.score(path.join(parts, 'train', 'good', '00.png'), { transfer: true })).score, first);
});

test('what cannot be taken over is refused, and stays as it is', async (t) => {
  const detector = await load(t);
  const part = new Uint8Array(2 * width * height).subarray(0, width * height);
  const shared = new Uint8Array(new SharedArrayBuffer(width * height));
  const { buffer } = new WebAssembly.Memory({ initial: 1 });
  for (const [image, message] of [
    [{ ...frames[0], data: part }, /transfer: expected a view of its whole ArrayBuffer, got 4752 of its 9504 bytes/],
    [Buffer.from('pooled by Node.js'), /whole ArrayBuffer/],
    [{ ...frames[0], data: shared }, /transfer: expected a view of an ArrayBuffer, got one of a SharedArrayBuffer/],
    [buffer, /transfer: the ArrayBuffer cannot be taken over/],
  ]) {
    await assert.rejects(detector.score(image, { transfer: true }), { code: 'ERR_ARGUMENT', message });
    await assert.rejects(detector.reconstruct(image, { transfer: true }), { code: 'ERR_ARGUMENT', message });
    assert.ok((image.data ?? image).byteLength > 0);
  }
  const data = frames[0].data.slice();
  const aborted = { transfer: true, signal: AbortSignal.abort() };
  await assert.rejects(detector.score({ ...frames[0], data }, aborted), { code: 'ERR_ABORTED' });
  await assert.rejects(detector.score({ ...frames[0], width: 7, data }, { transfer: true }), { code: 'ERR_IMAGE' });
  assert.equal(data.length, width * height, 'what was refused has not been taken');
  assert.equal(detector.stats().imageMemory.used, 0);
});

test('a copy without room is refused at once, whatever whenFull says', async (t) => {
  for (const whenFull of ['wait', 'reject']) {
    const detector = await load(t, { memoryBudget: 4 * 2 ** 20, whenFull }, whole);
    const large = pattern(400, 400); // a copy has 160 kB, and a megabyte is for copies
    const calls = Array.from({ length: 60 }, () => detector.score(large));
    const ended = await Promise.allSettled(calls);
    const codes = new Set(ended.flatMap(({ reason }) => reason?.code ?? []));
    assert.deepEqual([...codes], ['ERR_BUSY']);
    const refused = ended.filter(({ status }) => status === 'rejected');
    assert.ok(refused.length > 0 && refused.length < 60, `${refused.length} refused`);
    assert.match(refused[0].reason.message, /expected room for a copy of 0\.2 MB in the memoryBudget of 4\.2 MB/);
    const stats = detector.stats();
    assert.deepEqual([stats.refused, stats.scored, stats.imageMemory.used], [refused.length, 60 - refused.length, 0]);
  }
});
