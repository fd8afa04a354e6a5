// What small files may cost: nothing is opened that is no photograph, nothing is decoded that does not fit.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { deflateSync, gzipSync } from 'node:zlib';
import sharp from 'sharp';
import formats from '../../dist/image/format.js';
import image from '../../dist/image/decode.js';
import { Detector, Trainer } from '../../dist/index.js';
import { makeDataset, pattern, png, random, root, run, temporaryFolder, trainTiny, until } from '../helpers/common.mjs';

const { decodeImage, isGrayFile } = image;
const folder = await temporaryFolder();
const model = path.join(folder, 'model.safetensors');
await trainTiny({ Trainer }, await makeDataset(path.join(folder, 'parts'), 4), model, { steps: 2, mode: 'resize' });
const MB = 2 ** 20;
const rss = () => process.memoryUsage.rss();

async function load(t, options = {}) {
  const detector = await Detector.load(model, { threads: 1, ...options });
  t.after(() => detector.dispose());
  return detector;
}

/** A gray PNG of one colour, a thousandth as large as its pixels. */
const flat = (width, height) =>
  sharp({ create: { width, height, channels: 3, background: 'gray' }, limitInputPixels: false })
    .toColourspace('b-w')
    .png({ compressionLevel: 9 })
    .toBuffer();

const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">${'<g>'.repeat(400_000)}`;
const tagged = (at, text) => Buffer.concat([Buffer.alloc(at), Buffer.from(text, 'latin1'), Buffer.alloc(600)]);
const strangers = {
  'a drawing': [Buffer.from(svg), /expected a photograph .*, got svg/],
  'a drawing behind a comment': [Buffer.from(`\n<!-- -->\n<!DOCTYPE svg><svg:svg `), /got svg/],
  'a drawing with a byte order mark': [Buffer.from(`\u{feff}<?xml version="1.0"?><svg\n`), /got svg/],
  'a packed drawing': [gzipSync(svg), /not an image that can be read/],
  'a document': [Buffer.from('%PDF-1.7\n'), /expected a photograph .*, got pdf/],
  'a bitmap': [tagged(0, 'BM'), /not an image/],
  'JPEG XL': [tagged(0, '\xff\x0a'), /not an image/],
  'JPEG 2000': [tagged(4, 'jP  \r\n\x87\n'), /not an image/],
  'HEVC in HEIF': [tagged(4, 'ftypheic'), /not an image/],
  'an image of libvips': [tagged(0, '\x08\xf2\xa6\xb6'), /not an image/],
  FITS: [tagged(0, 'SIMPLE  ='), /not an image/],
  PPM: [tagged(0, 'P6\n9 9\n255\n'), /not an image/],
  Radiance: [tagged(0, '#?RADIANCE'), /not an image/],
  OpenEXR: [tagged(0, '\x76\x2f\x31\x01'), /not an image/],
  'a sound': [tagged(0, 'RIFF\0\0\0\0WAVE'), /not an image/],
  text: [Buffer.from('hello'), /not an image/],
};

test('what is no photograph is refused by its first bytes, in files and in memory', async () => {
  for (const [name, [bytes, message]] of Object.entries(strangers)) {
    const file = path.join(folder, 'stranger.png');
    await writeFile(file, bytes);
    const start = performance.now();
    const before = rss();
    for (const call of [() => decodeImage(bytes, { channels: 1 }), () => decodeImage(file, { channels: 1 })])
      await assert.rejects(call(), { code: 'ERR_IMAGE', message }, name);
    await assert.rejects(isGrayFile(file), { code: 'ERR_IMAGE', message }, name);
    // Parsing the drawings takes gigabytes and seconds.
    assert.ok(rss() - before < 50 * MB && performance.now() - start < 1500, `${name} was opened`);
  }
});

test('what begins as a photograph and is none is refused, too', async () => {
  for (const start of ['\x89PNG\r\n\x1a\n', '\xff\xd8\xff\xe0', 'II*\0', 'MM\0*', 'GIF89a', 'RIFF\0\0\0\0WEBP'])
    await assert.rejects(decodeImage(Buffer.from(start + svg.slice(0, 500), 'latin1'), { channels: 1 }), {
      code: 'ERR_IMAGE',
    });
  assert.equal(formats.formatOf(new Uint8Array()), undefined);
  assert.equal(formats.formatOf(Buffer.from('\xff\xd8', 'latin1')), undefined);
});

