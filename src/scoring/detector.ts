import { availableParallelism } from 'node:os';
import { types } from 'node:util';
import { z } from 'zod';
import { type Claim, MemoryBudget } from '../image/memory-budget.js';
import { parseStoredConfig, type StoredConfig } from '../config/config.js';
import { memoryUsageOf, toEngineJson } from '../config/engine-json.js';
import {
  type DeviceOptions,
  deviceOptions,
  parseOptions,
  type ScoringOptions,
  scoringOptions,
} from '../config/options.js';
import { atCaller, callSite, DdadError, kindOf, modelError, optionError, throwIfAborted } from '../base/errors.js';
import { type HeldImage, holdImage } from '../image/held-image.js';
import { type ImageInput, imageName } from '../image/decode.js';
import type { FileState } from '../image/image-file.js';
import { memoryLimit } from '../image/memory-limit.js';
import { addon, callNative, type NativeDetector, type NativeImage, type NativeOrigin } from '../engine/native.js';
import { originWarnings, originOf } from '../engine/origin.js';
import { fitPadim, type FitPadimOptions, fitPadimOptions } from './padim.js';
import { checkProducts, productOf } from '../model/products.js';
import { mapAhead } from '../base/read-ahead.js';
import {
  checkWhole,
  reconstructImages,
  type Reconstruction,
  type ReconstructOptions,
  reconstructOptions,
  sampleImages,
  type SampleOptions,
  sampleOptions,
} from './reconstruct.js';
import { prepareImage } from './score-image.js';
import { type DetectorStats, ScoreQueue } from './queue.js';
import { ScoreResult, scoresOf } from './result.js';
import { scoredAs } from '../model/scored-as.js';
import { droppedSignature, keyOption, type SigningKey, trustedContent, unsignedNow } from '../model/signature.js';

// Older runtimes lack the well-known symbols; the names are what later ones use.
const wellKnown = Symbol as { dispose?: symbol; asyncDispose?: symbol };
wellKnown.dispose ??= Symbol('Symbol.dispose');
wellKnown.asyncDispose ??= Symbol('Symbol.asyncDispose');

const threshold = z.number().nullable().optional();
const limitInputPixels = z.number().int().min(1).optional();
const signal = z.instanceof(AbortSignal).optional();
const queueOptions = z.strictObject({
  maxBatch: z.number().int().min(1).max(1024).optional(),
  maxDelayMs: z.number().min(0).max(60_000).optional(),
  maxQueue: z.number().int().min(1).optional(),
  whenFull: z.enum(['reject', 'wait']).optional(),
  memoryBudget: z
    .number()
    .int()
    .min(2 ** 20)
    .optional(),
});
const loadOptions = deviceOptions
  .extend({ threshold, limitInputPixels, signal, scoring: scoringOptions.optional(), trustedKey: keyOption.optional() })
  .extend(queueOptions.shape);
const product = z.string().optional();
const transfer = z.boolean().optional();
const scoreOptions = z.strictObject({ threshold, limitInputPixels, signal, product, transfer });

export interface LoadOptions extends DeviceOptions {
  /** Used instead of the model's own threshold. */
  threshold?: number | null | undefined;
  /** Images with more pixels are refused before they are decoded; 100 megapixels by default. */
  limitInputPixels?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Another way to score than that which the model was calibrated for; its threshold does not hold then. */
  scoring?: ScoringOptions | undefined;
  /** Public Ed25519 key, in PEM or a KeyObject: a model that its private half has not signed is refused. */
  trustedKey?: SigningKey | undefined;
  /** Images that the engine takes at once: 8, or as many as there are threads. Costs memory for as many. */
  maxBatch?: number | undefined;
  /** How long a batch that is not full waits for more calls; 0 by default. */
  maxDelayMs?: number | undefined;
  /** Calls that may wait for their turn; 1024 by default. */
  maxQueue?: number | undefined;
  /** What becomes of more: they fail with ERR_BUSY (`reject`, the default) or wait for room (`wait`). */
  whenFull?: 'reject' | 'wait' | undefined;
  /**
   * Bytes that images may take, beside the model: copies, files that are read, decoding, pixels, maps until they are
   * given back, overlays while they are drawn. What does not fit waits; an image that takes more than three quarters of it
   * fails with ERR_MEMORY before it is decoded; the last quarter is for copies that wait. By default half of the memory
   * that the machine has, or the control groups of the process allow.
   */
  memoryBudget?: number | undefined;
}

export interface ScoreOptions extends Pick<LoadOptions, 'threshold' | 'limitInputPixels' | 'signal'> {
  /** What the image shows; a unified model needs it, one of a single product takes none. */
  product?: string | undefined;
  /**
   * Takes the memory of an image that is given as bytes or pixels over instead of copying it: the caller's views of it
   * become empty. They must be of a whole ArrayBuffer. Paths have none, so nothing becomes of them.
   */
  transfer?: boolean | undefined;
}

