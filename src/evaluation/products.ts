import { goodName } from './metrics.js';
import type { EvaluatedImage, Metrics, ProductEvaluation } from './types.js';

/** The mean of the values that are there. */
function mean(values: readonly (number | null)[]): number | null {
  const there = values.filter((value) => value !== null);
  return there.length === 0 ? null : there.reduce((sum, value) => sum + value, 0) / there.length;
}

/**
 * The figures of all products: means, as scores of different products do not compare; images are counted together. What
 * belongs to a threshold or a curve has no mean.
 */
export function meanOverProducts(
  products: Record<string, ProductEvaluation>,
  scores: readonly EvaluatedImage[],
): ProductEvaluation {
  const each = Object.values(products);
  const meanOf = (figure: (metrics: Metrics) => number | null): number | null => mean(each.map(figure));
  const judged = scores.filter(({ defect, outcome }) => defect === goodName && outcome !== null);
  const alarms = judged.filter(({ outcome }) => outcome === 'false-alarm').length;
  const [expected, ...others] = new Set(each.map(({ expectedFalseAlarmRate }) => expectedFalseAlarmRate));
  return {
    threshold: null,
    falseAlarmRate: judged.length === 0 ? null : alarms / judged.length,
    expectedFalseAlarmRate: others.length === 0 ? (expected ?? null) : null,
    images: each.reduce((sum, { images }) => sum + images, 0),
    imageAuroc: meanOf(({ imageAuroc }) => imageAuroc),
    imageAp: meanOf(({ imageAp }) => imageAp),
    imageBestF1: null,
    maskedImages: each.reduce((sum, { maskedImages }) => sum + maskedImages, 0),
    pixelAuroc: meanOf(({ pixelAuroc }) => pixelAuroc),
    pixelAp: meanOf(({ pixelAp }) => pixelAp),
    pixelBestF1: null,
    aupro: meanOf(({ aupro }) => aupro),
    aupro05: meanOf(({ aupro05 }) => aupro05),
    perDefect: Object.fromEntries(
      Object.entries(products).flatMap(([product, { perDefect }]) =>
        Object.entries(perDefect).map(([defect, metrics]) => [`${product}/${defect}`, metrics]),
      ),
    ),
    curves: { imageRoc: null, imagePr: null, pixelRoc: null, pixelPr: null, pro: null },
  };
}
