// What the soak and the rounds score: a small trained model, images of many kinds, and what they should come to.
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { Trainer } from '../../dist/index.js';
import { makeDataset, pattern, png, random, trainTiny } from '../helpers/common.mjs';

/** Trains a model in a new folder, which `remove` deletes. */
export async function makeModel() {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'ddad-soak-'));
  const dataset = await makeDataset(path.join(folder, 'parts'), 8);
  const model = path.join(folder, 'model.safetensors');
  await trainTiny({ Trainer }, dataset, model, { mode: 'resize', size: 32 });
  return { folder, dataset, model, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** Good images: files' bytes and pixels, of several formats, depths and sizes, all different. */
export async function makeImages(count, seed) {
  const next = random(seed);
  const images = [];
  for (let i = 0; i < count; i++) {
    const [width, height] = [20 + Math.floor(600 * next() ** 2), 20 + Math.floor(500 * next() ** 2)];
    const raw = pattern(width, height, 1 + i, i % 3 === 0);
    const encoded = png(raw);
    const kinds = [
      () => encoded.toBuffer(),
      () => encoded.jpeg({ quality: 85 }).toBuffer(),
      () => encoded.webp().toBuffer(),
      () => encoded.toColourspace('rgb16').png().toBuffer(),
      () => raw,
      () => encoded.tiff().toBuffer(),
    ];
    images.push(await kinds[i % kinds.length]());
  }
  return images;
}

/** Images that must be refused, and the code with which. */
export async function makeBadImages() {
  const whole = await sharp({ create: { width: 300, height: 200, channels: 3, background: 'gray' } })
    .png({ compressionLevel: 0 })
    .toBuffer();
  return [
    Buffer.from('this is no image'),
    whole.subarray(0, whole.length >> 1),
    Buffer.alloc(0),
    Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'),
    { data: new Uint8Array(10), width: 4, height: 4, channels: 1 },
    '/nowhere/at/all.png',
  ];
}

/** A gray PNG of one colour, a thousandth as large as its pixels. */
const flat = (width, height, value) =>
  sharp({
    create: { width, height, channels: 3, background: { r: value, g: value, b: value } },
    limitInputPixels: false,
  })
    .toColourspace('b-w')
    .png({ compressionLevel: 9 })
    .toBuffer();

/** Small files that want much: those that are refused, with the codes, and those that must wait until they fit. */
export async function makeHostile() {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">${'<g/>'.repeat(300_000)}</svg>`;
  const webp = Buffer.alloc(38);
  webp.write('RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f', 'latin1');
  webp.writeUInt32LE(9899 | (9899 << 14), 21); // 9 900 x 9 900, and nothing of it
  const refused = {
    ERR_MEMORY: [await flat(10_000, 10_000, 128), webp],
    ERR_IMAGE: [Buffer.from(svg), gzipSync(svg), Buffer.from('%PDF-1.7\n')],
  };
  const waiting = [];
  for (const side of [1000, 1500, 2000]) waiting.push(await flat(side, side, side / 10));
  const noise = Buffer.alloc(900 * 900).map((_, i) => (i * i * 31) % 251);
  const raw = sharp(noise, { raw: { width: 900, height: 900, channels: 1 } });
  waiting.push(await raw.webp({ effort: 0 }).toBuffer(), await raw.jpeg({ progressive: true }).toBuffer());
  return {
    refused: Object.entries(refused).flatMap(([code, images]) => images.map((image) => ({ image, code }))),
    waiting,
  };
}

/** Frames of a camera: of one size, all different. */
export const makeFrames = (count) => Array.from({ length: count }, (_, i) => pattern(160, 120, 7 * i, i % 2 === 1));
