import { z } from 'zod';
import { parseStoredConfig, pixelSize, type StoredConfig } from './config.js';
import { type DeviceOptions, deviceOptions, parseOptions, type ScoringOptions, scoringOptions } from './options.js';
import { atCaller, callSite, DdadError, kindOf, modelError, optionError } from './errors.js';
import { colourRange, type HeatmapOptions, renderHeatmap, type ScoreMap } from './heatmap.js';
import { decodeImage, type ImageInput, resizePixels } from './image.js';
import { addon, callNative, type NativeDetector, type NativeScore } from './native.js';
import { ProductQueue } from './product-queue.js';
import { checkProducts, configFor, type ProductConfig, productOf } from './products.js';
import { mapAhead } from './read-ahead.js';
import { scoredAs } from './scoring.js';

// Older runtimes lack the well-known symbols; the names are what later ones use.
const wellKnown = Symbol as { dispose?: symbol; asyncDispose?: symbol };
wellKnown.dispose ??= Symbol('Symbol.dispose');
wellKnown.asyncDispose ??= Symbol('Symbol.asyncDispose');

const threshold = z.number().nullable().optional();
const limitInputPixels = z.number().int().min(1).optional();
const signal = z.instanceof(AbortSignal).optional();
const loadOptions = deviceOptions.extend({ threshold, limitInputPixels, signal, scoring: scoringOptions.optional() });
const product = z.string().optional();
const scoreOptions = z.strictObject({ threshold, limitInputPixels, signal, product });
const heatmapOptions = z.strictObject({
  opacity: z.number().min(0).max(1).optional(),
  range: z.tuple([z.number(), z.number()]).optional(),
  limitInputPixels,
  signal,
});

export interface LoadOptions extends DeviceOptions {
  /** Used instead of the model's own threshold. */
  threshold?: number | null | undefined;
  /** Images with more pixels are refused before they are decoded; 100 megapixels by default. */
  limitInputPixels?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Another way to score than that which the model was calibrated for; its threshold does not hold then. */
  scoring?: ScoringOptions | undefined;
}

export interface ScoreOptions extends Omit<LoadOptions, keyof DeviceOptions | 'scoring'> {
  /** What the image shows; a unified model needs it, one of a single product takes none. */
  product?: string | undefined;
}

/** The verdict on an image. */
export interface ScoreResult {
  /** The image as it was given. */
  image: ImageInput;
  /** How far the image is from good ones; compares across images of one model. */
  score: number;
  threshold: number | null;
  /** Whether the score is above the threshold; null when there is none. */
  anomalous: boolean | null;
  /** Where the image differs from good ones, at the image's own size. */
  map: ScoreMap;
  /** The pixel-level score alone (9), normalised. */
  pixelMap: ScoreMap;
  /** The feature-level score alone (10), normalised; null where the model has none. */
  featureMap: ScoreMap | null;
  /** An overlay as a PNG. Reads the image again, which must still be there, unchanged. */
  heatmap(options?: HeatmapOptions): Promise<Buffer>;
}

interface ScoreImageOptions extends Pick<ScoreOptions, 'limitInputPixels' | 'signal'> {
  networkSize?: boolean;
  /** Whether the result carries the residuals of its features. */
  residuals?: boolean;
  /** Of the image's product in a unified model. */
  label?: number | undefined;
  /** Runs the part that needs the detector's configuration. */
  turn?: (<T>(compute: () => Promise<T>) => Promise<T>) | undefined;
}

/**
 * Decodes and scores an image as the configuration says; the maps have the image's own size, or with `networkSize` that
 * at which the model sees it.
 */