test('every format that is let in is decoded', async () => {
  const from = () => png(pattern(24, 20)).toColourspace('srgb');
  const avif = await from().avif().toBuffer();
  const brand = (name) => Buffer.concat([avif.subarray(0, 8), Buffer.from(name), avif.subarray(12)]);
  for (const [name, encoded] of Object.entries({
    png: from().png(),
    jpeg: from().jpeg(),
    webp: from().webp(),
    gif: from().gif(),
    tiff: from().tiff(),
    'tiff, large': from().tiff({ bigtiff: true }),
    avif,
    'avif, mif1': brand('mif1'),
  })) {
    const bytes = Buffer.isBuffer(encoded) ? encoded : await encoded.toBuffer();
    const { width, height } = await decodeImage(bytes, { channels: 3 });
    assert.deepEqual([width, height], [24, 20], name);
  }
});

test('the header of a large file is read alone', async () => {
  const next = random(1);
  const noise = Buffer.alloc(900 * 900).map(() => 256 * next());
  const raw = sharp(noise, { raw: { width: 900, height: 900, channels: 1 } }).toColourspace('b-w');
  for (const [name, encoded] of [
    ['gray.png', await raw.png().toBuffer()],
    ['gray.tiff', await raw.tiff().toBuffer()],
  ]) {
    assert.ok(encoded.length > 2 ** 18);
    const file = path.join(folder, name);
    await writeFile(file, encoded);
    assert.equal(await isGrayFile(file), true);
  }
  // A profile that is longer than what is read first.
  const text = Buffer.concat([Buffer.from('ICC_PROFILE\0\x01\x01'), Buffer.alloc(65_000)]);
  const marker = Buffer.concat([Buffer.from([0xff, 0xe9, (text.length + 2) >> 8, (text.length + 2) & 255]), text]);
  const jpeg = await png(pattern(24, 20)).jpeg().toBuffer();
  const file = path.join(folder, 'long.jpg');
  await writeFile(file, Buffer.concat([jpeg.subarray(0, 2), ...Array(6).fill(marker), jpeg.subarray(2)]));
  assert.equal(await isGrayFile(file), true);
});

test('an image that never fits is refused before it is decoded, by what its header says', async (t) => {
  const detector = await load(t, { memoryBudget: 128 * MB, limitInputPixels: 1e9 });
  const bombs = [await flat(10_000, 10_000)];
  const webp = Buffer.from('RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xab\x66\xaa\x09\0'.padEnd(38, '\0'), 'latin1');
  bombs.push(webp);
  assert.ok(bombs[0].length < 150_000);
  const file = path.join(folder, 'bomb.png');
  await writeFile(file, bombs[0]);
  bombs.push(file);
  const before = rss();
  const message = /takes \d+ MB of memory, expected at most 101 MB \(three quarters of memoryBudget\)/;
  const calls = Array.from({ length: 24 }, (_, i) => detector.score(bombs[i % bombs.length]));
  for (const { reason } of await Promise.allSettled(calls)) {
    assert.equal(reason?.code, 'ERR_MEMORY');
    assert.match(reason.message, message);
  }
  assert.ok(rss() - before < 60 * MB, `${(rss() - before) / MB} MB`);
  assert.equal(detector.stats().imageMemory.used, 0);
  const raw = { data: new Uint8Array(9e6), width: 3000, height: 3000, channels: 1 };
  await assert.rejects(detector.score(raw), { code: 'ERR_MEMORY' });
  await assert.rejects(detector.reconstruct(bombs[0], { method: 'ddim' }), { code: 'ERR_MEMORY' });
  await assert.rejects(Detector.load(model, { memoryBudget: 1000 }), { code: 'ERR_OPTION', message: /memoryBudget/ });
});

