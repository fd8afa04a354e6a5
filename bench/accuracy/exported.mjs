// What becomes of a model outside: its scoring graph in onnxruntime-node against the engine, and its weights written in
// guided-diffusion's names and imported again, on real images.
//   node bench/accuracy/exported.mjs MODEL DATASET [--images 4]
// Prints the largest relative distance ||theirs - ours|| / ||ours|| of the maps and of the scores over so many images of
// each folder of tests, and whether maps of the imported weights are the same bytes (pixel level without calibration, which
// is all that weights decide alone). Ends with 1 where a distance is above 1e-4 or a byte differs.
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { Detector, exportOnnx, exportSafetensors, importModel } from '../../dist/index.js';
import { installOnnxruntime, version } from '../peers/onnxruntime.mjs';

const require = createRequire(import.meta.url);
const { findTestImages } = require('../../dist/evaluation/test-set.js');
const root = fileURLToPath(new URL('../..', import.meta.url));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { images: { type: 'string', default: '4' } },
});
const [model, dataset] = positionals;
if (!dataset) {
  console.error('usage: exported.mjs MODEL DATASET [--images N]');
  process.exit(2);
}

const home = installOnnxruntime(path.join(root, '.deps', 'onnxruntime'));
const ort = createRequire(path.join(home, 'package.json'))('onnxruntime-node');
const folder = await mkdtemp(path.join(os.tmpdir(), 'exported-'));
const [graph, weights, again] = ['graph.onnx', 'weights.safetensors', 'again.safetensors'].map((n) =>
  path.join(folder, n),
);

/** ||out - ref|| / ||ref||; NaN where a value is. */
const distance = (out, ref) => {
  const squares = ref.reduce((sum, value, i) => sum + (out[i] - value) ** 2, 0);
  return Math.sqrt(squares / ref.reduce((sum, value) => sum + value ** 2, 0));
};
/** Pixels of 0 to 255 as the graph takes them: [1, channels, height, width] of -1 to 1. */
const tensorOf = ({ data, width, height, channels }) => {
  const x0 = Float32Array.from({ length: data.length }, (_, i) => {
    const [c, pixel] = [Math.floor(i / (width * height)), i % (width * height)];
    return data[pixel * channels + c] / 127.5 - 1;
  });
  return new ort.Tensor('float32', x0, [1, channels, height, width]);
};

const detector = await Detector.load(model);
const { input, unet, diffusion, score, features } = detector.config;
const side = input.size * (features?.scale ?? 1);

const { groups } = await findTestImages(dataset);
const counts = new Map();
const images = [];
for (const { defect, input: file } of groups[0].images) {
  counts.set(defect, (counts.get(defect) ?? 0) + 1);
  if (counts.get(defect) > Number(values.images)) continue;
  const pixels = sharp(file).resize(side, side, { fit: 'fill' });
  const data = await (unet.inChannels === 1 ? pixels.toColourspace('b-w') : pixels.toColourspace('srgb'))
    .raw()
    .toBuffer();
  images.push({ data, width: side, height: side, channels: unet.inChannels });
}

const written = await exportOnnx(model, graph, { graph: 'score' });
const session = await ort.InferenceSession.create(graph);
const worst = {};
const note = (name, value) => {
  if (!(value <= worst[name])) worst[name] = value;
};
for (const image of images) {
  const found = await session.run({ x0: tensorOf(image) });
  const own = await detector.score(image);
  for (const name of ['map', 'pixelMap', 'featureMap']) {
    if (own[name]) note(name, distance(found[name].data, own[name].data));
  }
  note('score', Math.abs(found.score.data[0] - own.score) / Math.abs(own.score));
}
await session.release();
console.log(
  `${images.length} images of ${side}x${side}, scales ${written.scales.join(', ')}; onnxruntime-node ${version}:`,
);
for (const [name, value] of Object.entries(worst)) console.log(`  ${name}: ${value.toExponential(1)} at most`);

await exportSafetensors(model, weights);
const { imageSize, numHeads, numHeadChannels, useNewAttentionOrder } = unet;
await importModel(weights, again, {
  ...{ imageSize, useNewAttentionOrder, mode: input.mode, size: input.size, schedule: diffusion.schedule },
  ...(numHeadChannels > 0 ? { numHeadChannels } : { numHeads }),
  ...{ scales: score.scales, scaleIndexing: score.scaleIndexing, respacing: score.respacing },
  ...{ smoothing: score.smoothing, topPixels: score.topPixels, normalization: 'none' },
  ...(features ? { featureScale: features.scale, featureStrides: features.strides } : { backbone: null }),
});
detector.dispose();
const scoring = { kind: 'pixel', normalization: 'none' };
const [before, after] = await Promise.all([model, again].map((file) => Detector.load(file, { scoring })));
let same = 0;
for (const image of images) {
  const [a, b] = await Promise.all([before.score(image), after.score(image)]);
  if (a.score === b.score && Buffer.from(a.map.data.buffer).equals(Buffer.from(b.map.data.buffer))) same += 1;
}
[before, after].forEach((each) => each.dispose());
console.log(`exported to safetensors and imported: ${same} of ${images.length} maps are the same bytes`);

await rm(folder, { recursive: true });
process.exitCode = same === images.length && Object.values(worst).every((value) => value <= 1e-4) ? 0 : 1;
