import { types } from 'node:util';
import sharp from 'sharp';
import type { Claim } from './memory-budget.js';
import { DdadError, kindOf, messageOf, throwIfAborted } from '../base/errors.js';
import { decodingBytes } from './decoding-cost.js';
import { type FileState, withImageFile } from './image-file.js';
import { drawingIn, formatOf, headBytes, type ImageFormat } from './format.js';
import { addon } from '../engine/native.js';
import { inSlices } from '../base/slices.js';

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
export type ImageInput = string | Uint8Array | ArrayBuffer | SharedArrayBuffer | RawImage;

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
  /** Told of the file that is read, where the image is given by its path. May throw. */
  onFile?: ((state: FileState) => void) | undefined;
  /** Takes the memory that the image needs before it is taken. */
  claim?: Claim | undefined;
  /** Bytes that will be needed with the decoded pixels, and after them. */
  later?: ((pixels: { width: number; height: number; bytes: number }) => number) | undefined;
}

export const defaultPixelLimit = 100_000_000;

/** File names that are looked at in a folder. */
export const imageExtensions = /\.(png|jpe?g|tiff?|webp|bmp|gif|avif)$/i;

/** How an image is called in messages. */
export function imageName(input: ImageInput): string {
  return typeof input === 'string' ? input : 'the image';
}

function imageError(name: string, why: string, cause?: unknown): DdadError {
  return new DdadError('ERR_IMAGE', `${name}: ${why}`, { cause });
}

function checkLimit(width: number, height: number, limit: number, name: string): void {
  if (width * height > limit) {
    throw imageError(name, `expected at most ${limit} pixels (limitInputPixels), got ${width} x ${height}`);
  }
}

/** A view of this context over the same memory: arrays of other contexts (vm, test runners) are no instances of ours. */
const bytesOf = ({ buffer, byteOffset, length }: Uint8Array | Uint8ClampedArray): Uint8Array =>
  new Uint8Array(buffer, byteOffset, length);

/** What callers without types give in the place of an image. */
function mistaken(input: unknown): string {
  const kind = kindOf(input);
  if (input instanceof URL) return `${kind}, of which fileURLToPath makes a path`;
  return /^an object$/i.test(kind) ? 'an object without data' : kind;
}

/** Whether an image is given as pixels. Throws ERR_IMAGE for what cannot be an image. */
export function isRaw(input: ImageInput): input is RawImage {
  if (typeof input === 'string' || types.isUint8Array(input) || types.isAnyArrayBuffer(input)) return false;
  if (typeof input === 'object' && input !== null && 'data' in input) return true;
  throw imageError('the image', `expected a path, an encoded image or pixels, got ${mistaken(input)}`);
}

/** The bytes of an encoded image. */
export const encodedView = (input: Uint8Array | ArrayBuffer | SharedArrayBuffer): Uint8Array =>
  types.isAnyArrayBuffer(input) ? new Uint8Array(input) : bytesOf(input);

function viewOf(data: unknown): Uint8Array | Uint16Array | Float32Array | undefined {
  if (types.isUint8Array(data) || types.isUint8ClampedArray(data)) return bytesOf(data);
  if (types.isUint16Array(data)) return new Uint16Array(data.buffer, data.byteOffset, data.length);
  if (types.isFloat32Array(data)) return new Float32Array(data.buffer, data.byteOffset, data.length);
  return undefined;
}

/** Checks pixels that a caller gave and returns their values. */
export function checkRaw(input: RawImage, limit = defaultPixelLimit): Uint8Array | Uint16Array | Float32Array {
  const { width, height, channels } = input;
  const name = 'the image';
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw imageError(name, `expected a whole width and height of at least 1, got ${width} x ${height}`);
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
  return data;
}

/** Floats as 16 bits. */
async function toDeep(data: Float32Array, signal: AbortSignal | undefined): Promise<Uint16Array> {
  const deep = new Uint16Array(data.length);
  const convert = (from: number, to: number): void => {
    for (let i = from; i < to; i++) {
      const value = data[i] as number;
      if (!(value >= 0 && value <= 1)) throw imageError('the image', `expected float pixels from 0 to 1, got ${value}`);
      deep[i] = Math.round(value * 65535);
    }
  };
  await inSlices(data.length, convert, signal);
  return deep;
}

/** The format of an encoded image by its first bytes: nothing else is given to sharp. Throws ERR_IMAGE. */
function checkFormat(head: Uint8Array, name: string): ImageFormat {
  if (head.length === 0) throw imageError(name, 'expected an image, got an empty file');
  const format = formatOf(head);
  if (format) return format;
  const drawing = drawingIn(head);
  if (drawing) throw imageError(name, `expected a photograph (PNG, JPEG, TIFF, WebP), got ${drawing}`);
  throw imageError(name, 'not an image that can be read');
}

const open = (bytes: Uint8Array): sharp.Sharp =>
  sharp(bytes, { failOn: 'error', limitInputPixels: false, autoOrient: true });