test('what does not fit waits: many at once take no more than the budget', async (t) => {
  const budget = 64 * MB;
  const detector = await load(t, { memoryBudget: budget });
  const images = await Promise.all([1500, 1400, 1300].map((side) => flat(side, side)));
  const small = pattern(40, 40);
  const alone = [];
  for (const one of [...images, small]) alone.push((await detector.score(one)).score);
  let most = 0;
  let decoding = 0;
  const watch = setInterval(() => {
    const { imageMemory: memory, decoding: now } = detector.stats();
    most = Math.max(most, memory.used);
    decoding = Math.max(decoding, now);
  }, 1);
  const calls = Array.from({ length: 40 }, (_, i) => detector.score(i % 4 === 3 ? small : images[i % 4]));
  const found = (await Promise.all(calls)).map(({ score }) => score);
  clearInterval(watch);
  assert.deepEqual(
    found,
    found.map((_, i) => alone[i % 4]),
  );
  assert.ok(most > budget / 2 && most <= budget, `${most / MB} MB used`);
  assert.ok(decoding >= 1);
  assert.equal(detector.stats().imageMemory.used, 0);
});

test('an overlay takes its memory from the same budget, and gives it back', async (t) => {
  const detector = await load(t, { memoryBudget: 64 * MB });
  const result = await detector.score(await flat(1200, 1200));
  let most = 0;
  const watch = setInterval(() => (most = Math.max(most, detector.stats().imageMemory.used)), 1);
  await Promise.all(Array.from({ length: 12 }, () => result.heatmap()));
  clearInterval(watch);
  assert.ok(most > 8 * MB && most <= 64 * MB, `${most / MB} MB used`);
  const controller = new AbortController();
  const stopped = result.heatmap({ signal: controller.signal });
  controller.abort();
  await assert.rejects(stopped, { code: 'ERR_ABORTED' });
  await until(() => detector.stats().imageMemory.used === 0);
});

test('uploads that are aborted do not pile up: their decoding keeps its place', async (t) => {
  const detector = await load(t, { maxQueue: 4 });
  const slow = await sharp({ create: { width: 2500, height: 2500, channels: 3, background: 'gray' } })
    .webp({ lossless: true, effort: 0 })
    .toBuffer();
  const codes = [];
  let most = 0;
  for (let i = 0; i < 25; i++) {
    const controller = new AbortController();
    const call = detector.score(slow, { signal: controller.signal }).catch(({ code }) => codes.push(code));
    await new Promise((resolve) => setTimeout(resolve, 3));
    controller.abort();
    await call;
    const { decoding, queued } = detector.stats();
    most = Math.max(most, decoding);
    assert.equal(queued, 0);
  }
  assert.ok(most >= 1 && most <= 4, `${most} decoders`);
  assert.deepEqual(
    codes.filter((code) => code !== 'ERR_ABORTED' && code !== 'ERR_BUSY'),
    [],
  );
  await until(() => detector.stats().decoding === 0);
  assert.equal(detector.stats().imageMemory.used, 0);
  assert.ok(Number.isFinite((await detector.score(pattern(40, 40))).score));
});

test('the command line takes the budget, reports what is too large and goes on', async () => {
  const bomb = path.join(folder, 'large.png');
  await writeFile(bomb, await flat(4000, 4000));
  const good = path.join(folder, 'parts', 'train', 'good', '00.png');
  const { code, stdout, stderr } = await run(['score', model, bomb, good, '--json', '--memory-budget', '64MB']);
  assert.equal(code, 1, stderr);
  const [first, second] = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual([first.error.code, typeof second.score], ['ERR_MEMORY', 'number']);
  const wrong = await run(['score', model, good, '--memory-budget', 'much']);
  assert.deepEqual([wrong.code, /--memory-budget: expected a size in B, kB, MB or GB/.test(wrong.stderr)], [2, true]);
});

test('estimates are not too small for what decoding really takes', async () => {
  const script = path.join(root, 'bench', 'ours', 'image-memory.mjs');
  for (const only of ['jpeg, progressive, turned', 'webp, lossless', 'overlay'])
    await promisify(execFile)(process.execPath, [script, '--side', '1600', '--only', only]);
});

test('a PNG whose rows end early is an error, and its memory comes back', async (t) => {
  const detector = await load(t);
  const whole = await flat(800, 800);
  const chunk = whole.indexOf('IDAT') - 4;
  const body = deflateSync(Buffer.alloc(1000));
  const cut = Buffer.concat([whole.subarray(0, chunk), Buffer.from([0, 0, 0, body.length]), Buffer.from('IDAT'), body]);
  await assert.rejects(detector.score(cut), { code: 'ERR_IMAGE', message: /damaged or truncated/ });
  assert.equal(detector.stats().imageMemory.used, 0);
});
