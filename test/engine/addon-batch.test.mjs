// scoreBatch of the addon: results and errors by image, cancelling one or all, maps that JavaScript owns.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { tinyConfig, writeBackbone } from '../fuzz/models.mjs';
import * as shared from '../helpers/addon.mjs';
import { temporaryFolder } from '../helpers/common.mjs';

const { addon, configOf, grayImage, openDetector, pause, slow, token } = shared;
const tokens = (count) => Array.from({ length: count }, token);
/** A picture that tells itself from others. */
const picture = (seed, size = 16) => ({
  ...grayImage(size, size),
  data: Uint8Array.from({ length: size * size }, (_, i) => (i * 37 + 50 * seed) % 251),
});

test('a batch gives each image the result that it has alone', async (t) => {
  const detector = await openDetector(t);
  const images = [picture(1), { ...picture(2), outWidth: 40, outHeight: 30 }, picture(3, 11), picture(4), picture(5)];
  const alone = [];
  for (const image of images) alone.push(await detector.score(image, token()));
  assert.notDeepEqual(alone[0].map, alone[3].map);
  for (let round = 0; round < 3; round++) {
    const together = await detector.scoreBatch(images, tokens(5));
    assert.deepEqual(together, alone);
  }
  const [first, second] = await Promise.all([
    detector.scoreBatch(images.slice(0, 2), tokens(2)),
    detector.scoreBatch(images.slice(2), tokens(3)),
  ]);
  assert.deepEqual([...first, ...second], alone);
});

test('an image that does not fit fails alone', async (t) => {
  const detector = await openDetector(t);
  const wide = { ...picture(1), channels: 3, data: new Uint8Array(768) };
  const [good, bad, other] = await detector.scoreBatch([picture(1), wide, picture(2)], tokens(3));
  assert.ok(bad instanceof Error);
  assert.equal(bad.code, 'ERR_IMAGE');
  assert.deepEqual(
    [good, other],
    [await detector.score(picture(1), token()), await detector.score(picture(2), token())],
  );
});

test("maps are JavaScript's own: they can be transferred", async (t) => {
  const detector = await openDetector(t);
  const { map, pixelMap } = await detector.score({ ...picture(1), outWidth: 300, outHeight: 200 }, token());
  assert.equal(map.length, 60_000);
  const copy = map.slice();
  const moved = structuredClone(map, { transfer: [map.buffer] });
  assert.deepEqual(moved, copy);
  assert.equal(map.length, 0);
  assert.equal(pixelMap.length, 0, 'without features both are one');
});

test('a configuration set while images wait leaves every map as it should be', async (t) => {
  const folder = await temporaryFolder();
  const backbone = path.join(folder, 'backbone.safetensors');
  writeBackbone(backbone);
  const config = tinyConfig(true);
  const judgedBy = (kind) => JSON.stringify({ ...config, score: { ...config.score, kind } });
  const trainer = new addon.NativeTrainer(JSON.stringify(config), JSON.stringify({ threads: 1, backbone }));
  await trainer.open(token());
  const detector = await trainer.toDetector(judgedBy('pixel'));
  t.after(() => [trainer, detector].forEach((one) => one.dispose()));
  const { map, pixelMap, featureMap } = await detector.score(picture(1, 8), token());
  assert.deepEqual(map, pixelMap);
  assert.notDeepEqual(featureMap, pixelMap);
  const both = pixelMap.map((value, i) => 0.5 * value + 0.5 * featureMap[i]);
  const expected = { pixel: pixelMap, feature: featureMap, ensemble: both };
  for (const kind of ['feature', 'ensemble', 'feature', 'pixel']) {
    const set = detector.setConfig(judgedBy(kind));
    const late = await detector.score(picture(1, 8), token()); // made with room for the maps of the kind before
    await set;
    assert.deepEqual([late.pixelMap, late.featureMap], [pixelMap, featureMap], kind);
    for (const [i, value] of late.map.entries()) assert.ok(Math.abs(value - expected[kind][i]) <= 1e-6, kind);
  }
});

test('pixels written in pieces score like those in one, once', async (t) => {
  const detector = await openDetector(t);
  for (const Type of [Uint8Array, Uint16Array, Float32Array]) {
    const data = Type.from(picture(1).data, (value) => (Type === Float32Array ? value / 255 : value));
    const buffer = new addon.PixelBuffer(data.byteLength);
    assert.equal(buffer.byteLength, data.byteLength);
    for (let from = 0; from < 256; from += 100) buffer.append(data.subarray(from, from + 100));
    const whole = await detector.score({ ...picture(1), data }, token());
    const [pieces] = await detector.scoreBatch([{ ...picture(1), data: buffer }], [token()]);
    assert.deepEqual(pieces, whole);
    const again = detector.score({ ...picture(1), data: buffer }, token());
    await assert.rejects(again, { code: 'ERR_ARGUMENT', message: /expected 256 values .*, got 0/ });
  }
});

