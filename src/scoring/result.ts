import { z } from 'zod';
import { atCaller } from '../base/errors.js';
import type { StoredConfig } from '../config/config.js';
import { type EvidenceName, evidenceNames } from '../config/evidence.js';
import { parseOptions } from '../config/options.js';
import type { NativeScore } from '../engine/native.js';
import { type ImageInput, imageName } from '../image/decode.js';
import { colourRange, type HeatmapOptions, renderHeatmap, type ScoreMap } from '../image/heatmap.js';
import type { HeldImage } from '../image/held-image.js';
import type { FileState } from '../image/image-file.js';
import type { MemoryBudget } from '../image/memory-budget.js';
import { standardised } from '../model/calibration.js';
import type { ProductConfig } from '../model/products.js';

const heatmapOptions = z.strictObject({
  opacity: z.number().min(0).max(1).optional(),
  range: z.tuple([z.number(), z.number()]).optional(),
  limitInputPixels: z.number().int().min(1).optional(),
  signal: z.instanceof(AbortSignal).optional(),
});

/** What an overlay is drawn from: the image that was scored, and who it takes memory from. */
interface Drawing {
  held: HeldImage;
  file: FileState | undefined;
  product: ProductConfig;
  budget: MemoryBudget;
  limitInputPixels: number | undefined;
}

/**
 * The verdict on an image. A clone of it (`structuredClone`, `postMessage`) has all but `heatmap`, which needs the image
 * that was scored.
 */
export class ScoreResult {
  /** The image as it was given. */
  readonly image: ImageInput;
  /** How far the image is from good ones; compares across images of one model. */
  readonly score: number;
  /**
   * What the score is made of, each in standard deviations above the mean of held-back good images: twice the log
   * of the mean of exp(value / 2). Null where the ensemble alone judges.
   */
  readonly scores: Partial<Record<EvidenceName, number>> | null;
  readonly threshold: number | null;
  /** Whether the score is above the threshold; null when there is none. */
  readonly anomalous: boolean | null;
  /** Where the image differs from good ones, at the image's own size. */
  readonly map: ScoreMap;
  /** The pixel-level score alone (9), normalised; where the map is just that, the same memory. */
  readonly pixelMap: ScoreMap;
  /** The feature-level score alone (10), normalised, likewise; null where the model has none. */
  readonly featureMap: ScoreMap | null;
  readonly #drawing: Drawing;

  /** Results come from `Detector.score`. */
  constructor(
    image: ImageInput,
    found: NativeScore,
    { threshold, scores }: Pick<ScoreResult, 'threshold' | 'scores'>,
    drawing: Drawing,
  ) {
    const { score, width, height } = found;
    this.image = image;
    this.score = score;
    this.scores = scores;
    this.threshold = threshold;
    this.anomalous = threshold === null ? null : score > threshold;
    this.map = { data: found.map, width, height };
    this.pixelMap = { data: found.pixelMap, width, height };
    this.featureMap = found.featureMap && { data: found.featureMap, width, height };
    this.#drawing = drawing;
  }

  /**
   * An overlay as a PNG. Draws upon the image that was scored where it was given as bytes or pixels, which are kept for as
   * long as this result is; a file is read again, and one that was replaced or written since is refused with ERR_IMAGE.
   */
  heatmap(options: HeatmapOptions = {}): Promise<Buffer> {
    return atCaller(async () => {
      const { held, file, product, budget, limitInputPixels } = this.#drawing;
      const checked = { limitInputPixels, ...parseOptions(heatmapOptions, options) };
      const claim = budget.open(imageName(this.image));
      try {
        const range = await colourRange(product, this.map.data);
        return await renderHeatmap(held, this.map, range, checked, { claim, scored: file });
      } finally {
        claim.release();
      }
    });
  }
}

/** What every result has, of whatever detector it is. */
export type AnyScoreResult = Pick<ScoreResult, keyof ScoreResult>;

/** The values that the score is made of, by name. */
export function scoresOf(
  { score }: StoredConfig,
  { calibration }: ProductConfig,
  found: NativeScore,
): ScoreResult['scores'] {
  const { mean, std } = calibration?.evidence ?? {};
  if (!found.evidence || !mean || !std) return null;
  const z = standardised({ mean, std }, found.evidence);
  return Object.fromEntries(evidenceNames(score, calibration).map((name, i) => [name, z[i] as number]));
}
