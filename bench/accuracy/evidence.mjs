// What each value of the evidence says alone, other ways to combine them, and other shares of the map, on a dataset in
// MVTec layout, as tables of Markdown. `--halves` groups the kinds of defects as the suite does (suite/halves.mjs).
//   node bench/accuracy/evidence.mjs MODEL DATASET [--halves] [--cells 64]
import path from 'node:path';
import { parseArgs } from 'node:util';
import sweep from '../../dist/numeric/threshold-sweep.js';
import testSet from '../../dist/evaluation/test-set.js';
import { Detector } from '../../dist/index.js';
import modelFile from '../../dist/model/model-file.js';
import { groupOf } from './suite/halves.mjs';
import { sampleGrid } from './sample-grid.mjs';

const { sweepScores } = sweep;
const { findTestImages, readMask } = testSet;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { halves: { type: 'boolean', default: false }, cells: { type: 'string', default: '64' } },
});
const [model, dataset] = positionals;
if (!dataset) {
  console.error('usage: evidence.mjs MODEL DATASET [--halves] [--cells N]');
  process.exit(2);
}
const cells = Number(values.cells);
const shares = [0, 0.25, 0.4, 0.55, 0.75, 1];
const { calibration } = (await modelFile.readModel(model)) ?? {};
/** The share of the map that the evidence has in this model. */
const engineShare = calibration?.evidence?.share ?? 0.4;
if (!(engineShare > 0)) throw new Error(`${model}: expected a model whose map has a share of evidence`);

/** Values of a map or mask at the centres of a grid. */
const sampled = (map) => sampleGrid(map, cells);

const { groups } = await findTestImages(dataset);
const files = groups.flatMap(({ images }) => images);
const whole = await Detector.load(model);
const ensemble = await Detector.load(model, { scoring: { kind: 'ensemble' } });
const [judged, plain] = [whole, ensemble].map((detector) => detector.scoreAll(files.map(({ input }) => input)));
const images = [];
let names = [];
for (const { defect: kind, mask } of files) {
  const [{ value: one }, { value: other }] = [await judged.next(), await plain.next()];
  if (!one.scores) throw new Error(`${model}: expected a model with evidence`);
  names = Object.keys(one.scores);
  const [map, base] = [sampled(one.map), sampled(other.map)];
  const distances = map.map((value, i) => (value - (1 - engineShare) * base[i]) / engineShare);
  const truth = mask ? sampled(await readMask(mask, {})) : null;
  images.push({ kind, scores: Object.values(one.scores), base, distances, truth });
}
whole.dispose();
ensemble.dispose();

const good = images.filter(({ kind }) => kind === 'good');
const kinds = [...new Set(images.map(({ kind }) => kind))].filter((kind) => kind !== 'good');
/** Which column a kind counts in. */
function columnOf(kind) {
  const { group, half } = groupOf(kind);
  return values.halves ? [group, half].filter(Boolean).join(' ') : kind;
}
const columns = [...new Set(kinds.map(columnOf))]
  .sort()
  .map((name) => [name, kinds.filter((kind) => columnOf(kind) === name)]);

function imageAuroc(score, kind) {
  const bad = images.filter((image) => image.kind === kind);
  return sweepScores(good.map(score), bad.map(score)).auroc;
}

function pixelAuroc(share, kind) {
  const at = ({ base, distances }, i) => (1 - share) * base[i] + share * distances[i];
  const [normal, anomalous] = [[], []];
  for (const image of images) {
    if (image.kind !== 'good' && image.kind !== kind) continue;
    for (let i = 0; i < cells * cells; i++) (image.truth?.[i] > 0 ? anomalous : normal).push(at(image, i));
  }
  return anomalous.length === 0 ? NaN : sweepScores(normal, anomalous).auroc;
}

const mean = (all) => all.reduce((sum, value) => sum + value, 0) / all.length;
const figure = (value) => (Number.isFinite(value) ? value.toFixed(4) : '-');
function table(title, rows) {
  console.log(
    `\n| ${[title, ...columns.map(([name]) => name)].join(' | ')} |\n| ${['---', ...columns.map(() => '---')].join(' | ')} |`,
  );
  for (const [name, of] of rows) {
    console.log(`| ${[name, ...columns.map(([, members]) => figure(mean(members.map(of))))].join(' | ')} |`);
  }
}

const softened =
  (t) =>
  ({ scores }) =>
    t * Math.log(mean(scores.map((z) => Math.exp(z / t))));
table('image AUROC', [
  ...names.map((name, i) => [name, (kind) => imageAuroc(({ scores }) => scores[i], kind)]),
  ...[1, 1.5, 2, 3, 5].map((t) => [`t log mean exp(z / t), t = ${t}`, (kind) => imageAuroc(softened(t), kind)]),
  ['mean', (kind) => imageAuroc(({ scores }) => mean(scores), kind)],
  ['largest', (kind) => imageAuroc(({ scores }) => Math.max(...scores), kind)],
]);
table(
  `pixel AUROC, ${cells} x ${cells} places`,
  shares.map((share) => [`evidence's share ${share}`, (kind) => pixelAuroc(share, kind)]),
);
console.log(`\n${path.basename(model)}, ${path.basename(dataset)}: ${good.length} good test images`);
