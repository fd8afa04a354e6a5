import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { type ModelConfig, pixelSize } from '../config/config.js';
import { DdadError, kindOf, messageOf, throwIfAborted } from '../base/errors.js';
import { decodeImage, imageExtensions, isGrayFile, type Pixels, resizePixels } from '../image/decode.js';
import { isPicture, overlayName } from '../image/overlay-file.js';
import { permutation, random, streams } from '../numeric/random.js';
import { mapAhead } from '../base/read-ahead.js';
import { kindOfFile } from '../files/read.js';
import { cropInto, turnInto } from './crop.js';

/** The good images of a product; the name is null where the dataset is of a single one. */
export interface ProductImages {
  name: string | null;
  files: string[];
}

/** Good images, in an order that depends on their names alone. */
export interface ImageSet {
  files: string[];
  /** The same by product, in the order of the labels. */
  products: ProductImages[];
  /** Hash of the names (within the folder) and sizes: tells whether a checkpoint belongs to these images. */
  fingerprint: string;
  /** Whether the images of a folder are told by their names within it, not by their paths. */
  byName: boolean;
  /** Folders beside those of products that hold no product. */
  leftOut: string[];
  /** How many overlays that ddad-native has written were left out. */
  overlays: number;
}

const byCodeUnit = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** What is in a folder, by name; hidden files left out. */
interface Listing {
  images: string[];
  folders: string[];
  /** How many other files there are, and how many overlays that ddad-native has written. */
  others: number;
  overlays: number;
}

export async function listing(folder: string): Promise<Listing> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause: NodeJS.ErrnoException) => {
    const why =
      cause.code === 'ENOENT' ? 'no such folder' : cause.code === 'ENOTDIR' ? 'expected a folder, got a file' : '';
    throw new DdadError('ERR_DATASET', `${folder}: ${why || messageOf(cause)}`, { cause });
  });
  const images: string[] = [];
  const folders: string[] = [];
  let [others, overlays] = [0, 0];
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const isFolder = entry.isSymbolicLink()
      ? await stat(path.join(folder, entry.name)).then(
          (at) => at.isDirectory(),
          () => false,
        )
      : entry.isDirectory();
    if (isFolder) folders.push(entry.name);
    else if (overlayName.test(entry.name) && (await isPicture(path.join(folder, entry.name)))) overlays += 1;
    else if (imageExtensions.test(entry.name)) images.push(entry.name);
    else others += 1;
  }
  return { images: images.sort(byCodeUnit), others, overlays, folders: folders.sort(byCodeUnit) };
}

const isFolder = (folder: string): Promise<boolean> =>
  stat(folder).then(
    (at) => at.isDirectory(),
    () => false,
  );

