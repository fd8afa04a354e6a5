import { z } from 'zod';
import { parseOptions } from '../config/options.js';
import type { Detector } from '../scoring/detector.js';
import type { AnyScoreResult } from '../scoring/result.js';
import { atCaller, DdadError, kindOf, throwIfAborted, toDdadError } from '../base/errors.js';
import { productOf } from '../model/products.js';
import { mapAhead } from '../base/read-ahead.js';
import { goodName, MetricsAccumulator } from './metrics.js';
import { meanOverProducts } from './products.js';
import { findTestImages, type Mask, readMask, type TestGroup, type TestImage } from './test-set.js';
import type { EvaluatedImage, Evaluation, Outcome, ProductEvaluation, SkippedImage } from './types.js';

const callback = <T>() => z.custom<T>((value) => typeof value === 'function', { error: 'expected a function' });

const evaluateOptions = z.strictObject({
  threshold: z.number().nullable().optional(),
  limitInputPixels: z.number().int().min(1).optional(),
  model: z.string().optional(),
  product: z.string().optional(),
  skipUnreadable: z.boolean().optional(),
  memoryBytes: z.number().int().min(4096).optional(),
  temporaryFolder: z.string().min(1).optional(),
  onProgress: callback<(progress: EvaluateProgress) => void>().optional(),
  onImage: callback<(scored: ScoredImage) => void | Promise<void>>().optional(),
  signal: z.instanceof(AbortSignal).optional(),
});

/**
 * - `threshold`: used instead of the detector's own; null for none.
 * - `model`: what the model is called in the result, its path say.
 * - `product`: what the images of the dataset show, for a unified model; where the dataset has a folder of each product,
 *   those are the names.
 * - `skipUnreadable`: goes on without images that cannot be read, or whose mask cannot; `skipped` names them, and a
 *   warning. Otherwise the first of them ends it with its error.
 * - `memoryBytes`: that the pixels may take (64 MiB); what is more goes to a file in `temporaryFolder` (the system's).
 * - `onImage`: gets every image in the order of the dataset, and is awaited before the next one.
 */
export type EvaluateOptions = z.infer<typeof evaluateOptions>;

export interface EvaluateProgress {
  /** Scoring the images, then computing the figures. */
  phase: 'score' | 'metrics';
  /** Images scored or skipped, of `steps`. */
  step: number;
  steps: number;
  /** Share of the phase that is done, 0 to 1. */
  done: number;
  elapsedMs: number;
  remainingMs: number;
}

/** An image as it has been scored. */
export interface ScoredImage {
  image: EvaluatedImage;
  /** The image's file. */
  input: string;
  /** The file of its mask, or null. */
  mask: string | null;
  result: AnyScoreResult;
}

/** What an evaluation needs of a detector. */
export interface EvaluatedDetector extends Pick<Detector, 'threshold' | 'config'> {
  score(...of: Parameters<Detector['score']>): Promise<AnyScoreResult>;
  /** Images that are asked for before the first has its answer (2). */
  readonly readAhead?: number;
}

/**
 * Scores the test images of a dataset in the MVTec AD layout (`test/`, and `ground_truth/` for pixel figures) and
 * computes how well good and anomalous ones are told apart, in all and for each defect. A dataset of several products,
 * which a unified model takes, is evaluated product by product. Memory does not grow with the pixels. Throws ERR_DATASET,
 * ERR_IMAGE, ERR_NUMERIC, ERR_FILE_WRITE, ERR_ABORTED; see {@link DdadError}.
 */
export function evaluate(
  detector: EvaluatedDetector,
  dataset: string,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  return atCaller(async () => {
    if (typeof (detector as Partial<EvaluatedDetector> | null)?.score !== 'function') {
      throw new DdadError('ERR_ARGUMENT', `evaluate: expected a detector, got ${kindOf(detector)}`);
    }
    if (typeof dataset !== 'string') {
      throw new DdadError('ERR_ARGUMENT', `evaluate: expected a folder, got ${kindOf(dataset)}`);
    }
    return run(detector, dataset, parseOptions(evaluateOptions, options));
  });
}