/** What an opened image's header says. */
async function inspect(
  image: sharp.Sharp,
  expected: ImageFormat,
  name: string,
  limit: number,
): Promise<sharp.Metadata & { deep: boolean }> {
  const metadata = await image.metadata();
  const { format, depth, width, height } = metadata;
  if (format !== expected) throw imageError(name, `expected a photograph (PNG, JPEG, TIFF, WebP), got ${format}`);
  if (depth !== 'uchar' && depth !== 'ushort') {
    throw imageError(name, `expected 8 or 16 bits a channel, got ${depth}`);
  }
  checkLimit(width, height, limit, name);
  return { ...metadata, deep: depth === 'ushort' };
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

/** Takes the memory for decoding an image, and for what comes of it. */
async function admit(
  { claim, later, signal }: DecodeOptions,
  { width, height, bytes, decoding }: { width: number; height: number; bytes: number; decoding: number },
): Promise<void> {
  const most = Math.max(bytes + decoding, later?.({ width, height, bytes }) ?? 0);
  await claim?.admit(most, signal);
  throwIfAborted(signal);
}

async function decodeRaw(input: RawImage, options: DecodeOptions): Promise<Pixels> {
  const { channels, signal, limitInputPixels } = options;
  const given = checkRaw(input, limitInputPixels);
  const { width, height } = input;
  const deep = !(given instanceof Uint8Array);
  const decoding = given instanceof Float32Array ? 2 * given.length : 0;
  await admit(options, { width, height, bytes: (deep ? 2 : 1) * channels * width * height, decoding });
  const data = given instanceof Float32Array ? await toDeep(given, signal) : given;
  const raw = { width, height, channels: input.channels };
  const pixels = await toPixels(sharp(data, { raw, limitInputPixels: false }).removeAlpha(), channels, deep);
  if (data !== given) addon().release(data);
  return pixels;
}

async function decodeBytes(bytes: Uint8Array, name: string, options: DecodeOptions): Promise<Pixels> {
  const { channels, limitInputPixels = defaultPixelLimit } = options;
  const format = checkFormat(bytes.subarray(0, headBytes), name);
  const image = open(bytes);
  const header = await inspect(image, format, name, limitInputPixels);
  const { width, height, deep } = header;
  const out = (deep ? 2 : 1) * channels * width * height;
  await admit(options, { width, height, bytes: out, decoding: decodingBytes(format, header) });
  return toPixels(image.removeAlpha(), channels, deep);
}

/** The bytes of a file, which is not read as a whole unless it begins as an image does. */
const readEncoded = (file: string, { claim, signal, onFile }: DecodeOptions): Promise<Uint8Array> =>
  withImageFile(file, async ({ ino, size, mtimeMs, read }) => {
    onFile?.({ ino, size, mtimeMs });
    checkFormat(await read(headBytes), file);
    await claim?.holdLater(size, signal);
    return read(size);
  });

/**
 * Decodes an image to the model's channels: the first page; turned upright as its EXIF orientation says (as viewers
 * show it); embedded colour profiles and CMYK taken to sRGB; 16 bits kept; alpha dropped. Throws ERR_IMAGE, and what its
 * claim throws. It ends only when its work has ended, aborted or not.
 */
export async function decodeImage(input: ImageInput, options: DecodeOptions): Promise<Pixels> {
  const name = imageName(input);
  throwIfAborted(options.signal);
  try {
    if (isRaw(input)) return await decodeRaw(input, options);
    if (typeof input !== 'string') return await decodeBytes(encodedView(input), name, options);
    const bytes = await readEncoded(input, options);
    try {
      return await decodeBytes(bytes, name, options);
    } finally {
      addon().release(bytes); // nobody else has it
    }
  } catch (error) {
    throw sharpError(error, name);
  }
}

/** Whether 16 bits say no more than 8: every value is one of 8 bits times 257. */
async function holdsBytes(deep: Uint16Array, signal?: AbortSignal): Promise<boolean> {
  let holds = true;
  const look = (from: number, to: number): void => {
    for (let i = from; holds && i < to; i++) holds = ((deep[i] as number) & 255) === (deep[i] as number) >> 8;
  };
  // most photographs of 16 bits show it at once
  look(0, Math.min(deep.length, 1024));
  if (holds) await inSlices(deep.length, look, signal);
  return holds;
}

/**
 * Scales to exactly `size` x `size` (Lanczos), whatever the proportions: aligned parts stay aligned. 8 bits are scaled to
 * 8 bits, so 16 bits that say no more are taken as 8: an image scores the same in either depth.
 */
export const resizePixels = (pixels: Pixels, size: number, signal?: AbortSignal): Promise<Pixels> =>
  resizePixelsTo(pixels, size, size, signal);

/** The same to any size. */
export async function resizePixelsTo(
  pixels: Pixels,
  toWidth: number,
  toHeight: number,
  signal?: AbortSignal,
): Promise<Pixels> {
  const { data, width, height, channels } = pixels;
  if (width === toWidth && height === toHeight) return pixels;
  const deep = data instanceof Uint16Array;
  const bytes = deep && (await holdsBytes(data, signal)) ? await toBytes(data, signal) : undefined;
  const image = sharp(bytes ?? data, { raw: { width, height, channels }, limitInputPixels: false });
  const resized = await toPixels(image.resize(toWidth, toHeight, { fit: 'fill' }), channels, deep && !bytes);
  if (bytes) addon().release(bytes);
  return resized;
}

/** The header of most files lies within these bytes. */
const headerBytes = 2 ** 18;

/** Whether an image file is gray by its format; reads as much as its header needs. Throws ERR_IMAGE when it is no image. */
export async function isGrayFile(file: string, limit = defaultPixelLimit): Promise<boolean> {
  try {
    return await withImageFile(file, async ({ size, read }) => {
      const head = await read(headerBytes);
      const format = checkFormat(head.subarray(0, headBytes), file);
      const look = (bytes: Uint8Array) => inspect(open(bytes), format, file, limit);
      const early = size > headerBytes && (format === 'png' || format === 'jpeg');
      const header = early ? await look(head).catch(async () => look(await read(size))) : await look(await read(size));
      return header.channels <= 2;
    });
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
