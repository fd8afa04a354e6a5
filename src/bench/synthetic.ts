import path from 'node:path';
import sharp from 'sharp';
import { makeFolder } from '../files/write.js';
import type { BenchPreset } from './types.js';

/** An RGB image of waves and a little noise, another for each number; it compresses much as a photograph does. */
export function syntheticPixels(width: number, height: number, number: number): Uint8Array {
  const data = new Uint8Array(3 * width * height);
  let state = 12345 + number;
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        state = (Math.imul(state, 1664525) + 1013904223) | 0;
        const wave = Math.sin((x + 3 * number) / (11 + c)) * Math.cos((y - number) / (13 - c));
        data[at++] = 128 + 70 * wave + 12 * (state / 2 ** 31);
      }
    }
  }
  return data;
}

function encoder(width: number, height: number, number: number): sharp.Sharp {
  return sharp(syntheticPixels(width, height, number), { raw: { width, height, channels: 3 } });
}

export function syntheticPng(size: number, number: number): Promise<Buffer> {
  return encoder(size, size, number).png({ compressionLevel: 6 }).toBuffer();
}

export function syntheticJpeg(width: number, height: number, number: number): Promise<Buffer> {
  return encoder(width, height, number).jpeg({ quality: 90 }).toBuffer();
}

/** Side of the images that a preset's scoring is measured with. */
export const imageSizes: Record<BenchPreset, number> = { nano: 128, lite: 256 };

/** Files that processes share. */
export const modelFile = (folder: string, preset: BenchPreset): string => path.join(folder, `${preset}.safetensors`);
export const imageFile = (folder: string, preset: BenchPreset): string => path.join(folder, `${preset}.png`);

/** Good images to train on. */
export async function writeDataset(folder: string, size: number, count: number): Promise<void> {
  await makeFolder(folder);
  for (let i = 0; i < count; i++) {
    await encoder(size, size, i)
      .png()
      .toFile(path.join(folder, `${String(i).padStart(2, '0')}.png`));
  }
}
