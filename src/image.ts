import { types } from 'node:util';
import sharp from 'sharp';
import { DdadError, kindOf, messageOf, throwIfAborted } from './errors.js';
import { NotRegularError, readRegular } from './read-file.js';
import { inSlices } from './slices.js';

/**
 * Interleaved rows: 8 bits, 16 bits, or floats in 0..1 (rounded to 16 bits). Channels: 1 gray, 2 gray and alpha, 3 RGB,
 * 4 RGB and alpha; alpha is dropped.
 */
export interface RawImage {
  data: Uint8Array | Uint8ClampedArray | Uint16Array | Float32Array;
  width: number;
  height: number;
  channels: 1 | 2 | 3 | 4;
}

/** An image file's path, an encoded image, or pixels. */
export type ImageInput = string | Uint8Array | ArrayBuffer | RawImage;

/** Decoded pixels, interleaved, with the channels of the model. */
export interface Pixels {
  data: Uint8Array | Uint16Array;
  width: number;
  height: number;
  channels: 1 | 3;
}

export interface DecodeOptions {
  channels: 1 | 3;
  /** Images with more pixels are refused before they are decoded; 100 megapixels by default. */
  limitInputPixels?: number | undefined;
  signal?: AbortSignal | undefined;
}

export const defaultPixelLimit = 100_000_000;

/** File names that are looked at in a folder. */
export const imageExtensions = /\.(png|jpe?g|tiff?|webp|bmp|gif|avif)$/i;

/** What sharp also opens, but which is no photograph: drawings and documents are refused. */
const refusedFormats = new Set(['svg', 'pdf', 'magick', 'openslide']);

/** How an image is called in messages. */
export function imageName(input: ImageInput): string {
  return typeof input === 'string' ? input : 'the image';
}

function imageError(name: string, why: string, cause?: unknown): DdadError {
  return new DdadError('ERR_IMAGE', `${name}: ${why}`, { cause });
}

async function encodedBytes(input: string | Uint8Array | ArrayBuffer): Promise<Uint8Array> {
  if (typeof input !== 'string') return types.isArrayBuffer(input) ? new Uint8Array(input) : bytesOf(input);
  try {
    return await readRegular(input);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw imageError(input, 'no such file', cause);
    if (cause instanceof NotRegularError) throw imageError(input, `expected an image, got a ${cause.found}`, cause);
    throw imageError(input, `cannot be read: ${messageOf(cause)}`, cause);
  }
}

function checkLimit(width: number, height: number, limit: number, name: string): void {
  if (width * height > limit) {
    throw imageError(name, `expected at most ${limit} pixels (limitInputPixels), got ${width} x ${height}`);
  }
}

function isRaw(input: ImageInput): input is RawImage {
  return !types.isUint8Array(input) && !types.isArrayBuffer(input) && typeof input !== 'string';
}

/** A view of this context over the same memory: arrays of other contexts (vm, test runners) are no instances of ours. */
const bytesOf = ({ buffer, byteOffset, length }: Uint8Array | Uint8ClampedArray): Uint8Array =>
  new Uint8Array(buffer, byteOffset, length);

function viewOf(data: unknown): Uint8Array | Uint16Array | Float32Array | undefined {
  if (types.isUint8Array(data) || types.isUint8ClampedArray(data)) return bytesOf(data);
  if (types.isUint16Array(data)) return new Uint16Array(data.buffer, data.byteOffset, data.length);
  if (types.isFloat32Array(data)) return new Float32Array(data.buffer, data.byteOffset, data.length);
  return undefined;
}

/** Checks pixels that a caller gave and returns them as 8 or 16 bits. */
async function checkRaw(
  input: RawImage,
  limit: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array | Uint16Array> {
  const { width, height, channels } = input;
  const name = 'the image';
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw imageError(name, `expected a width and height of at least 1, got ${width} x ${height}`);
  }
  checkLimit(width, height, limit, name);
  if (![1, 2, 3, 4].includes(channels)) throw imageError(name, `expected 1 to 4 channels, got ${channels}`);
  const data = viewOf(input.data);
  if (!data) {
    const expected = 'expected data as Uint8Array, Uint16Array or Float32Array';
    throw imageError(name, `${expected}, got ${kindOf(input.data)}`);
  }
  if (data.length !== width * height * channels) {
    throw imageError(name, `expected ${width * height * channels} values of data, got ${data.length}`);
  }
  if (!(data instanceof Float32Array)) return data;
  const deep = new Uint16Array(data.length);
  const convert = (from: number, to: number): void => {
    for (let i = from; i < to; i++) {
      const value = data[i] as number;
      if (!(value >= 0 && value <= 1)) throw imageError(name, `expected float pixels from 0 to 1, got ${value}`);
      deep[i] = Math.round(value * 65535);
    }
  };
  await inSlices(data.length, convert, signal);
  return deep;
}

