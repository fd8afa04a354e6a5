// The figures of a method on a set, for each half of the kinds of defects. A method gives one map an image and one or
// more scores; each score is a row of the table.
import { thresholdOf } from '../../../dist/model/calibration.js';
import { auroc } from '../../../dist/numeric/auroc.js';
import { MetricsAccumulator } from '../../../dist/evaluation/metrics.js';
import { grouped, maskFor } from './images.mjs';
import { wilson } from './interval.mjs';

/** What a threshold may cost: the quantile of held-back good scores that it is. */
const quantile = 0.99;

/** Where an image counts: its group and half, `all` where it only reports. */
export const labelOf = ({ group, half }) => `${group}/${half ?? 'all'}`;

function rateOf(scores, threshold) {
  const hits = scores.filter((score) => score > threshold).length;
  return { hits, count: scores.length, ...wilson(hits, scores.length) };
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length === 0 ? null : sorted[Math.floor(sorted.length / 2)];
}

/**
 * Figures of a half: means over its kinds, else a kind that covers much of an image would be all that pixel figures see.
 * Rates count images, as their interval does.
 */
function together(kinds) {
  const mean = (of) => {
    const known = kinds.map(of).filter((value) => value !== null);
    return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
  };
  const sum = (of) => kinds.reduce((total, figures) => total + of(figures), 0);
  const [hits, count] = [sum(({ recall }) => recall.hits), sum(({ recall }) => recall.count)];
  return {
    images: sum(({ images }) => images),
    imageAuroc: mean(({ imageAuroc }) => imageAuroc),
    pixelAuroc: mean(({ pixelAuroc }) => pixelAuroc),
    aupro: mean(({ aupro }) => aupro),
    recall: { hits, count, ...wilson(hits, count) },
  };
}

/**
 * Judges one method: `score(files)` gives, in their order, `{ scores, seconds, map: { data, width, height } }`;
 * `rows` are `{ row, score }`, the names of a row and of its score; `threshold` is what the method ships with, null for
 * the quantile of the scores of `heldBack`.
 */
export async function judge({ images, score, rows, threshold = null, onImage }) {
  const { test, heldBack } = images;
  const good = (image) => image.defect === 'good';
  const files = [...(threshold === null ? heldBack : []), ...test.map(({ input }) => input)];
  const first = files.length - test.length;
  const metrics = new MetricsAccumulator();
  const known = [];
  const held = [];
  let at = 0;
  try {
    for await (const { scores, seconds, map } of score(files)) {
      const image = test[at - first];
      if (image) {
        const mask = good(image) ? null : await maskFor(image, map);
        const { data, width, height } = map;
        const defect = good(image) ? 'good' : image.kind;
        // Image figures are made below for each of the scores; here the maps are what counts.
        await metrics.add({ image: image.input, defect, score: 0, map: data, width, height, mask });
        known.push({ ...image, scores, seconds });
      } else {
        held.push(scores);
      }
      at += 1;
      onImage?.(at, files.length);
    }
    if (at !== files.length) throw new Error(`expected ${files.length} scored images, got ${at}`);
  } catch (error) {
    await metrics.abort();
    throw error;
  }
  const { perDefect } = await metrics.finish();
  const goods = known.filter(good);
  const defects = known.filter((image) => !good(image));
  return {
    goodImages: goods.length,
    heldBackImages: heldBack.length,
    msPerImage: 1000 * median(known.map(({ seconds }) => seconds)),
    rows: rows.map(({ row, score: name }) => {
      const scoresOf = (some) => some.map(({ scores }) => scores[name]);
      const limit =
        threshold ??
        thresholdOf(
          held.map((scores) => scores[name]),
          quantile,
        );
      const ofKind = (kind, some) => ({
        group: some[0].group,
        half: some[0].half,
        images: some.length,
        imageAuroc: auroc(scoresOf(goods), scoresOf(some)),
        pixelAuroc: perDefect[kind].pixelAuroc,
        aupro: perDefect[kind].aupro,
        recall: rateOf(scoresOf(some), limit),
      });
      const kinds = [...grouped(defects, ({ kind }) => kind)].map(([kind, some]) => [kind, ofKind(kind, some)]);
      const groups = [...grouped(kinds, ([, figures]) => labelOf(figures))].map(([label, own]) => [
        label,
        together(own.map(([, figures]) => figures)),
      ]);
      const byContrast = [...grouped(defects, ({ defect }) => defect)].map(([defect, some]) => [
        defect,
        { imageAuroc: auroc(scoresOf(goods), scoresOf(some)), recall: rateOf(scoresOf(some), limit) },
      ]);
      return {
        row,
        threshold: limit,
        shipped: threshold !== null,
        falseAlarms: rateOf(scoresOf(goods), limit),
        groups: Object.fromEntries(groups),
        kinds: Object.fromEntries(kinds),
        folders: Object.fromEntries(byContrast),
      };
    }),
    images: known.map(({ image, scores }) => ({ image, scores })),
  };
}
