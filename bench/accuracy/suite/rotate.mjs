// Copies of images as of parts that lie anywhere: turned by any angle, at any place of a larger picture.
import sharp from 'sharp';
import { between } from './shapes.mjs';

/** The level around a part: brighter than tiles and cells, whose own borders are dark. */
const background = 230;
/** The side of the picture, in diagonals of the part. */
const room = 1.15;

/** How a part of that size comes to lie. */
export function drawPose(next, { width, height }) {
  const side = Math.ceil(Math.hypot(width, height) * room);
  return { side, angle: between(next, 0, 360), x: next(), y: next() };
}

/** The image at that pose, as PNG; a mask keeps its two values. */
export async function posed(file, { side, angle, x, y }, isMask = false) {
  const level = isMask ? 0 : background;
  const around = { r: level, g: level, b: level };
  const turned = await sharp(file)
    .removeAlpha()
    .toColourspace('srgb')
    .rotate(angle, { background: around })
    .raw()
    .toBuffer({ resolveWithObject: true });
  const { width, height, channels } = turned.info;
  const left = Math.floor(x * (side - width + 1));
  const top = Math.floor(y * (side - height + 1));
  const extended = await sharp(turned.data, { raw: { width, height, channels } })
    .extend({ left, top, right: side - width - left, bottom: side - height - top, background: around })
    .toColourspace('b-w')
    .raw()
    .toBuffer();
  const data = isMask ? extended.map((value) => (value >= 128 ? 255 : 0)) : extended;
  return sharp(data, { raw: { width: side, height: side, channels: 1 } })
    .toColourspace('b-w')
    .png({ compressionLevel: 6 })
    .toBuffer();
}
