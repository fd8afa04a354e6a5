// What an evaluation found; the contents of metrics.json. A figure is null where it has no meaning: no good images, no
// anomalous ones, no masks.

import type { BestF1, Curve } from '../numeric/threshold-sweep.js';

export type { BestF1, Curve };

/** Image-level figures over the good images and those of one defect, or of all. */
export interface ImageMetrics {
  images: number;
  imageAuroc: number | null;
  /** Average precision. */
  imageAp: number | null;
  /** Best F1 over all thresholds. */
  imageBestF1: BestF1 | null;
}

/** Pixel-level figures over the same images, as far as they have masks. */
export interface PixelMetrics {
  /** Images that they are over: good ones, and anomalous ones with a mask. */
  maskedImages: number;
  pixelAuroc: number | null;
  pixelAp: number | null;
  pixelBestF1: BestF1 | null;
  /** Area under the per-region overlap up to a false-positive rate of 0.3, over 0.3. */
  aupro: number | null;
  /** The same up to 0.05. */
  aupro05: number | null;
}

export type Metrics = ImageMetrics & PixelMetrics;

export type Outcome = 'caught' | 'missed' | 'false-alarm' | 'passed';

export interface EvaluatedImage {
  /** Path relative to the dataset. */
  image: string;
  /** Product of a unified model, else null. */
  product: string | null;
  /** Folder below `test/`; `good` for good images. */
  defect: string;
  score: number;
  threshold: number | null;
  anomalous: boolean | null;
  /** Null where there is no threshold. */
  outcome: Outcome | null;
}

/** A test image that could not be read, or whose mask could not. */
export interface SkippedImage extends Pick<EvaluatedImage, 'image' | 'product' | 'defect'> {
  error: { code: string; message: string };
}

export interface Curves {
  /** False-positive rate against true-positive rate. */
  imageRoc: Curve | null;
  /** Recall against precision. */
  imagePr: Curve | null;
  pixelRoc: Curve | null;
  pixelPr: Curve | null;
  /** False-positive rate against mean per-region overlap, up to 0.3. */
  pro: Curve | null;
}

/** Figures of one product, or of a dataset without products. */
export interface ProductEvaluation extends Metrics {
  threshold: number | null;
  /** Share of the good test images above the threshold, and the share that calibration expected. */
  falseAlarmRate: number | null;
  expectedFalseAlarmRate: number | null;
  perDefect: Record<string, Metrics>;
  curves: Curves;
}

export interface Evaluation extends ProductEvaluation {
  formatVersion: 1;
  model: string;
  dataset: string;
  /**
   * Of a dataset of several products: each by itself. The figures of all are then means over the products that have
   * them, without curves, threshold and best F1; `perDefect` has `product/defect`.
   */
  perProduct?: Record<string, ProductEvaluation>;
  /** What was found doubtful, in sentences. */
  warnings: string[];
  /** Every image, in the order of the dataset. */
  scores: EvaluatedImage[];
  /** Those that are in no figure, in the same order; none unless they were to be skipped. */
  skipped: SkippedImage[];
}
