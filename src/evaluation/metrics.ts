import { DdadError } from '../base/errors.js';
import { goodOwner, type OnShare, PixelFigures, type PixelOptions } from './pixels.js';
import { type Figures, sweepScores } from '../numeric/threshold-sweep.js';
import type { Curves, Metrics } from './types.js';

/** The folder of good images below `test/`. */
export const goodName = 'good';

/** A scored image, with its mask where it has one. */
export interface MetricsImage {
  /** What it is called in messages. */
  image: string;
  /** `good`, or what its defect is called. */
  defect: string;
  score: number;
  /** Row-major, one value a pixel. */
  map: Float32Array;
  width: number;
  height: number;
  /** Non-zero where the defect is, one value a pixel; null without a mask, and for good images. */
  mask: Uint8Array | null;
}

/**
 * Image- and pixel-level figures over images that come one at a time, in memory that their number does not change (but
 * for a score an image). Await each call before the next one; end it with `finish` or `abort`.
 */
export class MetricsAccumulator {
  readonly #scores = new Map<string, number[]>([[goodName, []]]);
  readonly #pixels: PixelFigures;

  constructor(options: PixelOptions = {}) {
    this.#pixels = new PixelFigures(options);
  }

  /**
   * Adds an image; without a mask an anomalous one counts at image level only. Resolves to the number of regions in its
   * mask. Throws ERR_ARGUMENT for sizes that differ, ERR_NUMERIC for values that are not finite, ERR_FILE_WRITE.
   */
  async add(image: MetricsImage): Promise<{ regions: number }> {
    const { defect, score, mask } = image;
    if (!Number.isFinite(score)) {
      throw new DdadError('ERR_NUMERIC', `${image.image}: expected a finite score, got ${score}`);
    }
    if (defect === goodName && mask) throw new DdadError('ERR_ARGUMENT', `${image.image}: a good image has no mask`);
    const known = this.#scores.get(defect) ?? [];
    this.#scores.set(defect, known);
    const owner = [...this.#scores.keys()].indexOf(defect);
    const added = defect === goodName || mask ? await this.#pixels.add(image, owner) : { regions: 0 };
    known.push(score);
    return added;
  }

  /** The figures; those of a defect are over the good images and its own. */
  async finish(options: { signal?: AbortSignal | undefined; onShare?: OnShare | undefined } = {}): Promise<{
    total: Metrics;
    perDefect: Record<string, Metrics>;
    curves: Curves;
  }> {
    const [pixelsOfAll, ...pixelsOf] = (await this.#pixels.finish(options)) as [Figures, ...Figures[]];
    const good = this.#scores.get(goodName) ?? [];
    const defects = [...this.#scores.keys()].slice(1);
    const masked = defects.map((_, i) => this.#pixels.images(i + 1));
    // Good images count beside others that have masks; without those there is nothing to measure.
    const withGood = (count: number): number => (count > 0 ? count + this.#pixels.images(goodOwner) : 0);
    const anomalous = defects.flatMap((defect) => this.#scores.get(defect) ?? []);
    const imagesOfAll = sweepScores(good, anomalous, true);
    const perDefect = defects.map((defect, i) => {
      const scores = this.#scores.get(defect) ?? [];
      const count = good.length + scores.length;
      const pixelFigures = pixelsOf[i + 1] ?? noFigures;
      return [defect, metrics(count, sweepScores(good, scores), withGood(masked[i] as number), pixelFigures)] as const;
    });
    const maskedAll = withGood(masked.reduce((sum, count) => sum + count, 0));
    return {
      total: metrics(good.length + anomalous.length, imagesOfAll, maskedAll, pixelsOfAll),
      perDefect: Object.fromEntries(perDefect),
      curves: {
        imageRoc: imagesOfAll.curves.roc,
        imagePr: imagesOfAll.curves.pr,
        pixelRoc: pixelsOfAll.curves.roc,
        pixelPr: pixelsOfAll.curves.pr,
        pro: pixelsOfAll.curves.pro,
      },
    };
  }

  /** Removes the temporary file. */
  abort(): Promise<void> {
    return this.#pixels.abort();
  }
}

const noFigures = sweepScores([], []);

function metrics(images: number, ofImages: Figures, maskedImages: number, ofPixels: Figures): Metrics {
  return {
    images,
    imageAuroc: ofImages.auroc,
    imageAp: ofImages.ap,
    imageBestF1: ofImages.bestF1,
    maskedImages,
    pixelAuroc: ofPixels.auroc,
    pixelAp: ofPixels.ap,
    pixelBestF1: ofPixels.bestF1,
    aupro: ofPixels.aupro,
    aupro05: ofPixels.aupro05,
  };
}
