import sharp from 'sharp';
import { readMask } from '../evaluation/test-set.js';
import type { ScoreMap } from '../image/heatmap.js';
import { decodeImage, type ImageInput, toBytes } from '../image/decode.js';

/** A small picture as a data URI. */
export interface Thumbnail {
  uri: string;
  width: number;
  height: number;
}

/** A small map whose colours are not known yet: they depend on the maps of all images. */
export interface PackedMap {
  width: number;
  height: number;
  low: number;
  high: number;
  /** Base64 of a byte a pixel: the square root of its height above `low`, over that of `high`. */
  bytes: string;
}

/** Longest side of a thumbnail of a photograph, and of a map, which is smooth. */
const photoSide = 320;
const mapSide = 256;

export async function encode(image: sharp.Sharp, options: sharp.WebpOptions): Promise<Thumbnail> {
  const { data, info } = await image.webp(options).toBuffer({ resolveWithObject: true });
  return { uri: `data:image/webp;base64,${data.toString('base64')}`, width: info.width, height: info.height };
}

const fitted = (image: sharp.Sharp): sharp.Sharp =>
  image.resize({ width: photoSide, height: photoSide, fit: 'inside', withoutEnlargement: true });

/** The image as the model sees it: upright, its first page, without alpha. */
export async function photoThumbnail(input: ImageInput, limitInputPixels?: number): Promise<Thumbnail> {
  const { data, width, height, channels } = await decodeImage(input, { channels: 3, limitInputPixels });
  const bytes = data instanceof Uint16Array ? await toBytes(data) : data;
  return encode(fitted(sharp(bytes, { raw: { width, height, channels }, limitInputPixels: false })), { quality: 75 });
}

/** A thumbnail of an encoded picture, such as an overlay. */
export function encodedThumbnail(encoded: Buffer): Promise<Thumbnail> {
  return encode(fitted(sharp(encoded, { limitInputPixels: false })), { quality: 75 });
}

interface Grid {
  data: ArrayLike<number>;
  width: number;
  height: number;
}

/** Shrinks by the largest value of each cell: a defect of a few pixels stays visible. NaN counts as nothing. */
export function shrink({ data, width, height }: Grid, side: number): ScoreMap {
  const scale = Math.min(1, side / Math.max(width, height));
  const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  const small = new Float32Array(w * h).fill(-Infinity);
  for (let y = 0; y < height; y++) {
    const row = Math.floor((y * h) / height) * w;
    for (let x = 0; x < width; x++) {
      const at = row + Math.floor((x * w) / width);
      const value = data[y * width + x] as number;
      if (value > (small[at] as number)) small[at] = value;
    }
  }
  return { data: small, width: w, height: h };
}

/** A mask in black and white. */
export async function maskThumbnail(file: string, limitInputPixels?: number): Promise<Thumbnail> {
  const { data, width, height } = shrink(await readMask(file, { limitInputPixels }), photoSide);
  const image = sharp(
    Uint8Array.from(data, (value) => 255 * value),
    { raw: { width, height, channels: 1 } },
  );
  return encode(image, { lossless: true });
}

export function packMap(map: ScoreMap): PackedMap {
  const { data, width, height } = shrink(map, mapSide);
  let [low, high] = [Infinity, -Infinity];
  for (const value of data) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) [low, high] = [0, 0]; // no value is finite
  const span = high > low ? high - low : 1;
  // The root spends most of the 256 steps near the bottom, where the maps of good images lie.
  const bytes = Uint8Array.from(data, (value) => 255 * Math.sqrt(Math.min(1, Math.max(0, value - low) / span)) + 0.5);
  return { width, height, low, high, bytes: Buffer.from(bytes).toString('base64') };
}

/** 256 colours, dark to bright, as RGB triples. */
export async function palette(): Promise<Uint8Array> {
  const { interpolateInferno } = await import('d3-scale-chromatic');
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) table.set(Buffer.from(interpolateInferno(i / 255).slice(1), 'hex'), 3 * i);
  return table;
}

/** Colours a map: the darkest colour at `range[0]` and below, the brightest at `range[1]` and above. */
export function mapThumbnail(map: PackedMap, range: [number, number], colours: Uint8Array): Promise<Thumbnail> {
  const { width, height, low, high } = map;
  const span = range[1] > range[0] ? range[1] - range[0] : 1;
  const colourOf = Uint8Array.from({ length: 256 }, (_, byte) => {
    const value = low + (byte / 255) ** 2 * (high - low);
    return Math.round(255 * Math.min(1, Math.max(0, (value - range[0]) / span)));
  });
  const out = new Uint8Array(3 * width * height);
  Buffer.from(map.bytes, 'base64').forEach((byte, i) => {
    const colour = 3 * (colourOf[byte] as number);
    out.set(colours.subarray(colour, colour + 3), 3 * i);
  });
  return encode(sharp(out, { raw: { width, height, channels: 3 } }), { quality: 75 });
}

/** The colours of the maps for a style sheet, dark to bright. */
export async function gradient(): Promise<string> {
  const { interpolateInferno } = await import('d3-scale-chromatic');
  return Array.from({ length: 9 }, (_, i) => interpolateInferno(i / 8)).join(', ');
}
