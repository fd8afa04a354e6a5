import { setImmediate } from 'node:timers/promises';
import { DdadError, throwIfAborted } from '../base/errors.js';
import { inSlices } from '../base/slices.js';
import { isNotFinite, keyOfBits, valueOfKey } from './keys.js';
import { regionAreas } from './regions.js';
import { RunMerge, RunWriter, type SortSpace } from './runs.js';
import { Spool } from './spool.js';
import { type Figures, Sweep } from '../numeric/threshold-sweep.js';

/** Memory that pixels may take, whatever the number of images. */
export const defaultMemoryBytes = 64 * 2 ** 20;

/** The owner of the pixels of good images; each defect has a number of its own from 1 on. */
export const goodOwner = 0;

export interface PixelImage {
  /** What it is called in messages. */
  image: string;
  map: Float32Array;
  width: number;
  height: number;
  /** Non-zero where the defect is; null for a good image. */
  mask: Uint8Array | null;
}

interface Totals {
  images: number;
  positives: number;
  negatives: number;
  regions: number;
}

export interface PixelOptions {
  /** Bytes to keep in memory; the rest goes to a temporary file. */
  memoryBytes?: number | undefined;
  /** Folder for that file; the system's by default. */
  temporaryFolder?: string | undefined;
}

/** Share of the work that is done, 0 to 1. */
export type OnShare = (done: number) => void;

/**
 * Pixel-level figures of all images together and of each defect, exact, in bounded memory. Pixels are sorted in runs
 * that go to a temporary file; a single pass over the merged runs, from the highest value down, draws every curve. Both
 * await each call before the next one; end it with `finish` or `abort`.
 */
export class PixelFigures {
  readonly #totals: Totals[] = [];
  readonly #memoryBytes: number;
  readonly #folder: string | undefined;
  readonly #negatives: RunWriter;
  readonly #positives: RunWriter;
  #space: SortSpace | undefined;
  #spool: Spool | null = null;

