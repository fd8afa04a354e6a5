// How far reconstructions move what is defective and what is good: the mean absolute difference from the original (of
// 255) inside and outside the mask, by method, as a table of Markdown over as many images of each defect, evenly spread
// over its files. With --picture, a picture too, --rows images of each defect, one a row: the whole image with a frame
// about the defect; what is in the frame: as it is, its mask, and the reconstructions. A row is brightened as a whole.
//   node bench/accuracy/reconstructions.mjs MODEL DATASET [--images 8] [--methods gradient,ddim,ddpm] [--step 50]
//     [--rounds 100] [--picture out.jpg] [--rows 1]
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
    rows: { type: 'string', default: '1' },
  },
});
const [model, dataset] = positionals;
if (!dataset) {
  console.error(
    'usage: reconstructions.mjs MODEL DATASET [--images N] [--methods …] [--step K] [--rounds N] [--picture F]',
  );
  process.exit(2);
}
const side = 180;

/** Gray pixels of an image at a size. */
const pixelsOf = (input, { width, height }) =>
  sharp(input).toColourspace('b-w').resize(width, height, { fit: 'fill' }).raw().toBuffer();

/** Of a list, so many evenly spread. */
const spread = (list, count) =>
  list.length <= count ? list : Array.from({ length: count }, (_, i) => list[Math.floor((i * list.length) / count)]);

/** A square about what the mask sets, three times as large and 72 pixels at least, within the image. */
function frameOf({ data, width, height }) {
  let [left, right, top, bottom] = [width, 0, height, 0];
  data.forEach((set, i) => {
    if (!set) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  });
  const size = Math.min(width, height, Math.max(72, 3 * (right - left), 3 * (bottom - top)));
  const within = (centre, length) => Math.min(length - size, Math.max(0, Math.round(centre - size / 2)));
  return {
    left: within((left + right) / 2, width),
    top: within((top + bottom) / 2, height),
    width: size,
    height: size,
  };
}

const cut = (pixels, { width, height }, frame) =>
  sharp(pixels, { raw: { width, height, channels: 1 } })
    .extract(frame)
    .resize(side, side)
    .toColourspace('srgb')
    .png()
    .toBuffer();

/** A row of the picture: gray images of the mask's size. */
async function pictureRow(original, mask, reconstructions) {
  const brightest = Uint8Array.from(original).sort()[Math.floor(original.length * 0.995)];
  const bright = (pixels) => Uint8Array.from(pixels, (v) => Math.min(255, (v * 230) / brightest));
  const frame = frameOf(mask);
  const { width, height } = mask;
  const stroke = Math.ceil(Math.max(width, height) / side);
  const border = `<svg width="${width}" height="${height}"><rect x="${frame.left}" y="${frame.top}" width="${frame.width}"
    height="${frame.height}" fill="none" stroke="orange" stroke-width="${stroke}"/></svg>`;
  const framed = await sharp(bright(original), { raw: { width, height, channels: 1 } })
    .toColourspace('srgb')
    .composite([{ input: Buffer.from(border) }])
    .png()
    .toBuffer();
  return [
    await sharp(framed).resize(side, side, { fit: 'contain', background: 'white' }).png().toBuffer(),
    ...(await Promise.all(
      [bright(original), Uint8Array.from(mask.data, (set) => (set ? 255 : 0)), ...reconstructions.map(bright)].map(
        (pixels) => cut(pixels, mask, frame),
      ),
    )),
  ];
}

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
  kinds.set(image.defect, [...(kinds.get(image.defect) ?? []), image]);
}
const methods = values.methods.split(',');
const found = new Map(methods.map((method) => [method, new Map()]));
const rows = [];
for (const [defect, all] of kinds) {
  for (const [i, { input, mask: maskFile }] of spread(all, Number(values.images)).entries()) {
    const mask = await readMask(maskFile, {});
    const original = await pixelsOf(input, mask);
    const reconstructions = [];
    for (const method of methods) {
      const own = method === 'gradient' ? { rounds: Number(values.rounds) } : { step: Number(values.step) };
      const result = await detector.reconstruct(input, { method, ...own });
      const pixels = await pixelsOf(await result.png(), mask);
      found.get(method).set(defect, [...(found.get(method).get(defect) ?? []), moved(original, pixels, mask.data)]);
      reconstructions.push(pixels);
    }
    if (values.picture && i < Number(values.rows)) rows.push(await pictureRow(original, mask, reconstructions));
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
  const [width, height] = [(3 + methods.length) * (side + 4), rows.length * (side + 4)];
  const placed = rows.flatMap((row, y) =>
    row.map((input, x) => ({ input, left: x * (side + 4), top: y * (side + 4) })),
  );
  await sharp({ create: { width, height, channels: 3, background: 'white' } })
    .composite(placed)
    .toFile(values.picture);
}
