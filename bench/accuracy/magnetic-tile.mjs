// Image and pixel AUROC of a model on the test folders of a dataset in MVTec layout, and overlays to look at:
//   node bench/accuracy/magnetic-tile.mjs MODEL DATASET [--out DIR] [--json FILE] [--smoothing SIGMA]
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { Detector } from '../../dist/index.js';
import { auroc } from '../../dist/evaluation/auroc.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string' },
    json: { type: 'string' },
    smoothing: { type: 'string' },
    overlays: { type: 'string' },
  },
});
const [model, dataset] = positionals;
if (!model || !dataset) {
  console.error('usage: magnetic-tile.mjs MODEL DATASET [--out DIR] [--overlays N] [--json FILE] [--smoothing SIGMA]');
  process.exit(2);
}

/** Area under the ROC curve of many values, from sorted arrays. */
function pixelAuroc(good, bad) {
  good.sort();
  bad.sort();
  let below = 0;
  let same = 0;
  let sum = 0;
  for (const value of bad) {
    while (below < good.length && good[below] < value) below++;
    same = Math.max(same, below);
    while (same < good.length && good[same] <= value) same++;
    sum += below + (same - below) / 2;
  }
  return sum / (good.length * bad.length);
}

/** Separable Gaussian, borders repeated. */
function blur({ data, width, height }, sigma) {
  if (!sigma) return data;
  const radius = Math.ceil(3 * sigma);
  const kernel = Float64Array.from({ length: 2 * radius + 1 }, (_, i) =>
    Math.exp(-((i - radius) ** 2) / (2 * sigma ** 2)),
  );
  const total = kernel.reduce((a, b) => a + b);
  const pass = (from, outer, inner, outerStride, innerStride) => {
    const to = new Float32Array(from.length);
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < inner; i++) {
        let value = 0;
        for (let k = -radius; k <= radius; k++)
          value += kernel[k + radius] * from[o * outerStride + Math.min(inner - 1, Math.max(0, i + k)) * innerStride];
        to[o * outerStride + i * innerStride] = value / total;
      }
    return to;
  };
  return pass(pass(data, height, width, width, 1), width, height, 1, width);
}

const sigmas = [0, Number(values.smoothing ?? 4)];
const detector = await Detector.load(model);
const folders = (await readdir(path.join(dataset, 'test'))).sort();
const scores = {};
const pixels = {};
const started = performance.now();
let count = 0;
for (const folder of folders) {
  const names = (await readdir(path.join(dataset, 'test', folder))).sort();
  const paths = names.map((name) => path.join(dataset, 'test', folder, name));
  scores[folder] = [];
  pixels[folder] = sigmas.map(() => ({ good: [], bad: [] }));
  let index = 0;
  for await (const result of detector.scoreAll(paths)) {
    const name = path.parse(names[index]).name;
    scores[folder].push(result.score);
    if (folder !== 'good') {
      const mask = await sharp(path.join(dataset, 'ground_truth', folder, `${name}_mask.png`))
        .toColourspace('b-w')
        .raw()
        .toBuffer();
      sigmas.forEach((sigma, s) => {
        const map = blur(result.map, sigma);
        for (let i = 0; i < map.length; i++)
          (mask[i] > 127 ? pixels[folder][s].bad : pixels[folder][s].good).push(map[i]);
      });
    }
    if (values.out && index < Number(values.overlays ?? 6)) {
      await mkdir(path.join(values.out, folder), { recursive: true });
      await writeFile(path.join(values.out, folder, `${name}.png`), await result.heatmap());
    }
    index++;
    count++;
  }
}
const seconds = (performance.now() - started) / 1000;
const report = { model, images: count, secondsPerImage: seconds / count, sigmas, imageAuroc: {}, pixelAuroc: {} };
for (const folder of folders.filter((f) => f !== 'good')) {
  report.imageAuroc[folder] = auroc(scores.good, scores[folder]);
  report.pixelAuroc[folder] = pixels[folder].map(({ good, bad }) =>
    pixelAuroc(Float32Array.from(good), Float32Array.from(bad)),
  );
}
console.table(
  Object.fromEntries(
    Object.keys(report.imageAuroc).map((folder) => [
      folder,
      {
        'image AUROC': report.imageAuroc[folder].toFixed(3),
        ...Object.fromEntries(
          sigmas.map((s, i) => [`pixel AUROC, sigma ${s}`, report.pixelAuroc[folder][i].toFixed(3)]),
        ),
      },
    ]),
  ),
);
if (values.json) await writeFile(values.json, JSON.stringify(report, null, 2) + '\n');
detector.dispose();