async function run(detector: EvaluatedDetector, dataset: string, options: EvaluateOptions): Promise<Evaluation> {
  const { groups, warnings } = await findTestImages(dataset);
  checkProducts(detector, dataset, groups, options);
  const count = groups.reduce((sum, { images }) => sum + images.length, 0);
  const progress = reporter(options.onProgress, count);
  const scores: EvaluatedImage[] = [];
  const skipped: SkippedImage[] = [];
  const perProduct: Record<string, ProductEvaluation> = {};
  const onDone = (): void => {
    const step = scores.length + skipped.length;
    progress('score', step, step / count);
  };
  for (const [i, group] of groups.entries()) {
    const productEvaluation = await runGroup(detector, group, options, {
      onScore: (image) => {
        scores.push(image);
        onDone();
      },
      onSkip: (image) => {
        skipped.push(image);
        onDone();
      },
      // Products before the last are counted in between, too shortly to be told.
      onShare: i < groups.length - 1 ? undefined : (done) => progress('metrics', count, done),
      warnings,
    });
    perProduct[group.product ?? ''] = productEvaluation;
  }
  if (skipped.length > 0) warnings.push(skippedWarning(dataset, skipped, count));
  const { product } = groups[0] as TestGroup;
  const figures = product === null ? (perProduct[''] as ProductEvaluation) : meanOverProducts(perProduct, scores);
  const { threshold, falseAlarmRate, expectedFalseAlarmRate, ...rest } = figures;
  return {
    formatVersion: 1,
    model: options.model ?? '',
    dataset,
    threshold,
    falseAlarmRate,
    expectedFalseAlarmRate,
    ...rest,
    ...(product === null ? {} : { perProduct }),
    warnings,
    scores,
    skipped,
  };
}

/** Throws ERR_DATASET where nothing is left. */
function skippedWarning(dataset: string, skipped: readonly SkippedImage[], count: number): string {
  const [first] = skipped as [SkippedImage];
  if (skipped.length === count) {
    const none = `none of the test images (${count}) can be read: ${first.error.message}`;
    throw new DdadError('ERR_DATASET', `${dataset}: ${none}`);
  }
  const names = skipped.slice(0, 3).map(({ image }) => image);
  const shown = skipped.length > 3 ? [...names, '…'] : names;
  return `${skipped.length} of ${count} test images skipped, since they cannot be read: ${shown.join(', ')}`;
}

/** Finds out before the long part whether the model knows the products. */
function checkProducts(
  { config }: EvaluatedDetector,
  dataset: string,
  groups: readonly TestGroup[],
  { product }: EvaluateOptions,
): void {
  const names = groups.flatMap((group) => group.product ?? []);
  if (names.length === 0) productOf(config, product);
  else if (!config.products) {
    throw new DdadError(
      'ERR_DATASET',
      `${dataset}: expected a folder test/ as in the MVTec AD layout, for a model of a single product; found folders of ` +
        `products (${names.join(', ')}): name one of them`,
    );
  } else if (product !== undefined) {
    throw new DdadError(
      'ERR_OPTION',
      `option "product": the folders of the dataset name the products, got "${product}"`,
    );
  }
  for (const name of names) productOf(config, name);
}

interface Listener {
  onScore: (image: EvaluatedImage) => void;
  onSkip: (image: SkippedImage) => void;
  onShare: ((done: number) => void) | undefined;
  warnings: string[];
}

async function runGroup(
  detector: EvaluatedDetector,
  { product, images }: TestGroup,
  options: EvaluateOptions,
  listener: Listener,
): Promise<ProductEvaluation> {
  const metrics = new MetricsAccumulator(options);
  try {
    const shown = product ?? options.product;
    return await figuresOf(detector, images, { ...options, product: shown }, metrics, listener);
  } finally {
    await metrics.abort();
  }
}