/** Folders of products in a folder that is no dataset by itself: those that hold `inside`. */
export async function productFolders(root: string, inside: string): Promise<{ products: string[]; others: string[] }> {
  const { folders, images } = await listing(root);
  const firstFolder = inside.split('/')[0] as string;
  if (images.length > 0 || folders.includes(firstFolder)) return { products: [], others: [] };
  const holdsInside = await Promise.all(
    folders.map((folder) => isFolder(path.join(root, folder, ...inside.split('/')))),
  );
  if (folders.some((name, i) => holdsInside[i] && name === '__proto__')) {
    // JavaScript's objects, and with them JSON that is read into them, have something else of that name
    throw new DdadError('ERR_DATASET', `${root}: expected products of other names, got "__proto__"`);
  }
  return { products: folders.filter((_, i) => holdsInside[i]), others: folders.filter((_, i) => !holdsInside[i]) };
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

/** The good images in a folder or its `train/good`. */
async function goodImages(root: string): Promise<{ files: string[]; overlays: number }> {
  const folder = await goodFolder(root);
  const { images, others, overlays, folders } = await listing(folder);
  if (images.length === 0) {
    const shown = folders.length > 5 ? [...folders.slice(0, 5), '…'] : folders;
    const found = [
      others > 0 ? `${others} other files` : '',
      overlays > 0 ? `${overlays} overlays of ddad-native` : '',
      folders.length > 0 ? `${folders.length} folders (${shown.join(', ')})` : '',
    ].filter(Boolean);
    throw new DdadError(
      'ERR_DATASET',
      `${folder}: expected good images (PNG, JPEG, TIFF, WebP) in it or in its train/good, ` +
        `found ${found.join(' and ') || 'an empty folder'}`,
    );
  }
  return { files: images.map((name) => path.join(folder, name)), overlays };
}

/** The products of a dataset, and the folders beside them that are none. */
async function findProducts(
  dataset: string | readonly string[],
): Promise<{ products: ProductImages[]; others: string[]; overlays: number }> {
  if (typeof dataset !== 'string') {
    const list: unknown = dataset; // callers without types give anything
    const isPath = (file: unknown): boolean => typeof file === 'string';
    if (!Array.isArray(list) || !list.every(isPath)) {
      const got = kindOf(Array.isArray(list) ? list.find((file) => !isPath(file)) : list);
      throw new DdadError('ERR_ARGUMENT', `fit: expected a folder or a list of image files, got ${got}`);
    }
    if (dataset.length === 0) throw new DdadError('ERR_DATASET', 'expected a list of good images, got an empty one');
    return { products: [{ name: null, files: [...dataset].sort(byCodeUnit) }], others: [], overlays: 0 };
  }
  const { products: names, others } = await productFolders(dataset, 'train/good');
  if (names.length === 1) {
    const only = path.join(dataset, names[0] as string);
    throw new DdadError(
      'ERR_DATASET',
      `${dataset}: expected good images, or folders of at least two products; only ${only} has train/good: name that folder`,
    );
  }
  if (names.length === 0) {
    const { files, overlays } = await goodImages(dataset);
    return { products: [{ name: null, files }], others: [], overlays };
  }
  const products: ProductImages[] = [];
  let overlays = 0;
  for (const name of names) {
    const good = await goodImages(path.join(dataset, name));
    products.push({ name, files: good.files });
    overlays += good.overlays;
  }
  return { products, others, overlays };
}

/**
 * The good images of a dataset: `train/good` in the MVTec AD layout, else the images that lie in the folder itself, or
 * the files of a list. A folder that holds nothing but folders of at least two products, each with its `train/good`, is a
 * dataset of those. Hidden files and other kinds of files are left out. Throws ERR_DATASET when none is left.
 */
export async function findImages(dataset: string | readonly string[]): Promise<ImageSet> {
  const { products, others: leftOut, overlays } = await findProducts(dataset);
  const byName = typeof dataset === 'string';
  const fingerprint = await fingerprintOf(products, byName);
  const files = products.flatMap((product) => product.files);
  return { files, products, fingerprint, byName, leftOut, overlays };
}

/** A hash of names and sizes. Throws ERR_DATASET for what is no file. */
async function fingerprintOf(products: readonly ProductImages[], byName: boolean): Promise<string> {
  const hash = createHash('sha256');
  for (const { name, files } of products) {
    if (name !== null) hash.update(`${name}\0\0\n`);
    for (const file of files) {
      const at = await stat(file).catch((cause: NodeJS.ErrnoException) => {
        const why = cause.code === 'ENOENT' ? 'no such file' : messageOf(cause);
        throw new DdadError('ERR_DATASET', `${file}: ${why}`, { cause });
      });
      if (!at.isFile()) throw new DdadError('ERR_DATASET', `${file}: expected an image, got a ${kindOfFile(at)}`);
      hash.update(`${byName ? path.basename(file) : file}\0${at.size}\n`);
    }
  }
  return hash.digest('hex');
}

/** An image that cannot be read, and why. */
export interface UnreadableImage {
  file: string;
  reason: string;
}

/**
 * Decodes every image once, and takes those out that cannot be read: what is left is the dataset, also for its
 * fingerprint, so that a resumed run finds the same. Throws the error of the first where none of a product is left.
 */
export async function readableImages(
  images: ImageSet,
  signal?: AbortSignal,
): Promise<{ images: ImageSet; unreadable: UnreadableImage[] }> {
  const unreadable: UnreadableImage[] = [];
  const errors = new Map<string, DdadError>();
  const check = (file: string, inner: AbortSignal): Promise<DdadError | undefined> =>
    decodeImage(file, { channels: 3, signal: inner }).then(
      () => undefined,
      (error: unknown) => {
        if (error instanceof DdadError && error.code === 'ERR_IMAGE') return error;
        throw error;
      },
    );
  let at = 0;
  for await (const error of mapAhead(images.files, check, { ahead: 3, signal })) {
    const file = images.files[at++] as string;
    if (!error) continue;
    errors.set(file, error);
    unreadable.push({ file, reason: error.message.replace(`${file}: `, '') });
  }
  if (unreadable.length === 0) return { images, unreadable };
  const products = images.products.map(({ name, files }) => {
    const left = files.filter((file) => !errors.has(file));
    if (left.length === 0) throw errors.get(files[0] as string) as DdadError;
    return { name, files: left };
  });
  const left = { ...images, products, files: products.flatMap(({ files }) => files) };
  return { images: { ...left, fingerprint: await fingerprintOf(products, images.byName) }, unreadable };
}

/** Whether every image is gray by its format. Reads the headers, so it also finds files that are no images. */
export async function allGray(files: readonly string[], signal?: AbortSignal): Promise<boolean> {
  let gray = true;
  for await (const one of mapAhead(files, (file) => isGrayFile(file), { ahead: 7, signal })) gray &&= one;
  return gray;
}

/**
 * Splits images into those trained on and those held back for calibration: a share of them, at least one when there are
 * two, chosen by the seed and the label of their product. A single image does both.
 */
export function splitHeldBack<T>(
  images: readonly T[],
  share: number,
  seed: number,
  label = 0,
): { train: readonly T[]; heldBack: readonly T[] } {
  if (images.length < 2) return { train: images, heldBack: images };
  const count = Math.min(images.length - 1, Math.max(1, Math.round(images.length * share)));
  const chosen = new Set(permutation(images.length, random(seed, streams.split, label)).subarray(0, count));
  return { train: images.filter((_, i) => !chosen.has(i)), heldBack: images.filter((_, i) => chosen.has(i)) };
}

/**
 * Seeded batches of training samples. A batch is a pure function of (seed, step): every pass over the images has its
 * own order, every sample its own window, mirroring and rotation. Products take turns: of as many samples as there are
 * products, each has one, in an order of its own; a product with few images begins its next pass sooner.
 */
export class TrainingData {
  /** Those of all products, one after the other. */
  readonly #files: readonly string[];
  /** Where the images of a product begin in `#files`, and how many there are. */
  readonly #products: readonly { first: number; count: number }[];
  readonly #config: ModelConfig;
  readonly #cache = new Map<number, Pixels>();
  readonly #orders = new Map<number, Uint32Array>();
  #room: number;

  /**
   * Takes the images of each product. Decoded images are kept while they fit into `cacheBytes`; the others are decoded
   * whenever they are needed.
   */
  constructor(products: readonly (readonly string[])[], config: ModelConfig, cacheBytes = 512 * 2 ** 20) {
    this.#files = products.flat();
    let first = 0;
    this.#products = products.map(({ length: count }) => ({ first: (first += count) - count, count }));
    this.#config = config;
    this.#room = cacheBytes;
  }

  /** The products of the samples of a step. */
  labels(step: number): Int32Array {
    const { batchSize } = this.#config.training;
    return Int32Array.from({ length: batchSize }, (_, i) => this.#productAt(step * batchSize + i));
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

  /** Which product the n-th sample of the run shows. */
  #productAt(n: number): number {
    const count = this.#products.length;
    const next = random(this.#config.training.seed, streams.product, Math.floor(n / count));
    return permutation(count, next)[n % count] as number;
  }

  /** Which image the n-th sample of the run shows. */
  #at(n: number): number {
    const product = this.#productAt(n);
    const { first, count } = this.#products[product] as { first: number; count: number };
    const turn = Math.floor(n / this.#products.length); // of every product, since each has one sample in a turn
    const key = Math.floor(turn / count) * this.#products.length + product;
    let order = this.#orders.get(key);
    if (!order) {
      order = permutation(count, random(this.#config.training.seed, streams.order, key));
      const before = key - this.#products.length;
      for (const old of this.#orders.keys()) {
        if (old < before && (key - old) % this.#products.length === 0) this.#orders.delete(old);
      }
      this.#orders.set(key, order);
    }
    return first + (order[turn % count] as number);
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
    const window = { left, top, size, flipX, flipY };
    const { rotation = 0 } = training;
    if (rotation === 0) cropInto(out, pixels, window);
    else turnInto(out, pixels, window, rotation * (2 * next() - 1));
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
