import sharp from 'sharp';
import type { Claim } from './memory-budget.js';
import type { StoredConfig } from '../config/config.js';
import { DdadError, throwIfAborted } from '../base/errors.js';
import { decodeImage, imageName, type ImageInput, toBytes } from './decode.js';
import { checkUnchanged, type FileState } from './image-file.js';
import { addon } from '../engine/native.js';
import { inSlices } from '../base/slices.js';

/** A defect map: row-major, one value a pixel; high where the image differs from good ones. */
export interface ScoreMap {
  data: Float32Array;
  width: number;
  height: number;
}

export interface HeatmapOptions {
  /** Opacity of the strongest colour, 0 to 1 (0.85). */
  opacity?: number | undefined;
  /** Map values where colour begins and where it is strongest; by default from the model's good images. */
  range?: [number, number] | undefined;
  limitInputPixels?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** The value below which a share `q` of the values lies, by linear interpolation; `sorted` ascends. */
export function quantile(sorted: ArrayLike<number>, q: number): number {
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] as number;
  const high = sorted[Math.ceil(at)] as number;
  return low + (high - low) * (at - Math.floor(at));
}

/** An integer for the bits of a float, in the same order. */
const keyOf = (bits: number): number => (bits & 0x80000000 ? ~bits : bits ^ 0x80000000) >>> 0;

/** The bin of a histogram in which a place lies, and how many places there are before that bin. */
function binAt(counts: Uint32Array, place: number): [bin: number, before: number] {
  let before = 0;
  for (let bin = 0; ; bin++) {
    const count = counts[bin] as number;
    if (before + count > place) return [bin, before];
    before += count;
  }
}

/** The value that would stand at a place if the values were sorted; `high` counts the upper halves of their keys. */
async function valueAt(keys: Uint32Array, high: Uint32Array, place: number): Promise<number> {
  const [top, before] = binAt(high, place);
  const low = new Uint32Array(2 ** 16);
  await inSlices(keys.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const key = keys[i] as number;
      if (key >>> 16 === top) low[key & 0xffff] = (low[key & 0xffff] as number) + 1;
    }
  });
  const [rest] = binAt(low, place - before);
  const key = ((top << 16) | rest) >>> 0;
  return new Float32Array(Uint32Array.of(key & 0x80000000 ? key ^ 0x80000000 : ~key).buffer)[0] as number;
}

/** Median of a map and the end of its normal range (quantile 0.995), from at most 65 536 of its values. */
export async function mapRange(map: Float32Array): Promise<[number, number]> {
  const stride = Math.ceil(map.length / 2 ** 16);
  const bits = new Uint32Array(map.buffer, map.byteOffset, map.length);
  const keys = new Uint32Array(Math.ceil(map.length / stride));
  // Sorting would take several milliseconds in one go; counting can be interrupted.
  const high = new Uint32Array(2 ** 16);
  await inSlices(keys.length, (from, to) => {
    for (let i = from; i < to; i++) {
      const key = keyOf(bits[i * stride] as number);
      keys[i] = key;
      high[key >>> 16] = (high[key >>> 16] as number) + 1;
    }
  });
  const at = async (q: number): Promise<number> => {
    const place = q * (keys.length - 1);
    const around = [await valueAt(keys, high, Math.floor(place)), await valueAt(keys, high, Math.ceil(place))];
    return quantile(around, place - Math.floor(place));
  };
  return [await at(0.5), await at(0.995)];
}

/**
 * Where colour begins and is strongest. It begins where the maps of good images end (their quantile 0.995, typical of
 * the held-back images) and is strongest three times as far from their median. A model that does not know its good
 * images is scaled by the map itself.
 */
export async function colourRange(
  config: Pick<StoredConfig, 'calibration'>,
  map: Float32Array,
): Promise<[number, number]> {
  const [middle, end] = config.calibration?.mapRange ?? (await mapRange(map));
  return [end, middle + 3 * (end - middle)];
}

/** Colours of the heat, low to high, as 256 RGB triples: the part of inferno that is neither dark nor pale. */
async function palette(): Promise<Uint8Array> {
  const { interpolateInferno } = await import('d3-scale-chromatic');
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const hex = interpolateInferno(0.45 + 0.45 * (i / 255)).slice(1);
    for (let c = 0; c < 3; c++) table[3 * i + c] = Number.parseInt(hex.slice(2 * c, 2 * c + 2), 16);
  }
  return table;
}

/** Bytes of an overlay with the pixels that it is drawn upon: those in 8 bits where they are not, and its PNG at worst. */
const overlayBytes = ({ width, height, bytes }: { width: number; height: number; bytes: number }): number => {
  const colours = 3 * width * height;
  return bytes + (bytes > colours ? colours : 0) + Math.ceil(1.4 * colours) + 2 ** 22;
};

/**
 * The image with its map laid over as a PNG: below the normal range of good images nothing, then purple to yellow.
 * `scored` is the file whose map it is; another in its place is refused.
 */
export async function renderHeatmap(
  image: ImageInput,
  map: ScoreMap,
  range: [number, number],
  options: HeatmapOptions,
  { claim, scored }: { claim?: Claim; scored?: FileState | undefined } = {},
): Promise<Buffer> {
  const { opacity = 0.85, limitInputPixels, signal } = options;
  const onFile = (now: FileState): void => scored && checkUnchanged(imageName(image), scored, now);
  const decoding = { channels: 3 as const, limitInputPixels, signal, claim, later: overlayBytes, onFile };
  const { data, width, height } = await decodeImage(image, decoding);
  if (width !== map.width || height !== map.height) {
    const sizes = `expected ${map.width} x ${map.height}, the size of its map, got ${width} x ${height}`;
    throw new DdadError('ERR_IMAGE', `${imageName(image)}: has changed since it was scored: ${sizes}`);
  }
  const [low, high] = options.range ?? range;
  const span = high > low ? high - low : 1;
  const colours = await palette();
  // What decoding has made is nobody else's, so 8 bits are coloured in place.
  const out = data instanceof Uint16Array ? await toBytes(data, signal) : data;
  if (out !== data) addon().release(data);
  const colour = (from: number, to: number): void => {
    for (let i = from; i < to; i++) {
      const excess = (map.data[i] as number) - low;
      if (!(excess > 0)) continue;
      const heat = Math.min(1, excess / span);
      const entry = 3 * Math.round(255 * heat);
      // Opacity rises faster than colour, so that a faint excess is seen already.
      const alpha = opacity * Math.sqrt(heat);
      for (let c = 0; c < 3; c++) {
        const under = out[3 * i + c] as number;
        out[3 * i + c] = Math.round(under + alpha * ((colours[entry + c] as number) - under));
      }
    }
  };
  await inSlices(map.data.length, colour, signal);
  const png = await sharp(out, { raw: { width, height, channels: 3 }, limitInputPixels: false })
    .png()
    .toBuffer();
  addon().release(out);
  throwIfAborted(signal);
  return png;
}
