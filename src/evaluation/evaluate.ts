import { z } from 'zod';
import { parseOptions } from '../config.js';
import type { Detector, ScoreResult } from '../detector.js';
import { atCaller, DdadError, throwIfAborted } from '../errors.js';
import { mapAhead } from '../read-ahead.js';
import { goodName, MetricsAccumulator } from './metrics.js';
import { findTestImages, type Mask, readMask, type TestImage } from './test-set.js';
import type { EvaluatedImage, Evaluation, Outcome } from './types.js';

const callback = <T>() => z.custom<T>((value) => typeof value === 'function', { error: 'expected a function' });

const evaluateOptions = z.strictObject({
  threshold: z.number().nullable().optional(),
  limitInputPixels: z.number().int().min(1).optional(),
  model: z.string().optional(),
  memoryBytes: z.number().int().min(4096).optional(),
  temporaryFolder: z.string().min(1).optional(),
  onProgress: callback<(progress: EvaluateProgress) => void>().optional(),
  onImage: callback<(scored: ScoredImage) => void | Promise<void>>().optional(),
  signal: z.instanceof(AbortSignal).optional(),
});

/**
 * - `threshold`: used instead of the detector's own; null for none.
 * - `model`: what the model is called in the result, its path say.
 * - `memoryBytes`: that the pixels may take (64 MiB); what is more goes to a file in `temporaryFolder` (the system's).
 * - `onImage`: gets every image in the order of the dataset, and is awaited before the next one.
 */
export type EvaluateOptions = z.infer<typeof evaluateOptions>;

export interface EvaluateProgress {
  /** Scoring the images, then computing the figures. */
  phase: 'score' | 'metrics';
  /** Images scored, of `steps`. */
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
  result: ScoreResult;
}

/** What an evaluation needs of a detector. */
export type EvaluatedDetector = Pick<Detector, 'score' | 'threshold' | 'config'>;

/**
 * Scores the test images of a dataset in the MVTec AD layout (`test/`, and `ground_truth/` for pixel figures) and
 * computes how well good and anomalous ones are told apart, in all and for each defect. Memory does not grow with the
 * pixels. Throws ERR_DATASET, ERR_IMAGE, ERR_NUMERIC, ERR_FILE_WRITE, ERR_ABORTED; see {@link DdadError}.
 */
export function evaluate(
  detector: EvaluatedDetector,
  dataset: string,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  return atCaller(async () => {
    if (typeof dataset !== 'string') throw new DdadError('ERR_ARGUMENT', `expected a folder, got ${typeof dataset}`);
    const given = parseOptions(evaluateOptions, options);
    const metrics = new MetricsAccumulator(given);
    try {
      return await run(detector, dataset, given, metrics);
    } finally {
      await metrics.abort();
    }
  });
}

async function run(
  detector: EvaluatedDetector,
  dataset: string,
  options: EvaluateOptions,
  metrics: MetricsAccumulator,
): Promise<Evaluation> {
  const { signal } = options;
  const { images, warnings } = await findTestImages(dataset);
  const scores: EvaluatedImage[] = [];
  const emptyMasks: string[] = [];
  const progress = reporter(options.onProgress, images.length);
  const one = (test: TestImage, inner: AbortSignal) => scoreOne(detector, test, { ...options, signal: inner });
  for await (const { test, result, mask } of mapAhead(images, one, { ahead: 2, signal })) {
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
    const image = evaluated(test, result);
    scores.push(image);
    await options.onImage?.({ image, input: test.input, mask: test.mask, result });
    progress('score', scores.length, scores.length / images.length);
  }
  if (emptyMasks.length > 0) warnings.push(emptyMaskWarning(emptyMasks));
  const onShare = (done: number): void => progress('metrics', images.length, done);
  const { total, perDefect, curves } = await metrics.finish({ signal, onShare });
  throwIfAborted(signal);
  progress('metrics', images.length, 1);

  const threshold = options.threshold === undefined ? detector.threshold : options.threshold;
  const good = scores.filter(({ defect }) => defect === goodName);
  const alarms = good.filter(({ outcome }) => outcome === 'false-alarm').length;
  const { calibration, threshold: calibrated } = detector.config;
  const expected = threshold !== null && threshold === calibrated && calibration ? 1 - calibration.quantile : null;
  return {
    formatVersion: 1,
    model: options.model ?? '',
    dataset,
    threshold,
    falseAlarmRate: threshold === null || good.length === 0 ? null : alarms / good.length,
    // Without the last digits, which only say that 0.99 is no binary number.
    expectedFalseAlarmRate: expected === null ? null : Number(expected.toFixed(12)),
    ...total,
    perDefect,
    curves,
    warnings,
    scores,
  };
}

/** A product's network may one day be chosen here, by `test.product`. */
async function scoreOne(
  detector: EvaluatedDetector,
  test: TestImage,
  { threshold, limitInputPixels, signal }: EvaluateOptions,
): Promise<{ test: TestImage; result: ScoreResult; mask: Mask | null }> {
  const limits = { limitInputPixels, signal };
  // The mask first: a broken one is found before the long part.
  const mask = test.mask === null ? null : await readMask(test.mask, limits);
  const result = await detector.score(test.input, { threshold, ...limits });
  const { width, height } = result.map;
  if (mask && (mask.width !== width || mask.height !== height)) {
    const sizes = `expected ${width} x ${height}, the size of ${test.input}, got ${mask.width} x ${mask.height}`;
    throw new DdadError('ERR_IMAGE', `${test.mask}: ${sizes}`);
  }
  return { test, result, mask };
}

function evaluated(test: TestImage, { score, threshold, anomalous }: ScoreResult): EvaluatedImage {
  const { image, product, defect } = test;
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
