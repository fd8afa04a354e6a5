import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { type ModelConfig, pixelSize } from './config.js';
import { DdadError, messageOf, throwIfAborted } from './errors.js';
import { decodeImage, imageExtensions, isGrayFile, type Pixels, resizePixels } from './image.js';
import { permutation, random, streams } from './random.js';
import { mapAhead } from './read-ahead.js';

/** Good images, in an order that depends on their names alone. */
export interface ImageSet {
  files: string[];
  /** Hash of the names (within the folder) and sizes: tells whether a checkpoint belongs to these images. */
  fingerprint: string;
}

const byCodeUnit = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** The images and folders in a folder by name, and how many other files there are; hidden ones left out. */
export async function listing(folder: string): Promise<{ images: string[]; others: number; folders: string[] }> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause: NodeJS.ErrnoException) => {
    const why =
      cause.code === 'ENOENT' ? 'no such folder' : cause.code === 'ENOTDIR' ? 'expected a folder, got a file' : '';
    throw new DdadError('ERR_DATASET', `${folder}: ${why || messageOf(cause)}`, { cause });
  });
  const images: string[] = [];
  const folders: string[] = [];
  let others = 0;
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const isFolder = entry.isSymbolicLink()
      ? await stat(path.join(folder, entry.name)).then(
          (at) => at.isDirectory(),
          () => false,
        )
      : entry.isDirectory();
    if (isFolder) folders.push(entry.name);
    else if (imageExtensions.test(entry.name)) images.push(entry.name);
    else others += 1;
  }
  return { images: images.sort(byCodeUnit), others, folders: folders.sort(byCodeUnit) };
}

async function goodFolder(root: string): Promise<string> {
  const { folders, images } = await listing(root);
  if (folders.includes('train')) {
    const train = await listing(path.join(root, 'train'));
    if (train.folders.includes('good')) return path.join(root, 'train', 'good');
  }
  if (images.length === 0 && (folders.includes('test') || folders.includes('train'))) {
    throw new DdadError(
      'ERR_DATASET',
      `${root}: expected good images in train/good beside ${folders.join(', ')}; there is no such folder`,
    );
  }
  return root;
}

/**
 * The good images of a dataset: `train/good` in the MVTec AD layout, else the images that lie in the folder itself, or
 * the files of a list. Hidden files and other kinds of files are left out. Throws ERR_DATASET when none is left.
 */
export async function findImages(dataset: string | readonly string[]): Promise<ImageSet> {
  let files: string[];
  let names: string[];
  if (typeof dataset === 'string') {
    const folder = await goodFolder(dataset);
    const { images, others, folders } = await listing(folder);
    if (images.length === 0) {
      const shown = folders.length > 5 ? [...folders.slice(0, 5), '…'] : folders;
      const found = [
        others > 0 ? `${others} other files` : '',
        folders.length > 0 ? `${folders.length} folders (${shown.join(', ')})` : '',
      ].filter(Boolean);
      throw new DdadError(
        'ERR_DATASET',
        `${folder}: expected good images (PNG, JPEG, TIFF, WebP) in it or in its train/good, ` +
          `found ${found.join(' and ') || 'an empty folder'}`,
      );
    }
    names = images;
    files = images.map((name) => path.join(folder, name));
  } else {
    files = [...dataset].sort(byCodeUnit);
    names = files;
    if (files.length === 0) throw new DdadError('ERR_DATASET', 'expected a list of good images, got an empty one');
  }
  const hash = createHash('sha256');
  for (const [i, file] of files.entries()) {
    const { size } = await stat(file).catch((cause: unknown) => {
      throw new DdadError('ERR_DATASET', `${file}: ${messageOf(cause)}`, { cause });
    });
    hash.update(`${names[i]}\0${size}\n`);
  }
  return { files, fingerprint: hash.digest('hex') };
}

/** Whether every image is gray by its format. Reads the headers, so it also finds files that are no images. */
export async function allGray(files: readonly string[], signal?: AbortSignal): Promise<boolean> {
  let gray = true;
  for await (const one of mapAhead(files, (file) => isGrayFile(file), { ahead: 7, signal })) gray &&= one;
  return gray;
}

/**
 * Splits images into those trained on and those held back for calibration: a share of them, at least one when there are
 * two, chosen by the seed. A single image does both.
 */
export function splitHeldBack<T>(
  images: readonly T[],
  share: number,
  seed: number,
): { train: readonly T[]; heldBack: readonly T[] } {
  if (images.length < 2) return { train: images, heldBack: images };
  const count = Math.min(images.length - 1, Math.max(1, Math.round(images.length * share)));
  const chosen = new Set(permutation(images.length, random(seed, streams.split, 0)).subarray(0, count));
  return { train: images.filter((_, i) => !chosen.has(i)), heldBack: images.filter((_, i) => chosen.has(i)) };
}