/**
 * A trained model, ready to score images.
 *
 *     const detector = await Detector.load('screw.safetensors');
 *     const { score, anomalous, map } = await detector.score('part.png');
 *
 * Hold it with `using`, or call `dispose()` when done; later calls fail with ERR_DISPOSED.
 */
export class Detector {
  readonly #native: NativeDetector;
  #config: StoredConfig;
  /** As the model's file has it, without another way to score. */
  #stored: StoredConfig;
  /** Whether it scores in another way than its file says. */
  readonly #rescored: boolean;
  readonly #options: Pick<LoadOptions, 'threshold' | 'limitInputPixels'>;
  readonly #budget: MemoryBudget;
  readonly #queue: ScoreQueue;
  readonly #threads: number;
  readonly #maxQueue: number;
  readonly #warnings: string[];
  readonly #signed: boolean;
  #disposed = false;

  private constructor(
    native: NativeDetector,
    origin: NativeOrigin,
    warnings: string[],
    stored: StoredConfig,
    config: StoredConfig,
    options: LoadOptions,
  ) {
    const { threads = 0, maxDelayMs = 0, maxQueue = 1024, whenFull = 'reject' } = options;
    this.#native = native;
    this.#signed = origin.signature !== null;
    this.#warnings = warnings;
    this.#config = config;
    this.#stored = stored;
    this.#rescored = config !== stored;
    this.#options = options;
    this.#threads = threads || availableParallelism();
    this.#maxQueue = maxQueue;
    const maxBatch = options.maxBatch ?? Math.max(8, this.#threads);
    this.#budget = new MemoryBudget(options.memoryBudget ?? Math.floor(memoryLimit() / 2));
    this.#queue = new ScoreQueue(native, { maxBatch, maxDelayMs, maxQueue, whenFull }, this.#budget);
  }

  /**
   * Loads a model file, and compares it with the digest that it was written with. Throws ERR_FILE_READ,
   * ERR_MODEL_FORMAT, ERR_SIGNATURE, ERR_DEVICE, ERR_OPTION, ERR_ABORTED.
   */
  static load(path: string, options: LoadOptions = {}): Promise<Detector> {
    return atCaller(async () => {
      if (typeof path !== 'string')
        throw new DdadError('ERR_ARGUMENT', `load: expected a model's path, got ${kindOf(path)}`);
      const {
        device = 'auto',
        threads = 0,
        precision = 'float32',
        scoring = {},
        trustedKey,
        ...given
      } = parseOptions(loadOptions, options);
      const content = trustedKey === undefined ? '' : await trustedContent(path, trustedKey);
      const engine = JSON.stringify({ device, threads, precision, content });
      const native = await callNative(given.signal, (token) => addon().loadDetector(path, engine, token)).catch(
        (error: unknown) => {
          throw modelError(error, path);
        },
      );
      try {
        const stored = parseStoredConfig(native.config(), path);
        checkProducts(stored, path);
        const config = scoredAs(stored, scoring);
        if (config !== stored) {
          await callNative(given.signal, () => native.setConfig(toEngineJson(config))).catch((error: unknown) => {
            throw optionError(error);
          });
        }
        const origin = originOf(native, trustedKey !== undefined);
        const warnings = originWarnings(path, origin, threads);
        return new Detector(native, origin, warnings, stored, config, { ...given, threads });
      } catch (error) {
        native.dispose();
        throw error;
      }
    });
  }

  /** The model's configuration; do not change it. */
  get config(): StoredConfig {
    return this.#config;
  }

  /** The products of a unified model, null where the model is of a single one. */
  get products(): readonly string[] | null {
    return this.#config.products ?? null;
  }

  /**
   * Scores above it are anomalous: the one given to `load`, else the model's; null when neither has one. A unified model
   * has one for each product instead, see {@link thresholdOf}.
   */
  get threshold(): number | null {
    return this.#options.threshold !== undefined ? this.#options.threshold : this.#config.threshold;
  }

  /** The threshold of a product: the one given to `load`, else the model's. Throws ERR_OPTION for an unknown one. */
  thresholdOf(product?: string): number | null {
    const modelThreshold = productOf(this.#config, product).threshold;
    return this.#options.threshold !== undefined ? this.#options.threshold : modelThreshold;
  }

  /** Bytes that the engine holds for this model, by purpose. */
  get memoryUsage(): Record<string, number> {
    this.#checkAlive();
    return memoryUsageOf(this.#native.memory());
  }

  /** What was found doubtful when the model was loaded or saved, in sentences. */
  get warnings(): readonly string[] {
    return this.#warnings;
  }

  /** How much waits, what was done, in which batches, and how long it took. */
  stats(): DetectorStats {
    return this.#queue.stats();
  }

  /**
   * Scores an image: a path, an encoded image, or pixels. May be called many times at once: calls wait in a queue, are
   * scored in batches and settle in the order in which they were made. Bytes and pixels are copied before this returns, so
   * that their memory can be filled again at once; that is the one thing that holds JavaScript's thread for longer than a
   * millisecond where an image is large (some 7 ms for 10 MB on a virtual machine of two processors, nearly all of it for
   * fresh pages: bench/ours/copies.mjs), and `transfer` spares it. A copy that has no room in the memory budget is refused with
   * ERR_BUSY, whatever `whenFull` says. Throws ERR_IMAGE,
   * ERR_BUSY, ERR_MEMORY, ERR_ARGUMENT, ERR_ABORTED, ERR_DISPOSED.
   */
  score(image: ImageInput, options: ScoreOptions = {}): Promise<ScoreResult> {
    return atCaller(() => this.#score(image, parseOptions(scoreOptions, options)));
  }

  /**
   * Images that {@link scoreAll} works ahead, so that every thread has one: twice the threads and at least four, but no
   * more than have room in the queue.
   */
  get readAhead(): number {
    return Math.min(Math.max(4, 2 * this.#threads), this.#maxQueue - 1);
  }

  /**
   * Scores the images of an iterable and yields the results in order; works ahead by `readAhead` images, so that decoding
   * and computing overlap and every thread has one. Copies bytes and pixels when it takes
   * an image from the iterable, as `score` does; takes the next one when there is room for one more of that size. The
   * first image that fails ends it with that error.
   */
  async *scoreAll(
    images: Iterable<ImageInput> | AsyncIterable<ImageInput>,
    options: ScoreOptions = {},
  ): AsyncGenerator<ScoreResult, void, undefined> {
    const relocate = callSite();
    try {
      const { signal: outer, ...given } = parseOptions(scoreOptions, options);
      checkList(images);
      let copied = 0;
      const onCopy = (bytes: number): void => {
        copied = Math.max(copied, bytes);
      };
      const one = (image: ImageInput, inner: AbortSignal) => this.#score(image, { ...given, signal: inner }, onCopy);
      const ready = (inner: AbortSignal) => this.#budget.room(copied, inner);
      yield* mapAhead(images, one, { ahead: this.readAhead, signal: outer, ready });
    } catch (error) {
      throw relocate(error);
    }
  }

  /**
   * Takes an image back to what the model knows of good ones: a defect goes, the texture stays. The image goes through
   * the network whole: one beyond twice the size of a tile is refused. Other calls have their turn between two steps. The
   * image is copied as `score` does. Throws ERR_IMAGE, ERR_OPTION, ERR_BUSY, ERR_MEMORY, ERR_ARGUMENT, ERR_NUMERIC,
   * ERR_ABORTED, ERR_DISPOSED.
   */
  reconstruct(image: ImageInput, options: ReconstructOptions = {}): Promise<Reconstruction> {
    return atCaller(async () => {
      const [found] = await this.#reconstruct([image], parseOptions(reconstructOptions, options));
      return found as Reconstruction;
    });
  }

  /**
   * The same for several images (at most 64), which go through the network together: they must have one size, or the
   * model bring them to one. Each gets what it gets alone, but for rounding.
   */
  reconstructAll(images: readonly ImageInput[], options: ReconstructOptions = {}): Promise<Reconstruction[]> {
    return atCaller(() => {
      if (!Array.isArray(images) || images.length < 1 || images.length > 64) {
        const got = Array.isArray(images) ? `${images.length} of them` : kindOf(images);
        throw new DdadError('ERR_ARGUMENT', `reconstructAll: expected an array of 1 to 64 images, got ${got}`);
      }
      return this.#reconstruct(images as readonly ImageInput[], parseOptions(reconstructOptions, options));
    });
  }

  /** Makes images of nothing but noise, such as the model takes for good. Throws as {@link reconstruct} does. */
  sample(options: SampleOptions = {}): Promise<Reconstruction[]> {
    return atCaller(() => {
      this.#checkAlive();
      const checked = parseOptions(sampleOptions, options);
      return sampleImages(this.#native, this.#config, productOf(this.#config, checked.product).label, checked);
    });
  }

  /** Fits the Gaussian of good features, which `reconstruct` and the score `padim` need; see {@link FitPadimOptions}. */
  fitPadim(dataset: string, options: FitPadimOptions = {}): Promise<void> {
    return atCaller(async () => {
      this.#checkAlive();
      if (typeof dataset !== 'string')
        throw new DdadError('ERR_ARGUMENT', `fitPadim: expected a folder, got ${kindOf(dataset)}`);
      this.#config = await fitPadim(this.#native, this.#config, dataset, parseOptions(fitPadimOptions, options));
      this.#stored = { ...this.#stored, padim: this.#config.padim };
    });
  }

  /**
   * Writes the model as it was loaded, with the threshold that was given then, what was fitted since and a digest of its
   * own. A threshold given for another way to score is left out, since the file scores in its own. A signature is dropped,
   * with one of the {@link warnings}. Throws ERR_FILE_WRITE, ERR_DISPOSED.
   */
  save(path: string): Promise<void> {
    return atCaller(async () => {
      this.#checkAlive();
      if (typeof path !== 'string')
        throw new DdadError('ERR_ARGUMENT', `save: expected a model's path, got ${kindOf(path)}`);
      const dropped = this.#signed ? unsignedNow(path) : await droppedSignature(path);
      await callNative(undefined, (token) =>
        this.#native.save(path, toEngineJson(this.#withThreshold(this.#stored)), token),
      );
      if (dropped !== undefined) this.#warnings.push(dropped);
    });
  }

  /** Frees the model. Work in flight fails with ERR_DISPOSED. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#queue.close(new DdadError('ERR_DISPOSED', 'the detector has been disposed'));
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Frees the model and waits until work in flight has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await this.#queue.idle();
  }

  /** The configuration with the threshold that was given to `load`. */
  #withThreshold(stored: StoredConfig): StoredConfig {
    const { threshold } = this.#options;
    if (threshold === undefined || this.#rescored) return stored;
    const perProduct =
      stored.perProduct &&
      Object.fromEntries(Object.entries(stored.perProduct).map(([name, own]) => [name, { ...own, threshold }]));
    return perProduct ? { ...stored, perProduct } : { ...stored, threshold };
  }

  #checkAlive(): void {
    if (this.#disposed) throw new DdadError('ERR_DISPOSED', 'the detector has been disposed');
  }

  async #reconstruct(images: readonly ImageInput[], options: ReconstructOptions): Promise<Reconstruction[]> {
    this.#checkAlive();
    throwIfAborted(options.signal);
    const { label } = productOf(this.#config, options.product);
    const { transfer, signal, limitInputPixels = this.#options.limitInputPixels } = options;
    const claims: Claim[] = [];
    try {
      const held = images.map((image): HeldImage => {
        const claim = this.#budget.open(imageName(image));
        claims.push(claim);
        return holdImage(image, { transfer, limitInputPixels, claim });
      });
      const prepared: NativeImage[] = [];
      const onSize = (width: number, height: number): void => checkWhole(this.#config, width, height);
      for (const [i, image] of held.entries()) {
        const claim = claims[i] as Claim;
        const preparation = { limitInputPixels, signal, label, claim, onSize, noMaps: true };
        prepared.push(await prepareImage(this.#config, image, preparation));
        held[i] = ''; // nobody needs its copy any more
        claim.release(); // what is left is small, and goes to the engine
      }
      return await reconstructImages(this.#native, this.#config, prepared, options);
    } finally {
      for (const claim of claims) claim.release();
    }
  }

  async #score(
    image: ImageInput,
    options: ScoreOptions,
    onCopy: (bytes: number) => void = () => undefined,
  ): Promise<ScoreResult> {
    this.#checkAlive();
    const product = productOf(this.#config, options.product);
    const { label } = product;
    const { transfer, limitInputPixels = this.#options.limitInputPixels } = options;
    let held: HeldImage = '';
    let file: FileState | undefined;
    const onFile = (state: FileState): void => void (file = state);
    const found = await this.#queue.add(
      {
        name: imageName(image),
        take: (claim) => {
          held = holdImage(image, { transfer, limitInputPixels, claim });
          onCopy(claim.held);
        },
        prepare: (signal, claim) =>
          prepareImage(this.#config, held, { limitInputPixels, signal, label, claim, onFile }),
      },
      options.signal,
    );
    const threshold = options.threshold !== undefined ? options.threshold : this.thresholdOf(options.product);
    const drawing = { held, file, product, budget: this.#budget, limitInputPixels };
    return new ScoreResult(image, found, { threshold, scores: scoresOf(this.#config, product, found) }, drawing);
  }
}

/** A path or an encoded image can be iterated too, but nobody means its letters or bytes. */
function checkList(images: unknown): void {
  const iterable = typeof images === 'object' && images !== null;
  if (iterable && !types.isUint8Array(images) && (Symbol.iterator in images || Symbol.asyncIterator in images)) return;
  throw new DdadError('ERR_ARGUMENT', `scoreAll: expected an iterable of images, got ${kindOf(images)}`);
}
