import { type ModelConfig, pixelSize } from '../config/config.js';
import { TrainingData } from './dataset.js';
import { auroc } from '../numeric/auroc.js';
import type { RawImage } from '../image/decode.js';
import { random, streams } from '../numeric/random.js';

/** Damaged samples that tell enough. */
export const damagedCount = 24;
/** Map values are compared at every so many pixels of each axis. */
const every = 4;

/** A rectangle [left, top, width, height]. */
type Box = readonly [number, number, number, number];

/**
 * Pastes a piece of a sample [size, size, channels] somewhere else in it, a little brighter or darker (CutPaste, Li et al.
 * 2021): every other time a thin one. Returns where.
 */
export function cutPaste(sample: Float32Array, size: number, channels: number, next: () => number): Box {
  const scar = next() < 0.5;
  const area = size * size * (0.01 + 0.05 * next()) * (scar ? 0.2 : 1);
  const aspect = (scar ? 6 + 6 * next() : 1 + 2 * next()) ** (next() < 0.5 ? 0.5 : -0.5);
  const side = (length: number): number => Math.min(size >> 1, Math.max(2, Math.round(length)));
  const [width, height] = [side(Math.sqrt(area) * aspect), side(Math.sqrt(area) / aspect)];
  const place = (length: number): number => Math.floor(next() * (size - length + 1));
  const [fromX, fromY, left, top] = [place(width), place(height), place(width), place(height)];
  const shift = 0.3 * (2 * next() - 1);
  const piece = Float32Array.from({ length: width * height * channels }, (_, i) => {
    const [pixel, c] = [Math.floor(i / channels), i % channels];
    const [x, y] = [fromX + (pixel % width), fromY + Math.floor(pixel / width)];
    return Math.min(1, Math.max(-1, (sample[(y * size + x) * channels + c] as number) + shift));
  });
  for (let y = 0; y < height; y++) {
    const row = piece.subarray(y * width * channels, (y + 1) * width * channels);
    sample.set(row, ((top + y) * size + left) * channels);
  }
  return [left, top, width, height];
}

/** Pixel AUROC of a map against a rectangle of it, on a coarse grid. */
export function separationOf(map: Float32Array, size: number, [left, top, width, height]: Box): number {
  const [inside, outside]: [number[], number[]] = [[], []];
  // a thin rectangle may lie between the points of the grid: its own are taken one by one
  for (let y = top; y < top + height; y++)
    for (let x = left; x < left + width; x++) inside.push(map[y * size + x] as number);
  for (let y = 0; y < size; y += every)
    for (let x = 0; x < size; x += every)
      if (x < left || x >= left + width || y < top || y >= top + height) outside.push(map[y * size + x] as number);
  return auroc(outside, inside);
}

/** A sample of a good image with a piece pasted into it. */
export interface DamagedSample {
  image: RawImage;
  /** The sample before. */
  clean: RawImage;
  /** Where the piece is. */
  box: Box;
  /** Which list of files it is of. */
  label: number;
}

/** Samples of good images as training would show them, each with a piece pasted into it; the same ones for the same seed. */
export async function* damagedSamples(
  config: ModelConfig,
  files: readonly (readonly string[])[],
  signal?: AbortSignal,
): AsyncGenerator<DamagedSample, void, undefined> {
  const batchSize = files.length; // one of each list
  const { seed } = config.training;
  const data = new TrainingData(files, { ...config, training: { ...config.training, batchSize } });
  const { channels } = config.input;
  const size = pixelSize(config);
  const length = size * size * channels;
  for (let n = 0, batch = 0; n < damagedCount; batch++) {
    const all = await data.batch(batch, signal);
    const labels = data.labels(batch);
    for (let i = 0; i < batchSize; i++, n++) {
      const before = all.slice(i * length, (i + 1) * length);
      const pixels = before.slice();
      const box = cutPaste(pixels, size, channels, random(seed, streams.damage, n));
      const [clean, image] = [before, pixels].map((data) => {
        for (let p = 0; p < length; p++) data[p] = ((data[p] as number) + 1) / 2;
        return { data, width: size, height: size, channels };
      }) as [RawImage, RawImage];
      yield { image, clean, box, label: labels[i] as number };
    }
  }
}