/** Index into 0..n-1 of a position that may lie outside: mirrored at the edges, which are not repeated. */
export function reflect(i: number, n: number): number {
  if (n === 1) return 0;
  const period = 2 * (n - 1);
  const at = ((i % period) + period) % period;
  return at < n ? at : period - at;
}

/** Copies a window of `size` pixels at (left, top), which may reach over the edge, to [-1, 1] floats in `out`. */
export function cropInto(
  out: Float32Array,
  pixels: Pixels,
  window: { left: number; top: number; size: number; flipX: boolean; flipY: boolean },
): void {
  const { data, width, height, channels } = pixels;
  const { left, top, size } = window;
  const scale = data instanceof Uint16Array ? 1 / 32767.5 : 1 / 127.5;
  const columns = Uint32Array.from({ length: size }, (_, x) => {
    return channels * reflect(left + (window.flipX ? size - 1 - x : x), width);
  });
  let to = 0;
  for (let y = 0; y < size; y++) {
    const row = channels * width * reflect(top + (window.flipY ? size - 1 - y : y), height);
    for (let x = 0; x < size; x++) {
      const from = row + (columns[x] as number);
      for (let c = 0; c < channels; c++) out[to++] = (data[from + c] as number) * scale - 1;
    }
  }
}

/**
 * Seeded batches of training samples. A batch is a pure function of (seed, step): every pass over the images has its
 * own order, every sample its own window and mirroring.
 */
export class TrainingData {
  readonly #files: readonly string[];
  readonly #config: ModelConfig;
  readonly #cache = new Map<number, Pixels>();
  readonly #orders = new Map<number, Uint32Array>();
  #room: number;

  /** Decoded images are kept while they fit into `cacheBytes`; the others are decoded whenever they are needed. */
  constructor(files: readonly string[], config: ModelConfig, cacheBytes = 512 * 2 ** 20) {
    this.#files = files;
    this.#config = config;
    this.#room = cacheBytes;
  }

  /** The samples of a step: [batchSize, size, size, channels] in [-1, 1], `size` the {@link pixelSize}. */
  async batch(step: number, signal?: AbortSignal): Promise<Float32Array> {
    const { input, training } = this.#config;
    const size = pixelSize(this.#config);
    const first = step * training.batchSize;
    const samples = Array.from({ length: training.batchSize }, (_, i) => ({
      n: first + i,
      image: this.#at(first + i),
    }));
    const needed = [...new Set(samples.map(({ image }) => image))];
    const pixels = new Map<number, Pixels>();
    await Promise.all(needed.map(async (image) => pixels.set(image, await this.#pixels(image, signal))));
    throwIfAborted(signal);
    const length = size * size * input.channels;
    const batch = new Float32Array(samples.length * length);
    for (const [i, { n, image }] of samples.entries()) {
      this.#sample(batch.subarray(i * length, (i + 1) * length), pixels.get(image) as Pixels, n);
    }
    return batch;
  }

  /** Which image the n-th sample of the run shows. */
  #at(n: number): number {
    const count = this.#files.length;
    const pass = Math.floor(n / count);
    let order = this.#orders.get(pass);
    if (!order) {
      order = permutation(count, random(this.#config.training.seed, streams.order, pass));
      for (const old of this.#orders.keys()) if (old < pass - 1) this.#orders.delete(old);
      this.#orders.set(pass, order);
    }
    return order[n % count] as number;
  }

  #sample(out: Float32Array, pixels: Pixels, n: number): void {
    const { training } = this.#config;
    const size = pixelSize(this.#config);
    const next = random(training.seed, streams.augment, n);
    // A window wider than the image lies anywhere around it, filled by reflection.
    const place = (length: number): number => {
      const slack = length - size;
      return Math.min(0, slack) + Math.floor(next() * (Math.abs(slack) + 1));
    };
    const left = place(pixels.width);
    const top = place(pixels.height);
    const flipX = next() < 0.5 && (training.flip === 'horizontal' || training.flip === 'both');
    const flipY = next() < 0.5 && (training.flip === 'vertical' || training.flip === 'both');
    cropInto(out, pixels, { left, top, size, flipX, flipY });
  }

  async #pixels(image: number, signal?: AbortSignal): Promise<Pixels> {
    const kept = this.#cache.get(image);
    if (kept) return kept;
    const { input } = this.#config;
    const decoded = await decodeImage(this.#files[image] as string, { channels: input.channels, signal });
    const pixels = input.mode === 'resize' ? await resizePixels(decoded, pixelSize(this.#config)) : decoded;
    if (pixels.data.byteLength <= this.#room && !this.#cache.has(image)) {
      this.#room -= pixels.data.byteLength;
      this.#cache.set(image, pixels);
    }
    return pixels;
  }
}