  constructor(options: PixelOptions = {}) {
    this.#memoryBytes = options.memoryBytes ?? defaultMemoryBytes;
    this.#folder = options.temporaryFolder;
    // Two buffers to fill and two arrays to sort in take half; reading takes the other half, when those are gone.
    const words = 2 * Math.max(64, Math.floor(this.#memoryBytes / 8 / 4 / 2));
    this.#space = { a: new Uint32Array(words), b: new Uint32Array(words) };
    this.#negatives = new RunWriter(1, words, this.#space);
    this.#positives = new RunWriter(2, words, this.#space);
  }

  /** Images of an owner so far. */
  images(owner: number): number {
    return this.#totals[owner]?.images ?? 0;
  }

  /** Throws ERR_ARGUMENT for sizes that differ, ERR_NUMERIC for values that are not finite, ERR_FILE_WRITE. */
  async add(image: PixelImage, owner: number): Promise<{ regions: number }> {
    const { map, mask, width, height } = image;
    for (const [what, length] of [['map', map.length] as const, ['mask', mask?.length ?? map.length] as const]) {
      if (length !== width * height) {
        const sizes = `expected ${width * height} values of its ${what} (${width} x ${height}), got ${length}`;
        throw new DdadError('ERR_ARGUMENT', `${image.image}: ${sizes}`);
      }
    }
    const found = mask ? regionAreas(mask, width, height) : { count: 0, pixels: 0, areas: null };
    while (this.#totals.length <= owner) this.#totals.push({ images: 0, positives: 0, negatives: 0, regions: 0 });
    const totals = this.#totals[owner] as Totals;
    const bits = new Uint32Array(map.buffer, map.byteOffset, map.length);
    for (let from = 0; from < bits.length;) {
      const free = Math.min(this.#negatives.free, this.#positives.free);
      if (free === 0) {
        await this.#flush();
        continue;
      }
      const to = Math.min(bits.length, from + free);
      const start = from;
      await inSlices(to - start, (a, b) => this.#collect(image, bits, found.areas, start + a, start + b));
      this.#negatives.mark(owner);
      this.#positives.mark(owner);
      from = to;
    }
    totals.images += 1;
    totals.positives += found.pixels;
    totals.negatives += bits.length - found.pixels;
    totals.regions += found.count;
    return { regions: found.count };
  }

  #collect({ image, width, map }: PixelImage, bits: Uint32Array, areas: Uint32Array | null, from: number, to: number) {
    const [negatives, positives] = [this.#negatives.words, this.#positives.words];
    let [negative, positive] = [this.#negatives.used, this.#positives.used];
    for (let i = from; i < to; i++) {
      const word = bits[i] as number;
      if (isNotFinite(word)) {
        const place = `(${i % width}, ${Math.floor(i / width)})`;
        throw new DdadError('ERR_NUMERIC', `${image}: expected finite map values, got ${map[i]} at ${place}`);
      }
      const area = areas === null ? 0 : (areas[i] as number);
      if (area === 0) {
        negatives[negative++] = keyOfBits(word);
      } else {
        positives[positive++] = keyOfBits(word);
        positives[positive++] = area;
      }
    }
    this.#negatives.used = negative;
    this.#positives.used = positive;
  }

  async #flush(): Promise<void> {
    this.#spool ??= await Spool.create(this.#folder);
    await this.#negatives.flush(this.#spool);
    await this.#positives.flush(this.#spool);
  }

  /** The figures: of all images together first, then of each owner with the good images. */
  async finish(options: { signal?: AbortSignal | undefined; onShare?: OnShare | undefined } = {}): Promise<Figures[]> {
    try {
      await this.#negatives.flush(null);
      await this.#positives.flush(null);
      this.#space = undefined;
      const bytes = this.#memoryBytes / 4;
      const negatives = await RunMerge.open(this.#negatives.runs, this.#spool, bytes);
      const positives = await RunMerge.open(this.#positives.runs, this.#spool, bytes);
      return await sweepPixels(negatives, positives, this.#totals, options);
    } finally {
      await this.abort();
    }
  }

  /** Removes the temporary file. */
  async abort(): Promise<void> {
    const spool = this.#spool;
    this.#spool = null;
    await spool?.close();
  }
}

function sumOf(totals: readonly Totals[]): Totals {
  const sum = { images: 0, positives: 0, negatives: 0, regions: 0 };
  for (const key of ['images', 'positives', 'negatives', 'regions'] as const) {
    for (const owner of totals) sum[key] += owner[key];
  }
  return sum;
}

/** Passes all keys below `limit`, counting them for their owners. False when a run has to be refilled to go on. */
function pass(negatives: RunMerge, limit: number, counts: Float64Array): boolean {
  for (let run = negatives.first; run && run.head < limit; run = negatives.first) {
    const { words, end } = run;
    let at = run.at;
    while (at < end && (words[at] as number) < limit) at += 1;
    counts[run.owner] = (counts[run.owner] as number) + at - run.at;
    run.at = at;
    if (!negatives.settle()) return false;
  }
  return true;
}

/** Positives at one threshold, by owner. */
interface Tie {
  pixels: Float64Array;
  overlap: Float64Array;
}

/** Takes all positives with this key. False when a run has to be refilled to go on. */
function take(positives: RunMerge, key: number, { pixels, overlap }: Tie): boolean {
  for (let run = positives.first; run?.head === key; run = positives.first) {
    const { words, end, owner } = run;
    let at = run.at;
    while (at < end && words[at] === key) {
      pixels[owner] = (pixels[owner] as number) + 1;
      overlap[owner] = (overlap[owner] as number) + 1 / (words[at + 1] as number);
      at += 2;
    }
    run.at = at;
    if (!positives.settle()) return false;
  }
  return true;
}

async function sweepPixels(
  negatives: RunMerge,
  positives: RunMerge,
  totals: readonly Totals[],
  { signal, onShare }: { signal?: AbortSignal | undefined; onShare?: OnShare | undefined },
): Promise<Figures[]> {
  const owners = totals.length;
  const all = sumOf(totals);
  const withGood = totals.map((own, owner) => (owner === goodOwner ? own : sumOf([totals[goodOwner] as Totals, own])));
  const sweepAll = new Sweep(all, true);
  const sweeps = withGood.map((own) => new Sweep(own, false));
  const above = new Float64Array(owners);
  const atOrAbove = new Float64Array(owners);
  const tie = { pixels: new Float64Array(owners), overlap: new Float64Array(owners) };
  let truePositives = 0;
  let rested = performance.now();
  for (let step = 1; positives.first; step++) {
    const key = positives.first.head;
    while (!pass(negatives, key, atOrAbove)) await negatives.refill();
    above.set(atOrAbove);
    while (!pass(negatives, key + 1, atOrAbove)) await negatives.refill();
    while (!take(positives, key, tie)) await positives.refill();

    const value = valueOfKey(key);
    let [pixels, overlap, aboveAll, atOrAboveAll] = [0, 0, 0, 0];
    for (let owner = 0; owner < owners; owner++) {
      aboveAll += above[owner] as number;
      atOrAboveAll += atOrAbove[owner] as number;
      const count = tie.pixels[owner] as number;
      if (count === 0) continue;
      pixels += count;
      overlap += tie.overlap[owner] as number;
      const good = owner === goodOwner ? 0 : 1;
      sweeps[owner]?.step(
        value,
        good * (above[goodOwner] as number) + (above[owner] as number),
        good * (atOrAbove[goodOwner] as number) + (atOrAbove[owner] as number),
        count,
        tie.overlap[owner] as number,
      );
    }
    sweepAll.step(value, aboveAll, atOrAboveAll, pixels, overlap);
    tie.pixels.fill(0);
    tie.overlap.fill(0);
    truePositives += pixels;
    if (step % 1024 !== 0) continue;
    throwIfAborted(signal);
    if (performance.now() - rested > 10) {
      onShare?.(truePositives / all.positives);
      await setImmediate(); // others have a turn too
      rested = performance.now();
    }
  }
  return [sweepAll, ...sweeps].map((sweep) => sweep.figures());
}
