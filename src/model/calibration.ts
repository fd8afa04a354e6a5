import type { ModelConfig } from '../config/config.js';
import { quantile } from '../image/heatmap.js';
import type { NativeScore, ScaleStatistics } from '../engine/native.js';

export type Calibration = NonNullable<ModelConfig['calibration']>;

/**
 * Mean and standard deviation (n - 1) per noise scale over all pixels of all images, from those of each image
 * (Chan's formula; exact up to rounding).
 */
export function poolStatistics(images: readonly ScaleStatistics[]): { mean: number[]; std: number[] } {
  const scales = images[0]?.mean.length ?? 0;
  const total = images.reduce((sum, { elements }) => sum + elements, 0);
  const mean: number[] = [];
  const std: number[] = [];
  for (let s = 0; s < scales; s++) {
    const pooled = images.reduce((sum, image) => sum + image.elements * (image.mean[s] as number), 0) / total;
    let squares = 0;
    for (const image of images) {
      const within = image.elements > 1 ? (image.elements - 1) * (image.std[s] as number) ** 2 : 0;
      squares += within + image.elements * ((image.mean[s] as number) - pooled) ** 2;
    }
    const deviation = Math.sqrt(squares / (total - 1));
    mean.push(pooled);
    std.push(deviation > 0 && Number.isFinite(deviation) ? deviation : 1); // constant: nothing to divide by
  }
  return { mean, std };
}

/** What an image adds to the normalisation. */
export type RawStatistics = Pick<NativeScore, 'pixel' | 'feature' | 'memory' | 'rgb' | 'banks'>;

/** Normalisation of both scores from the raw statistics of held-back images. */
export function calibrationOf(images: readonly RawStatistics[], quantile: number): Calibration {
  const pixel = poolStatistics(images.map((image) => image.pixel));
  const features = images.flatMap((image) => image.feature ?? []);
  const feature = features.length > 0 ? poolStatistics(features) : undefined;
  const errors = images.flatMap((image) => image.rgb ?? []);
  const rgb = errors.length > 0 ? poolStatistics(errors) : undefined;
  const memories = images.flatMap((image) => image.memory ?? []);
  const memory = memories.length > 0 ? poolStatistics(memories) : undefined;
  const banks = (images[0]?.banks ?? []).map((_, bank) =>
    poolStatistics(images.flatMap((image) => image.banks[bank] ?? [])),
  );
  return {
    pixelMean: pixel.mean,
    pixelStd: pixel.std,
    ...(feature && { featureMean: feature.mean, featureStd: feature.std }),
    ...(rgb && { rgbMean: rgb.mean, rgbStd: rgb.std }),
    ...(memory && { memoryBankMean: memory.mean[0], memoryBankStd: memory.std[0] }),
    ...(banks.length > 0 && {
      evidence: { mapMean: banks.map(({ mean }) => mean[0] ?? 0), mapStd: banks.map(({ std }) => std[0] ?? 1) },
    }),
    images: images.length,
    quantile,
  };
}

/** Mean and standard deviation (n - 1) of each value that the score is made of, over held-back images. */
export function evidenceStatistics(images: readonly Float64Array[]): { mean: number[]; std: number[] } {
  const names = images[0]?.length ?? 0;
  const mean = Array.from(
    { length: names },
    (_, i) => images.reduce((sum, image) => sum + at(image, i), 0) / images.length,
  );
  const std = mean.map((m, i) => {
    const squares = images.reduce((sum, image) => sum + (at(image, i) - m) ** 2, 0);
    const deviation = Math.sqrt(squares / (images.length - 1));
    return deviation > 0 && Number.isFinite(deviation) ? deviation : 1; // a single image, or all alike
  });
  return { mean, std };
}

const at = (values: ArrayLike<number>, i: number): number => values[i] as number;

/** Each value in standard deviations above the mean of good images. */
export function standardised(
  found: { mean: readonly number[]; std: readonly number[] },
  values: Float64Array,
): number[] {
  return Array.from(values, (value, i) => (value - at(found.mean, i)) / at(found.std, i));
}

/** Of the mean of exponentials that the score is. */
const temperature = 2;

/** The score that the engine makes of them (combineEvidence in native/score/evidence/evidence_config.h). */
export function combineEvidence(
  found: { mean: readonly number[]; std: readonly number[] },
  values: Float64Array,
  weights: readonly number[],
): number {
  const z = standardised(found, values);
  const largest = Math.max(...z);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const mean = z.reduce((sum, v, i) => sum + at(weights, i) * Math.exp((v - largest) / temperature), 0) / total;
  return largest + temperature * Math.log(mean);
}

const ascending = (a: number, b: number): number => a - b;

/** The verdict threshold: a quantile of the scores of good images. */
export function thresholdOf(scores: readonly number[], q: number): number {
  return quantile([...scores].sort(ascending), q);
}

/** The typical map range of good images: the median, over images, of both ends. */
export function typicalRange(ranges: readonly (readonly [number, number])[]): [number, number] {
  const median = (end: 0 | 1): number => quantile(ranges.map((range) => range[end]).sort(ascending), 0.5);
  return [median(0), median(1)];
}
