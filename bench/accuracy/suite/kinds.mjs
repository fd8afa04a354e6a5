// The kinds of synthetic defects. Each makes, of a good image and a stream of random numbers, where the defect is and what
// it does; `apply` does it at one of three contrasts. The three share place and shape.
import { deviation, filledFromAround, gaussian, grayOf, smooth } from './pixels.mjs';
import { between, bentLine, blob, branchingWalk, noisePlane, sideOf, sign, strokes } from './shapes.mjs';

export const contrasts = ['low', 'medium', 'high'];
/** What is added, in deviations of the image's own brightness; and the share of what replaces pixels. */
const added = { low: 0.6, medium: 1.2, high: 2.4 };
const replaced = { low: 0.35, medium: 0.65, high: 1 };
/** Sigmas of the blur, as shares of the image's side, and in pixels the least that are seen. */
const blurs = { low: 0.004, medium: 0.008, high: 0.016 };
const leastBlurs = { low: 1, medium: 2, high: 4 };
const blurOf = (contrast, image) => Math.max(leastBlurs[contrast], blurs[contrast] * sideOf(image));
/** Places that are tried for a defect that one sees. */
const tries = 12;

const constant = (length, value) => new Float32Array(length).fill(value);

/** Added to every channel: `field` where `alpha` is, `gain` times the contrast's strength. */
const adding = (alpha, field, gain) => ({ alpha, field, gain });
/** Instead of the image: the pixels of `target`, which may depend on the contrast. */
const replacing = (alpha, target) => ({ alpha, target: typeof target === 'function' ? target : () => target });

export const kinds = {
  async 'scratch-thin'(image, next) {
    const d = bentLine(next, image, 0.15, 0.45);
    const width = Math.max(1, between(next, 0.003, 0.007) * sideOf(image));
    const alpha = await strokes(image, [{ d, width }]);
    return adding(alpha, constant(alpha.length, sign(next)), 1);
  },

  async 'scratch-wide'(image, next) {
    const d = bentLine(next, image, 0.15, 0.4);
    const width = between(next, 0.015, 0.035) * sideOf(image);
    const alpha = await strokes(image, [{ d, width }]);
    const direction = sign(next);
    const streaks = noisePlane(next, image, Math.max(2, width / 3));
    return adding(
      alpha,
      streaks.map((value) => direction * (0.8 + 0.2 * value)),
      0.8,
    );
  },

  async crack(image, next) {
    const alpha = await strokes(image, branchingWalk(next, image));
    return adding(alpha, constant(alpha.length, -1), 1);
  },

  stain(image, next) {
    const { alpha, radius } = blob(next, image, { smallest: 0.04, largest: 0.12, soft: 0.4 });
    const direction = sign(next);
    const cloud = noisePlane(next, image, radius / 2);
    return adding(
      alpha,
      cloud.map((value) => direction * (0.75 + 0.25 * value)),
      0.6,
    );
  },

  /** Bright on the side to the light, dark on the other, as a bump or a hollow is. */
  dent(image, next) {
    const { alpha, own } = blob(next, image, { smallest: 0.04, largest: 0.1, uneven: 0.1, soft: 0.5 });
    const light = between(next, 0, 2 * Math.PI);
    const field = Float32Array.from(alpha, (value, i) => {
      if (value === 0) return 0;
      const [u, v] = own(i % image.width, Math.floor(i / image.width));
      // The slope of a Gaussian bump in the light's direction, 1 at its steepest.
      return 4.66 * (u * Math.cos(light) + v * Math.sin(light)) * Math.exp(-4 * (u * u + v * v));
    });
    return adding(alpha, field, 1);
  },

  missing(image, next) {
    const { alpha, radius } = blob(next, image, { smallest: 0.04, largest: 0.1, soft: 0.1 });
    return replacing(alpha, filledFromAround(image, alpha, Math.ceil(radius)));
  },

  /** A piece of the same image at a place where it does not belong. */
  extra(image, next) {
    const { alpha, x, y } = blob(next, image, { smallest: 0.04, largest: 0.1, soft: 0.1 });
    const { width, height } = image;
    const from = { x: between(next, 0.15, 0.85) * width, y: between(next, 0.15, 0.85) * height };
    return replacing(alpha, sampled(image, image, Math.round(from.x - x), Math.round(from.y - y)));
  },

  blur(image, next) {
    const { alpha } = blob(next, image, { smallest: 0.07, largest: 0.16, soft: 0.3 });
    return replacing(alpha, async (contrast) => (await gaussian(image, blurOf(contrast, image))).data);
  },

  /** The texture of another set's image, at the mean brightness of what it covers. */
  foreign(image, next, foreign) {
    const { alpha } = blob(next, image, { smallest: 0.04, largest: 0.12, soft: 0.15 });
    const shift = [Math.floor(next() * foreign.width), Math.floor(next() * foreign.height)];
    const target = sampled(foreign, image, ...shift);
    const away = meanWithin(image.data, alpha, image.channels) - meanWithin(target, alpha, image.channels);
    return replacing(
      alpha,
      target.map((value) => value + away),
    );
  },

  /** A slow change over a large area. */
  brightness(image, next) {
    const { alpha, own } = blob(next, image, { smallest: 0.35, largest: 0.6, uneven: 0, soft: 1 });
    const direction = sign(next);
    const field = constant(alpha.length, direction);
    const slow = alpha.map((value, i) => {
      if (value === 0) return 0;
      const distance = Math.hypot(...own(i % image.width, Math.floor(i / image.width)));
      const height = 0.5 + 0.5 * Math.cos(Math.PI * Math.min(1, distance));
      return height < 0.1 ? 0 : height;
    });
    return adding(slow, field, 0.5);
  },

  /** Another hue at the same brightness; only images of colour can have it. */
  colour(image, next) {
    const { alpha } = blob(next, image, { smallest: 0.05, largest: 0.15, soft: 0.4 });
    const hue = between(next, 0, 2 * Math.PI);
    const tint = [0, 1, 2].map((c) => Math.cos(hue + (2 * Math.PI * c) / 3));
    const luminance = 0.299 * tint[0] + 0.587 * tint[1] + 0.114 * tint[2];
    return { ...adding(alpha, constant(alpha.length, 1), 1), tint: tint.map((value) => value - luminance) };
  },
};