/** Depth of the pixels of an opened image, and whether it is gray by its format. */
async function inspect(image: sharp.Sharp, name: string, limit: number): Promise<{ deep: boolean; gray: boolean }> {
  const { format, depth, width, height, channels } = await image.metadata();
  if (refusedFormats.has(format))
    throw imageError(name, `expected a photograph (PNG, JPEG, TIFF, WebP), got ${format}`);
  if (depth !== 'uchar' && depth !== 'ushort') {
    throw imageError(name, `expected 8 or 16 bits a channel, got ${depth}`);
  }
  checkLimit(width, height, limit, name);
  return { deep: depth === 'ushort', gray: channels <= 2 };
}

async function toPixels(image: sharp.Sharp, channels: 1 | 3, deep: boolean): Promise<Pixels> {
  const space = channels === 1 ? (deep ? 'grey16' : 'b-w') : deep ? 'rgb16' : 'srgb';
  const { data, info } = await image
    .toColourspace(space)
    .raw({ depth: deep ? 'ushort' : 'uchar' })
    .toBuffer({ resolveWithObject: true });
  const pixels = deep ? new Uint16Array(data.buffer, data.byteOffset, data.length / 2) : data;
  return { data: pixels, width: info.width, height: info.height, channels };
}

function sharpError(error: unknown, name: string): DdadError {
  if (error instanceof DdadError) return error;
  const why = messageOf(error).split('\n')[0]?.trim() ?? '';
  if (/unsupported image format/.test(why)) return imageError(name, 'not an image that can be read', error);
  return imageError(name, `damaged or truncated: ${why}`, error);
}

/**
 * Decodes an image to the model's channels: the first page; turned upright as its EXIF orientation says (as viewers
 * show it); embedded colour profiles and CMYK taken to sRGB; 16 bits kept; alpha dropped. Throws ERR_IMAGE.
 */
export async function decodeImage(input: ImageInput, options: DecodeOptions): Promise<Pixels> {
  const { channels, signal, limitInputPixels: limit = defaultPixelLimit } = options;
  const name = imageName(input);
  throwIfAborted(signal);
  if (input === null || (typeof input !== 'string' && typeof input !== 'object')) {
    throw imageError(name, `expected a path, an encoded image or pixels, got ${kindOf(input)}`);
  }
  try {
    if (isRaw(input)) {
      const data = await checkRaw(input, limit, signal);
      const raw = { width: input.width, height: input.height, channels: input.channels };
      const image = sharp(data, { raw, limitInputPixels: false }).removeAlpha();
      return await toPixels(image, channels, data instanceof Uint16Array);
    }
    const bytes = await encodedBytes(input);
    if (bytes.length === 0) throw imageError(name, 'expected an image, got an empty file');
    const image = sharp(bytes, { failOn: 'error', limitInputPixels: false, autoOrient: true });
    const { deep } = await inspect(image, name, limit);
    throwIfAborted(signal);
    return await toPixels(image.removeAlpha(), channels, deep);
  } catch (error) {
    throw sharpError(error, name);
  }
}

/** Scales to exactly `size` x `size` (Lanczos), whatever the proportions: aligned parts stay aligned. */
export const resizePixels = (pixels: Pixels, size: number): Promise<Pixels> => resizePixelsTo(pixels, size, size);

/** The same to any size. */
export async function resizePixelsTo(pixels: Pixels, toWidth: number, toHeight: number): Promise<Pixels> {
  const { data, width, height, channels } = pixels;
  if (width === toWidth && height === toHeight) return pixels;
  const image = sharp(data, { raw: { width, height, channels }, limitInputPixels: false });
  return toPixels(image.resize(toWidth, toHeight, { fit: 'fill' }), channels, data instanceof Uint16Array);
}

/** Whether an image file is gray by its format; reads its header only. Throws ERR_IMAGE when it is no image. */
export async function isGrayFile(file: string, limit = defaultPixelLimit): Promise<boolean> {
  try {
    const bytes = await encodedBytes(file);
    return (await inspect(sharp(bytes, { failOn: 'error', limitInputPixels: false }), file, limit)).gray;
  } catch (error) {
    throw sharpError(error, file);
  }
}

/** 16 bits as 8. */
export async function toBytes(deep: Uint16Array, signal?: AbortSignal): Promise<Uint8Array> {
  const bytes = new Uint8Array(deep.length);
  const convert = (from: number, to: number): void => {
    for (let i = from; i < to; i++) bytes[i] = (deep[i] as number) / 257;
  };
  await inSlices(deep.length, convert, signal);
  return bytes;
}