export async function scoreImage(
  native: NativeDetector,
  config: Pick<StoredConfig, 'input' | 'features'>,
  image: ImageInput,
  options: ScoreImageOptions,
): Promise<NativeScore> {
  const { input } = config;
  const { label, residuals, signal, limitInputPixels, turn = (compute) => compute() } = options;
  const pixels = await decodeImage(image, { channels: input.channels, limitInputPixels, signal });
  const seen = input.mode === 'resize' ? await resizePixels(pixels, pixelSize(config)) : pixels;
  const own = options.networkSize ? {} : { outWidth: pixels.width, outHeight: pixels.height };
  const wanted = { ...(label === undefined ? {} : { label }), ...(residuals ? { residuals } : {}) };
  return turn(() => callNative(signal, (token) => native.score({ ...seen, ...own, ...wanted }, token)));
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
  readonly #config: StoredConfig;
  readonly #options: Pick<LoadOptions, 'threshold' | 'limitInputPixels'>;
  /** Keeps calls of different products apart: the engine knows one calibration at a time. */
  readonly #queue = new ProductQueue((name: string) => this.#activate(name));
  readonly #running = new Set<AbortController>();
  readonly #work = new Set<Promise<unknown>>();
  #disposed = false;

  private constructor(native: NativeDetector, config: StoredConfig, options: LoadOptions) {
    this.#native = native;
    this.#config = config;
    this.#options = options;
  }

  /** Loads a model file. Throws ERR_FILE_READ, ERR_MODEL_FORMAT, ERR_DEVICE, ERR_OPTION, ERR_ABORTED. */
  static load(path: string, options: LoadOptions = {}): Promise<Detector> {
    return atCaller(async () => {
      if (typeof path !== 'string')
        throw new DdadError('ERR_ARGUMENT', `load: expected a model's path, got ${kindOf(path)}`);
      const { device = 'auto', threads = 0, scoring = {}, ...given } = parseOptions(loadOptions, options);
      const engine = JSON.stringify({ device, threads });
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
          await callNative(given.signal, () => native.setConfig(JSON.stringify(config))).catch((error: unknown) => {
            throw optionError(error);
          });
        }
        return new Detector(native, config, given);
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
    const own = productOf(this.#config, product).threshold;
    return this.#options.threshold !== undefined ? this.#options.threshold : own;
  }

  /** Bytes that the engine holds for this model, by purpose. */
  get memory(): Record<string, number> {
    this.#checkAlive();
    return JSON.parse(this.#native.memory()) as Record<string, number>;
  }

  /** Scores an image: a path, an encoded image, or pixels. Throws ERR_IMAGE, ERR_ABORTED, ERR_DISPOSED. */
  score(image: ImageInput, options: ScoreOptions = {}): Promise<ScoreResult> {
    return atCaller(() => this.#score(image, parseOptions(scoreOptions, options)));
  }

  /**
   * Scores the images of an iterable and yields the results in order; decodes up to two images ahead, so that decoding
   * and computing overlap. The first image that fails ends it with that error.
   */
  async *scoreAll(
    images: Iterable<ImageInput> | AsyncIterable<ImageInput>,
    options: ScoreOptions = {},
  ): AsyncGenerator<ScoreResult, void, undefined> {
    const relocate = callSite();
    try {
      const { signal: outer, ...given } = parseOptions(scoreOptions, options);
      checkList(images);
      const one = (image: ImageInput, inner: AbortSignal) => this.#score(image, { ...given, signal: inner });
      yield* mapAhead(images, one, { ahead: 2, signal: outer });
    } catch (error) {
      throw relocate(error);
    }
  }

  /** Frees the model. Work in flight fails with ERR_DISPOSED. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const controller of this.#running) controller.abort();
    this.#native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Frees the model and waits until work in flight has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
    await Promise.allSettled(this.#work);
  }

  async #activate(name: string): Promise<void> {
    const config = JSON.stringify(configFor(this.#config, productOf(this.#config, name)));
    await callNative(undefined, () => this.#native.setConfig(config));
  }

  #checkAlive(): void {
    if (this.#disposed) throw new DdadError('ERR_DISPOSED', 'the detector has been disposed');
  }

  async #score(image: ImageInput, options: ScoreOptions): Promise<ScoreResult> {
    this.#checkAlive();
    const product = productOf(this.#config, options.product);
    const { name, label } = product;
    const controller = new AbortController();
    const abort = (): void => controller.abort(options.signal?.reason);
    if (options.signal?.aborted) abort();
    options.signal?.addEventListener('abort', abort, { once: true });
    this.#running.add(controller);
    const limitInputPixels = options.limitInputPixels ?? this.#options.limitInputPixels;
    const { signal } = controller;
    const turn = name === null ? undefined : <T>(compute: () => Promise<T>) => this.#queue.run(name, compute, signal);
    const work = scoreImage(this.#native, this.#config, image, { limitInputPixels, signal, label, turn });
    this.#work.add(work);
    try {
      return this.#result(image, await work, product, options);
    } catch (error) {
      this.#checkAlive();
      throw error;
    } finally {
      options.signal?.removeEventListener('abort', abort);
      this.#running.delete(controller);
      this.#work.delete(work);
    }
  }

  #result(image: ImageInput, found: NativeScore, product: ProductConfig, options: ScoreOptions): ScoreResult {
    const limitInputPixels = options.limitInputPixels ?? this.#options.limitInputPixels;
    const threshold = options.threshold !== undefined ? options.threshold : this.thresholdOf(options.product);
    const { width, height } = found;
    const map = { data: found.map, width, height };
    return {
      image,
      score: found.score,
      threshold,
      anomalous: threshold === null ? null : found.score > threshold,
      map,
      pixelMap: { data: found.pixelMap, width, height },
      featureMap: found.featureMap && { data: found.featureMap, width, height },
      heatmap: (given: HeatmapOptions = {}) =>
        atCaller(async () => {
          const checked = { limitInputPixels, ...parseOptions(heatmapOptions, given) };
          return renderHeatmap(image, map, await colourRange(product, map.data), checked);
        }),
    };
  }
}

/** A path or an encoded image can be iterated too, but nobody means its letters or bytes. */
function checkList(images: unknown): void {
  const iterable = typeof images === 'object' && images !== null;
  if (iterable && !(images instanceof Uint8Array) && (Symbol.iterator in images || Symbol.asyncIterator in images))
    return;
  throw new DdadError('ERR_ARGUMENT', `scoreAll: expected an iterable of images, got ${kindOf(images)}`);
}