export const kindNames = Object.keys(kinds);
/** Whether images of so many channels can have the kind. */
export const fits = (kind, channels) => kind !== 'colour' || channels === 3;

/** The pixels of `from`, moved and mirrored beyond its border, in the size and channels of `shape`. */
function sampled(from, { width, height, channels }, dx, dy) {
  const out = new Float32Array(width * height * channels);
  const gray = channels === 1 ? grayOf(from) : null;
  const mirrored = (at, size) => {
    const within = ((at % (2 * size)) + 2 * size) % (2 * size);
    return within < size ? within : 2 * size - 1 - within;
  };
  for (let y = 0; y < height; y++) {
    const row = mirrored(y + dy, from.height) * from.width;
    for (let x = 0; x < width; x++) {
      const source = row + mirrored(x + dx, from.width);
      for (let c = 0; c < channels; c++) {
        const value = gray ? gray[source] : from.data[source * from.channels + (from.channels === 3 ? c : 0)];
        out[(y * width + x) * channels + c] = value;
      }
    }
  }
  return out;
}

function meanWithin(data, alpha, channels) {
  let sum = 0;
  let weight = 0;
  for (const [i, value] of alpha.entries()) {
    if (value === 0) continue;
    for (let c = 0; c < channels; c++) sum += value * data[i * channels + c];
    weight += value * channels;
  }
  return sum / weight;
}

/** What one deviation of brightness is in an image, within limits: boards are black and white. */
const unitOf = (image) => Math.min(60, Math.max(10, deviation(grayOf(image))));

/** The image with the defect, rounded to 8 bits. */
export async function apply(image, defect, contrast) {
  const { width, channels } = image;
  const data = Float32Array.from(image.data);
  const { alpha, field, gain, tint } = defect;
  if (defect.target) {
    const target = await defect.target(contrast);
    for (let i = 0; i < data.length; i++) {
      data[i] += replaced[contrast] * alpha[Math.floor(i / channels)] * (target[i] - data[i]);
    }
    return { ...image, data: Uint8ClampedArray.from(data, Math.round) };
  }
  const unit = unitOf(image) * gain;
  const around = smooth(grayOf(image), width, image.height, 1);
  for (let i = 0; i < alpha.length; i++) {
    if (alpha[i] === 0) continue;
    // Where what is added has no room, as something bright on white, it goes the other way; the same at each contrast.
    const most = around[i] + (added.high * unit * field[i]) / 2;
    const direction = !tint && (most < 0 || most > 255) ? -1 : 1;
    for (let c = 0; c < channels; c++) {
      data[i * channels + c] += direction * added[contrast] * unit * alpha[i] * field[i] * (tint?.[c] ?? 1);
    }
  }
  return { ...image, data: Uint8ClampedArray.from(data, Math.round) };
}

/** Mean change of the pixels of the defect. */
export function changeWithin(before, after, { alpha }) {
  let sum = 0;
  let count = 0;
  const { channels } = before;
  for (const [i, value] of alpha.entries()) {
    if (value === 0) continue;
    count += channels;
    for (let c = 0; c < channels; c++) sum += Math.abs(after.data[i * channels + c] - before.data[i * channels + c]);
  }
  return count === 0 ? 0 : sum / count;
}

/**
 * The defect of a kind on an image: the first of a few places where, at high contrast, it changes the mean pixel by half
 * of the image's deviation, else the place where it changes most.
 */
export async function makeDefect(kind, image, next, foreign) {
  let best = null;
  for (let i = 0; i < tries; i++) {
    const defect = await kinds[kind](image, next, foreign);
    const change = changeWithin(image, await apply(image, defect, 'high'), defect);
    if (best === null || change > best.change) best = { ...defect, change };
    if (change >= unitOf(image) / 2) break;
  }
  if (best.change < 1) throw new Error(`${kind}: no place of the image shows it`);
  return best;
}

/** The mask of a defect, 0 or 255. */
export function maskOf({ alpha }, { width, height }) {
  return { data: Uint8Array.from(alpha, (value) => (value > 0 ? 255 : 0)), width, height, channels: 1 };
}
