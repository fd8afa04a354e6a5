// What the pixel-level score (9) alone says, by noise scales, normalisation, draws of noise and statistic of the map, on a
// dataset in MVTec layout, as a table of Markdown. Nothing is trained: the model scores in other ways.
//   node bench/accuracy/pixel-level.mjs MODEL DATASET [--every 2] [--cells 64]
import { parseArgs } from 'node:util';
import auc from '../../dist/numeric/auroc.js';
import testSet from '../../dist/evaluation/test-set.js';
import { Detector } from '../../dist/index.js';
import { sampleGrid } from './sample-grid.mjs';

const { findTestImages, readMask } = testSet;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { every: { type: 'string', default: '2' }, cells: { type: 'string', default: '64' } },
});
const [model, dataset] = positionals;
if (!dataset) {
  console.error('usage: pixel-level.mjs MODEL DATASET [--every N] [--cells N]');
  process.exit(2);
}
const cells = Number(values.cells);

/** Values of a map or mask at the centres of a grid. */
const sampled = (map) => sampleGrid(map, cells);

const { groups } = await findTestImages(dataset);
const files = groups.flatMap(({ images }) => images).filter((_, i) => i % Number(values.every) === 0);
const truths = await Promise.all(files.map(async ({ mask }) => (mask ? sampled(await readMask(mask, {})) : null)));
const kinds = [...new Set(files.map(({ defect }) => defect))].filter((kind) => kind !== 'good');

const none = { normalization: 'none', topPixels: { count: 64 } };
const ways = {
  'as calibrated': {},
  ...Object.fromEntries(
    [5, 10, 25, 50, 100, 200, 300].map((scale) => [`scale ${scale}`, { ...none, scales: [scale] }]),
  ),
  '5 draws near 5': { ...none, scales: [3, 4, 5, 6, 7] },
  '5 draws near 25': { ...none, scales: [23, 24, 25, 26, 27] },
  '5 draws near 100': { ...none, scales: [98, 99, 100, 101, 102] },
  'scales 5, 50, 100, each divided by its mean over the image (as published)': {
    normalization: 'per-image',
    topPixels: { count: 64 },
  },
  'scale 25, mean of half the map': { ...none, scales: [25], topPixels: { share: 0.5 } },
  'scale 25, mean of the map': { ...none, scales: [25], topPixels: { share: 1 } },
  'scale 100, mean of the map': { ...none, scales: [100], topPixels: { share: 1 } },
  'scale 25, no smoothing': { ...none, scales: [25], smoothing: 0 },
  'scale 25, smoothing 16': { ...none, scales: [25], smoothing: 16 },
};

console.log(`| pixel level alone | ${kinds.join(' | ')} | together | pixel AUROC |`);
console.log(`| --- |${' --- |'.repeat(kinds.length + 2)}`);
for (const [name, scoring] of Object.entries(ways)) {
  const detector = await Detector.load(model, { scoring: { kind: 'pixel', ...scoring } });
  const scores = {};
  const [inside, outside] = [[], []];
  let i = 0;
  for await (const { score, map } of detector.scoreAll(files.map(({ input }) => input))) {
    (scores[files[i].defect] ??= []).push(score);
    const grid = sampled(map);
    for (let p = 0; p < grid.length; p++) (truths[i]?.[p] ? inside : outside).push(grid[p]);
    i += 1;
  }
  detector.dispose();
  const bad = kinds.map((kind) => scores[kind]);
  const figures = [...bad, bad.flat()].map((some) => auc.auroc(scores.good, some).toFixed(3));
  const pixel = inside.length > 0 ? auc.auroc(outside, inside).toFixed(3) : '-';
  console.log(`| ${name} | ${figures.join(' | ')} | ${pixel} |`);
}
