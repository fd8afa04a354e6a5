// What the soak and the rounds score: a small trained model, images of many kinds, and what they should come to.
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { Trainer } from '../../dist/index.js';
import { makeDataset, pattern, png, random, trainTiny } from '../ts/helpers.mjs';

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
