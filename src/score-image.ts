import { pixelSize, type StoredConfig } from './config.js';
import { decodeImage, type ImageInput, resizePixels } from './image.js';
import {
  addon,
  callNative,
  type NativeDetector,
  type NativeImage,
  type NativeScore,
  type PixelArray,
} from './native.js';
import { inSlices } from './slices.js';

export interface PrepareOptions {
  limitInputPixels?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Maps of the size at which the model sees the image, instead of the image's own. */
  networkSize?: boolean;
  /** Whether the result carries the residuals of its features. */
  residuals?: boolean;
  /** Of the image's product in a unified model. */
  label?: number | undefined;
}

/** Values that are copied between two looks at the clock are 2048 times as many: a megabyte at most in 16 bits. */
const block = 256;

/** Copies the pixels of a large image to the engine in slices, which calls of the engine do in one piece. */
async function handOver(image: NativeImage, data: PixelArray, signal?: AbortSignal): Promise<NativeImage> {
  if (data.byteLength <= 2 ** 20) return image;
  const { PixelBuffer, release } = addon();
  const buffer = new PixelBuffer(data.byteLength);
  const append = (from: number, to: number): void => buffer.append(data.subarray(block * from, block * to));
  await inSlices(Math.ceil(data.length / block), append, signal);
  release(data);
  return { ...image, data: buffer };
}

/** Decodes an image to what the model takes in. Throws ERR_IMAGE, ERR_ABORTED. */
export async function prepareImage(
  config: Pick<StoredConfig, 'input' | 'features'>,
  image: ImageInput,
  options: PrepareOptions,
): Promise<NativeImage> {
  const { input } = config;
  const { label, residuals, signal, limitInputPixels } = options;
  const pixels = await decodeImage(image, { channels: input.channels, limitInputPixels, signal });
  const seen = input.mode === 'resize' ? await resizePixels(pixels, pixelSize(config)) : pixels;
  if (seen !== pixels) addon().release(pixels.data);
  const own = options.networkSize ? {} : { outWidth: pixels.width, outHeight: pixels.height };
  const prepared = { ...seen, ...own, ...(label === undefined ? {} : { label }), ...(residuals ? { residuals } : {}) };
  return handOver(prepared, seen.data, signal);
}

/** Decodes and scores one image as the configuration says. */
export async function scoreImage(
  native: NativeDetector,
  config: Pick<StoredConfig, 'input' | 'features'>,
  image: ImageInput,
  options: PrepareOptions,
): Promise<NativeScore> {
  const prepared = await prepareImage(config, image, options);
  return callNative(options.signal, (token) => native.score(prepared, token));
}
