// Images as floats, and the few operations on them that the generator needs beside sharp's.
import sharp from 'sharp';

/** Channels of a file as the suite has it: gray where all of its pixels are, else RGB; alpha dropped, EXIF applied. */
export async function readPixels(file) {
  const image = sharp(file).rotate().removeAlpha();
  const { space } = await sharp(file).metadata();
  const gray = space === 'b-w' || space === 'grey16';
  const { data, info } = await image
    .toColourspace(gray ? 'b-w' : 'srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  return { data: Float32Array.from(data), width: info.width, height: info.height, channels: info.channels };
}

/** 8 bits of each value, rounded. */
export function toBytes({ data, ...shape }) {
  return { ...shape, data: Uint8ClampedArray.from(data, Math.round) };
}

/** The image as PNG, with the same bytes every time. */
export function toPng({ data, width, height, channels }) {
  const raw = { raw: { width, height, channels } };
  return sharp(data, raw)
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .png({ compressionLevel: 6 })
    .toBuffer();
}

/** Luminance as one plane. */
export function grayOf({ data, width, height, channels }) {
  if (channels === 1) return data;
  const plane = new Float32Array(width * height);
  for (let i = 0; i < plane.length; i++) {
    plane[i] = 0.299 * data[3 * i] + 0.587 * data[3 * i + 1] + 0.114 * data[3 * i + 2];
  }
  return plane;
}

export function deviation(plane) {
  let sum = 0;
  let squares = 0;
  for (const value of plane) {
    sum += value;
    squares += value * value;
  }
  return Math.sqrt(Math.max(0, squares / plane.length - (sum / plane.length) ** 2));
}

/** sharp's Gaussian. */
export async function gaussian(image, sigma) {
  const { data, width, height, channels } = toBytes(image);
  const blurred = await sharp(data, { raw: { width, height, channels } })
    .blur(sigma)
    .toColourspace(channels === 1 ? 'b-w' : 'srgb')
    .raw()
    .toBuffer();
  return { ...image, data: Float32Array.from(blurred) };
}

/** Three means over (2 radius + 1)² pixels, which is nearly a Gaussian; in floats, beyond the border only what is inside. */
export function smooth(plane, width, height, radius) {
  let from = plane;
  for (let pass = 0; pass < 3; pass++) {
    from = means(means(from, height, width, width, 1, radius), width, height, 1, width, radius);
  }
  return from;
}

/** Means along lines: `count` lines `apart`, each of `length` values a `step` from each other. */
function means(plane, count, length, apart, step, radius) {
  const out = new Float32Array(plane.length);
  for (let line = 0; line < count; line++) {
    const at = (i) => line * apart + i * step;
    let sum = 0;
    let values = 0;
    for (let i = 0; i < Math.min(radius, length); i++, values++) sum += plane[at(i)];
    for (let i = 0; i < length; i++) {
      if (i + radius < length) {
        sum += plane[at(i + radius)];
        values += 1;
      }
      if (i - radius - 1 >= 0) {
        sum -= plane[at(i - radius - 1)];
        values -= 1;
      }
      out[at(i)] = sum / values;
    }
  }
  return out;
}

/** The image with what `alpha` covers filled from around it. */
export function filledFromAround({ data, width, height, channels }, alpha, radius) {
  const outside = alpha.map((value) => (value > 0 ? 0 : 1));
  const weight = smooth(outside, width, height, radius);
  const filled = new Float32Array(data.length);
  for (let c = 0; c < channels; c++) {
    const plane = outside.map((value, i) => value * data[i * channels + c]);
    const sum = smooth(plane, width, height, radius);
    // A region that reaches further than the means do has nothing around it in its middle.
    for (let i = 0; i < sum.length; i++) {
      filled[i * channels + c] = weight[i] > 1e-6 ? sum[i] / weight[i] : data[i * channels + c];
    }
  }
  return filled;
}
