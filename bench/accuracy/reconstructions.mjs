// How far reconstructions move what is defective and what is good: the mean absolute difference from the original (of
// 255) inside and outside the mask, by method, as a table of Markdown; and, with --picture, a picture of an image each
// row: original, mask, the reconstructions.
//   node bench/accuracy/reconstructions.mjs MODEL DATASET [--images 8] [--methods gradient,ddim,ddpm] [--step 50]
//     [--rounds 100] [--picture out.png]
// The model needs a Gaussian for the method gradient: ddad-native fit-padim MODEL DATASET --out MODEL2.
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { Detector } from '../../dist/index.js';

const require = createRequire(import.meta.url);
const { findTestImages, readMask } = require('../../dist/evaluation/test-set.js');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    images: { type: 'string', default: '8' },
    methods: { type: 'string', default: 'gradient,ddim,ddpm' },
    step: { type: 'string', default: '50' },
    rounds: { type: 'string', default: '100' },
    picture: { type: 'string' },
  },
});
const [model, dataset] = positionals;
if (!dataset) {
  console.error(
    'usage: reconstructions.mjs MODEL DATASET [--images N] [--methods …] [--step K] [--rounds N] [--picture F]',
  );
  process.exit(2);
}
const side = 160;

/** Gray pixels of an image at a size. */
const pixelsOf = (input, width, height) =>
  sharp(input).toColourspace('b-w').resize(width, height, { fit: 'fill' }).raw().toBuffer();
const thumbnail = (input) =>
  sharp(input).resize(side, side, { fit: 'contain', background: 'white' }).toColourspace('srgb').png().toBuffer();

/** Means of |a - b| where the mask is set and where it is not. */
function moved(a, b, mask) {
  const [inside, outside] = [
    { sum: 0, count: 0 },
    { sum: 0, count: 0 },
  ];
  for (let i = 0; i < a.length; i++) {
    const part = mask[i] ? inside : outside;
    part.sum += Math.abs(a[i] - b[i]);
    part.count += 1;
  }
  return [inside, outside].map(({ sum, count }) => (count > 0 ? sum / count : NaN));
}

const detector = await Detector.load(model);
const { groups } = await findTestImages(dataset);
const kinds = new Map();
for (const image of groups[0].images.filter(({ mask }) => mask)) {
  kinds.set(image.defect, [...(kinds.get(image.defect) ?? []), image].slice(0, Number(values.images)));
}
const methods = values.methods.split(',');
const found = new Map(methods.map((method) => [method, new Map()]));
const rows = [];
for (const [defect, images] of kinds) {
  for (const { input, mask: maskFile } of images) {
    const mask = await readMask(maskFile, {});
    const original = await pixelsOf(input, mask.width, mask.height);
    const row = [await thumbnail(input), await thumbnail(maskFile)];
    for (const method of methods) {
      const own = method === 'gradient' ? { rounds: Number(values.rounds) } : { step: Number(values.step) };
      const result = await detector.reconstruct(input, { method, ...own });
      const png = await result.png();
      row.push(await thumbnail(png));
      const list = found.get(method).get(defect) ?? [];
      list.push(moved(original, await pixelsOf(png, mask.width, mask.height), mask.data));
      found.get(method).set(defect, list);
    }
    rows.push(row);
  }
}
detector.dispose();

const mean = (list, at) => (list.reduce((sum, pair) => sum + pair[at], 0) / list.length).toFixed(1);
const head = ['method', ...[...kinds.keys()].map((defect) => `${defect}: defect / rest`)];
console.log(`| ${head.join(' | ')} |\n| ${head.map(() => '---').join(' | ')} |`);
for (const [method, own] of found) {
  const cells = [...kinds.keys()].map((defect) => `${mean(own.get(defect), 0)} / ${mean(own.get(defect), 1)}`);
  console.log(`| ${[method, ...cells].join(' | ')} |`);
}
if (values.picture) {
  const [width, height] = [(2 + methods.length) * (side + 4), rows.length * (side + 4)];
  const placed = rows.flatMap((row, y) =>
    row.map((input, x) => ({ input, left: x * (side + 4), top: y * (side + 4) })),
  );
  await sharp({ create: { width, height, channels: 3, background: 'white' } })
    .composite(placed)
    .png({ palette: true, colours: 128 })
    .toFile(values.picture);
}
