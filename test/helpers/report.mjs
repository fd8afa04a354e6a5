// A synthetic evaluation for the tests of the report: images with drawn defects, and maps that see most of them.
import { mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pattern, png, random, root } from './common.mjs';

const require = createRequire(import.meta.url);
const built = (name) => require(path.join(root, 'dist', `${name}.js`));
export const { ReportWriter } = built('report/report');
export const { fromLine, toLine } = built('report/entry');
const { renderHeatmap } = built('image/heatmap');

/** Names that would break a page which prints them as they are. */
export const hostile = [
  '<img src=x onerror="window.hacked=1">',
  `"quoted" & 'both'`,
  '</script><script>window.hacked=1</script>',
  'crack 🔥 \u202eback\u2028line',
  '--> <!--rows-->',
];

/** An image, its mask and its two maps. A defect has a place, a size and a strength; a good image has none. */
function drawn({ width, height, seed, defect }) {
  const next = random(seed);
  const image = pattern(width, height, seed % 17);
  const mask = new Uint8Array(width * height);
  const [pixelMap, featureMap] = [new Float32Array(width * height), new Float32Array(width * height)];
  const [cx, cy] = [width * (0.25 + 0.5 * next()), height * (0.25 + 0.5 * next())];
  const radius = Math.min(width, height) * (0.06 + 0.1 * next());
  // A good image now and then has something that looks like a defect.
  const strength = defect ? 0.4 + 4 * next() : seed % 13 === 0 ? 1.8 : 0;
  for (let i = 0; i < width * height; i++) {
    const distance = Math.hypot((i % width) - cx, Math.floor(i / width) - cy) / radius;
    if (defect && distance < 1) {
      mask[i] = 255;
      image.data[i] = Math.max(0, image.data[i] - 25 * strength);
    }
    pixelMap[i] = 0.3 * next() + strength * (distance < 1 ? 0.6 + 0.4 * next() : 0);
    featureMap[i] = 0.2 * next() + 0.1 * Math.sin(i / 40) + strength * Math.exp(-distance * distance);
  }
  return { image, mask: { data: mask, width, height, channels: 1 }, pixelMap, featureMap };
}

/** A ROC curve and one of precision and recall, of scores alone. */
function curvesOf(scores) {
  const sorted = [...scores].sort((a, b) => b.score - a.score);
  const bad = sorted.filter(({ defect }) => defect !== 'good').length;
  const good = sorted.length - bad;
  if (good === 0 || bad === 0) return { roc: null, pr: null };
  const [roc, pr] = [
    { x: [0], y: [0] },
    { x: [], y: [] },
  ];
  let [hits, alarms] = [0, 0];
  for (const { defect } of sorted) {
    if (defect === 'good') alarms += 1;
    else hits += 1;
    roc.x.push(alarms / good);
    roc.y.push(hits / bad);
    pr.x.push(hits / bad);
    pr.y.push(hits / (hits + alarms));
  }
  return { roc, pr };
}

function metricsOf(images, masked, seed) {
  const next = random(seed);
  const figure = () => 0.8 + 0.2 * next();
  const f1 = () => ({ f1: figure(), threshold: 0.5 + next(), precision: figure(), recall: figure() });
  const pixel = (value) => (masked > 0 ? value : null);
  return {
    ...{ images, imageAuroc: figure(), imageAp: figure(), imageBestF1: f1() },
    ...{ maskedImages: masked, pixelAuroc: pixel(figure()), pixelAp: pixel(figure()), pixelBestF1: pixel(f1()) },
    ...{ aupro: pixel(figure()), aupro05: pixel(figure()) },
  };
}

/**
 * Writes a report of `images` images into `folder`. `defects`: names of the kinds of defects, in turn with good images;
 * `threshold`: null for a model without one; `masks`, `features`: whether there are any; `products`: names, in turn.
 */
export async function makeReport(folder, options = {}) {
  const { images = 24, defects = ['crack', 'stain'], threshold = 1.2, masks = true, features = true } = options;
  const { products, width = 160, height = 120, date, model, onImage } = options;
  await mkdir(folder, { recursive: true });
  const report = await ReportWriter.create(folder, { date });
  const kinds = ['good', ...defects];
  const scores = [];
  for (let i = 0; i < images; i++) {
    const defect = kinds[i % kinds.length];
    const bad = defect !== 'good';
    const { image: input, mask, pixelMap, featureMap } = drawn({ width, height, seed: i + 1, defect: bad });
    const score =
      [...pixelMap]
        .sort((a, b) => b - a)
        .slice(0, 64)
        .reduce((sum, value) => sum + value, 0) / 64;
    const anomalous = threshold === null ? null : score > threshold;
    const verdicts = bad ? ['missed', 'caught'] : ['passed', 'false-alarm'];
    const outcome = anomalous === null ? null : verdicts[Number(anomalous)];
    const product = products ? products[i % products.length] : null;
    const image = { image: `test/${defect}/${i}.png`, product, defect, score, threshold, anomalous, outcome };
    const maskFile = masks && bad ? path.join(folder, `mask-${i}.png`) : null;
    if (maskFile) await png(mask).toFile(maskFile);
    const map = (data) => ({ data, width, height });
    const result = {
      pixelMap: map(pixelMap),
      ...(features ? { featureMap: map(featureMap) } : {}),
      heatmap: () => renderHeatmap(input, map(pixelMap), [0.3, 2], {}),
    };
    await report.add({ image, input, mask: maskFile, result });
    scores.push(image);
    onImage?.(i);
  }
  const evaluation = makeEvaluation(scores, { masks, threshold, model });
  return { file: await report.finish(evaluation), evaluation };
}

export function makeEvaluation(scores, options = {}) {
  const { masks = true, threshold = null, warnings = [], model = 'models/parts.safetensors' } = options;
  const good = scores.filter(({ defect }) => defect === 'good');
  const bad = scores.length - good.length;
  const { roc, pr } = curvesOf(scores);
  const both = good.length > 0 && bad > 0;
  const metrics = metricsOf(scores.length, masks ? scores.length : 0, 7);
  const none = { imageAuroc: null, imageAp: null, imageBestF1: null };
  const kinds = [...new Set(scores.map(({ defect }) => defect))].filter((defect) => defect !== 'good');
  const curve = masks && both ? { x: [0, 0.01, 0.05, 0.1, 0.3, 1], y: [0, 0.6, 0.85, 0.92, 0.97, 1] } : null;
  return {
    formatVersion: 1,
    model,
    dataset: 'data/parts',
    threshold,
    falseAlarmRate: threshold === null ? null : good.filter(({ anomalous }) => anomalous).length / good.length,
    expectedFalseAlarmRate: threshold === null ? null : 0.01,
    ...metrics,
    ...(both ? {} : none),
    perDefect: Object.fromEntries(
      kinds.map((defect, i) => {
        const own = scores.filter((image) => image.defect === defect).length;
        return [defect, metricsOf(own, masks ? own : 0, i)];
      }),
    ),
    curves: {
      ...{ imageRoc: roc, imagePr: pr, pixelRoc: curve },
      pixelPr: curve && { x: [0, 0.5, 0.8, 1], y: [1, 0.95, 0.7, 0.1] },
      pro: curve && { x: curve.x.filter((x) => x <= 0.3), y: curve.y.slice(0, 5) },
    },
    warnings,
    scores,
    skipped: [],
  };
}