async function figuresOf(
  detector: EvaluatedDetector,
  images: readonly TestImage[],
  options: EvaluateOptions,
  metrics: MetricsAccumulator,
  { onScore, onSkip, onShare, warnings }: Listener,
): Promise<ProductEvaluation> {
  const { signal } = options;
  const scores: EvaluatedImage[] = [];
  const emptyMasks: string[] = [];
  const one = (test: TestImage, inner: AbortSignal) => scoreOne(detector, test, { ...options, signal: inner });
  for await (const { test, scored, error } of mapAhead(images, one, { ahead: detector.readAhead ?? 2, signal })) {
    if (!scored) {
      const { image, defect } = test;
      const { code, message } = error;
      onSkip({ image, product: options.product ?? null, defect, error: { code, message } });
      continue;
    }
    const { result, mask } = scored;
    const { data: map, width, height } = result.map;
    const { score } = result;
    const truth = mask?.data ?? null;
    const { regions } = await metrics.add({
      image: test.input,
      defect: test.defect,
      score,
      map,
      width,
      height,
      mask: truth,
    });
    if (mask && regions === 0) emptyMasks.push(test.image);
    const image = evaluated(test, options.product ?? null, result);
    scores.push(image);
    await options.onImage?.({ image, input: test.input, mask: test.mask, result });
    onScore(image);
  }
  if (emptyMasks.length > 0) warnings.push(emptyMaskWarning(emptyMasks));
  const { total, perDefect, curves } = await metrics.finish({ signal, onShare });
  throwIfAborted(signal);
  onShare?.(1);

  // Every image of a product has the same.
  const { calibration, threshold: calibrated } = productOf(detector.config, options.product);
  const threshold = scores[0] ? scores[0].threshold : (options.threshold ?? calibrated);
  const good = scores.filter(({ defect }) => defect === goodName);
  const alarms = good.filter(({ outcome }) => outcome === 'false-alarm').length;
  const expected = threshold !== null && threshold === calibrated && calibration ? 1 - calibration.quantile : null;
  return {
    threshold,
    falseAlarmRate: threshold === null || good.length === 0 ? null : alarms / good.length,
    // Without the last digits, which only say that 0.99 is no binary number.
    expectedFalseAlarmRate: expected === null ? null : Number(expected.toFixed(12)),
    ...total,
    perDefect,
    curves,
  };
}

interface Scored {
  result: AnyScoreResult;
  mask: Mask | null;
}

type Outcomes =
  { test: TestImage; scored: Scored; error?: never } | { test: TestImage; scored?: never; error: DdadError };

/** Scores an image; what is its own fault is an outcome like another where such images are to be skipped. */
async function scoreOne(detector: EvaluatedDetector, test: TestImage, options: EvaluateOptions): Promise<Outcomes> {
  try {
    return { test, scored: await scoreWithMask(detector, test, options) };
  } catch (thrown) {
    const error = toDdadError(thrown);
    if (!options.skipUnreadable || (error.code !== 'ERR_IMAGE' && error.code !== 'ERR_MEMORY')) throw error;
    return { test, error };
  }
}

async function scoreWithMask(
  detector: EvaluatedDetector,
  test: TestImage,
  { threshold, limitInputPixels, product, signal }: EvaluateOptions,
): Promise<Scored> {
  const limits = { limitInputPixels, signal };
  // The mask first: a broken one is found before the long part.
  const mask = test.mask === null ? null : await readMask(test.mask, limits);
  const result = await detector.score(test.input, { threshold, product, ...limits });
  const { width, height } = result.map;
  if (mask && (mask.width !== width || mask.height !== height)) {
    const sizes = `expected ${width} x ${height}, the size of ${test.input}, got ${mask.width} x ${mask.height}`;
    throw new DdadError('ERR_IMAGE', `${test.mask}: ${sizes}`);
  }
  return { result, mask };
}

function evaluated(
  { image, defect }: TestImage,
  product: string | null,
  { score, threshold, anomalous }: AnyScoreResult,
): EvaluatedImage {
  return { image, product, defect, score, threshold, anomalous, outcome: outcomeOf(defect, anomalous) };
}

function outcomeOf(defect: string, anomalous: boolean | null): Outcome | null {
  if (anomalous === null) return null;
  if (defect === goodName) return anomalous ? 'false-alarm' : 'passed';
  return anomalous ? 'caught' : 'missed';
}

function emptyMaskWarning(images: readonly string[]): string {
  const shown = images.length > 3 ? [...images.slice(0, 3), '…'] : images;
  const count = images.length === 1 ? '1 mask is' : `${images.length} masks are`;
  return `${count} empty: ${shown.join(', ')}; all pixels count as good`;
}

function reporter(onProgress: EvaluateOptions['onProgress'], steps: number) {
  let phase: EvaluateProgress['phase'] | undefined;
  let start = performance.now();
  return (now: EvaluateProgress['phase'], step: number, done: number): void => {
    if (phase === 'score' && now === 'metrics') start = performance.now();
    phase = now;
    const elapsedMs = performance.now() - start;
    onProgress?.({
      phase,
      step,
      steps,
      done,
      elapsedMs,
      remainingMs: done > 0 ? elapsedMs * (1 / done - 1) : Infinity,
    });
  };
}