test('a buffer of pixels takes what it has room for', () => {
  const refused = (work, message) => assert.throws(work, { code: 'ERR_ARGUMENT', message });
  const buffer = new addon.PixelBuffer(10);
  buffer.append(new Uint16Array(2));
  refused(() => buffer.append(new Uint16Array(4)), /append: view: expected at most 6 bytes, got 8/);
  refused(() => buffer.append(new Uint8Array(2)), /append: view: expected an array of the type of the first/);
  refused(() => buffer.append([1, 2]), /append: view: expected a Uint8Array/);
  buffer.append(new Uint16Array(3));
  for (const bytes of [0, -1, NaN, 2 ** 40, '8', undefined])
    refused(() => new addon.PixelBuffer(bytes), /PixelBuffer: bytes: expected a number/);
  assert.throws(() => buffer.append.call({}, new Uint16Array(1)), TypeError);
});

test('release lets go of memory that a view fills, and of no other', () => {
  const whole = new Uint16Array(1000);
  const part = new Uint8Array(whole.buffer, 0, 10);
  addon.release(part);
  assert.equal(whole.length, 1000);
  addon.release(whole);
  assert.equal(whole.length, 0);
  addon.release(whole);
  const shared = new Uint8Array(new SharedArrayBuffer(8));
  addon.release(shared);
  assert.equal(shared.length, 8);
  const wasm = new Uint8Array(new WebAssembly.Memory({ initial: 1 }).buffer);
  addon.release(wasm);
  assert.equal(wasm.length, 65_536);
  const buffer = new addon.PixelBuffer(8);
  buffer.append(new Uint8Array(8));
  addon.release(buffer);
  addon.release(buffer);
  buffer.append(new Uint16Array(4)); // as new: all of its room is free, whatever the type
  for (const bad of [undefined, 5, new ArrayBuffer(8), {}])
    assert.throws(() => addon.release(bad), { code: 'ERR_ARGUMENT', message: /release: view: expected a typed array/ });
});

test('one image of a batch is cancelled, or all of them, or before it began', async (t) => {
  const detector = await openDetector(t);
  const busy = await openDetector(t, slow);
  const codes = (results) => results.map(({ code }) => code ?? 'scored');
  const large = Array.from({ length: 4 }, (_, i) => picture(i, 256));

  const some = tokens(4);
  const running = busy.scoreBatch(large, some);
  some[1].cancel();
  assert.deepEqual(codes(await running), ['scored', 'ERR_ABORTED', 'scored', 'scored']);

  const all = tokens(4);
  const stopped = busy.scoreBatch([...large], all);
  const waiting = tokens(2);
  const queued = detector.scoreBatch([picture(1), picture(2)], waiting);
  waiting[0].cancel();
  await pause(5);
  waiting[1].cancel();
  await assert.rejects(queued, { code: 'ERR_ABORTED' }); // at once: the other one still computes
  for (const one of all) one.cancel();
  await assert.rejects(stopped, { code: 'ERR_ABORTED' });

  const early = tokens(2);
  early[0].cancel();
  assert.deepEqual(codes(await detector.scoreBatch([picture(1), picture(2)], early)), ['ERR_ABORTED', 'scored']);
  early[1].cancel();
  await assert.rejects(detector.scoreBatch([picture(1), picture(2)], early), { code: 'ERR_ABORTED' });
});

test('a disposed detector fails its batches', async (t) => {
  const detector = await openDetector(t, slow);
  const large = Array.from({ length: 4 }, (_, i) => picture(i, 256));
  const both = Promise.allSettled([detector.scoreBatch(large, tokens(4)), detector.scoreBatch(large, tokens(4))]);
  await pause(20);
  detector.dispose();
  assert.deepEqual(
    (await both).map(({ reason }) => reason?.code),
    ['ERR_DISPOSED', 'ERR_DISPOSED'],
  );
  await assert.rejects(detector.scoreBatch(large, tokens(4)), { code: 'ERR_DISPOSED' });
});

test('rejects bad batches', async (t) => {
  const detector = await openDetector(t);
  const reject = (work, message) => assert.rejects(work, { code: 'ERR_ARGUMENT', message });
  await reject(detector.scoreBatch(), /images: expected an array, got undefined/);
  await reject(detector.scoreBatch({ length: 1, 0: picture(1) }, tokens(1)), /images: expected an array/);
  await reject(detector.scoreBatch([], []), /images: expected 1 to 1024 elements, got 0/);
  await reject(detector.scoreBatch([picture(1)]), /tokens: expected an array/);
  await reject(detector.scoreBatch([picture(1)], [null]), /token: expected a CancelToken/);
  await reject(detector.scoreBatch([picture(1)], tokens(2)), /tokens: expected 1 of them, one an image, got 2/);
  await reject(detector.scoreBatch([picture(1), 5], tokens(2)), /image: expected an object/);
  const shrinking = [picture(1), picture(2)];
  Object.defineProperty(shrinking, 0, { get: () => ((shrinking.length = 1), picture(1)) });
  await reject(detector.scoreBatch(shrinking, tokens(2)), /image: expected an object, got undefined/);
  const own = token();
  const both = await detector.scoreBatch([picture(1), picture(1)], [own, own]);
  assert.deepEqual(both[0], both[1]);
  await detector.setConfig(configOf());
  assert.equal((await detector.scoreBatch([picture(1)], tokens(1))).length, 1);
  assert.ok(addon.info());
});
