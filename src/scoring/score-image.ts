import type { Claim } from '../image/memory-budget.js';
import { pixelSize, type StoredConfig } from '../config/config.js';
import { throwIfAborted } from '../base/errors.js';
import { decodeImage, type ImageInput, type Pixels, resizePixels } from '../image/decode.js';
import type { FileState } from '../image/image-file.js';
import { mapBytes, workBytes } from './scoring-cost.js';
import {
  addon,
  callNative,
  type NativeDetector,
  type NativeImage,
  type NativeScore,
  type PixelArray,
} from '../engine/native.js';
import { inSlices } from '../base/slices.js';

export interface PrepareOptions {
  limitInputPixels?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Maps of the size at which the model sees the image, instead of the image's own. */
  networkSize?: boolean;
  /** Whether the result carries the residuals of its features. */
  residuals?: boolean;
  /** Whether it carries what evidence is fitted on. */
  features?: boolean;
  /** Whether it carries nothing else. */
  featuresOnly?: boolean;
  /** Of the image's product in a unified model. */
  label?: number | undefined;
  /** Takes the memory that the image needs; afterwards it has what the prepared image and its maps take. */
  claim?: Claim | undefined;
  /** Told of the file that is read, where the image is given by its path. */
  onFile?: ((state: FileState) => void) | undefined;
  /** Called with the size of the image before it is decoded; may throw. */
  onSize?: ((width: number, height: number) => void) | undefined;
  /** Whether the engine makes no maps of it. */
  noMaps?: boolean;
  /** Shows what the model takes in in another way, of the same size. */
  view?: ((pixels: Pixels) => Float32Array) | undefined;
}

type ScoredConfig = Pick<StoredConfig, 'input' | 'features' | 'score'>;

/** Values that are copied between two looks at the clock are 2048 times as many: a megabyte at most in 16 bits. */
const block = 256;

/** Copies the pixels of a large image to the engine in slices, which calls of the engine do in one piece. */
async function copyToEngine(image: NativeImage, data: PixelArray, signal?: AbortSignal): Promise<NativeImage> {
  if (data.byteLength <= 2 ** 20) return image;
  const { PixelBuffer, release } = addon();
  const buffer = new PixelBuffer(data.byteLength);
  const append = (from: number, to: number): void => buffer.append(data.subarray(block * from, block * to));
  await inSlices(Math.ceil(data.length / block), append, signal);
  release(data);
  return { ...image, data: buffer };
}

/** Brings decoded pixels to what the model takes in, and lets go of them where something else comes of them. */
async function fitTo(
  config: Pick<StoredConfig, 'input' | 'features'>,
  pixels: Pixels,
  signal: AbortSignal | undefined,
): Promise<Pixels> {
  try {
    throwIfAborted(signal);
    if (config.input.mode !== 'resize') return pixels;
    const seen = await resizePixels(pixels, pixelSize(config), signal);
    if (seen !== pixels) addon().release(pixels.data);
    return seen;
  } catch (error) {
    addon().release(pixels.data);
    throw error;
  }
}

/** Decodes an image to what the model takes in. Throws ERR_IMAGE, ERR_MEMORY, ERR_ABORTED. */
export async function prepareImage(
  config: ScoredConfig,
  image: ImageInput,
  options: PrepareOptions,
): Promise<NativeImage> {
  const { input } = config;
  const { label, residuals, features, featuresOnly, signal, limitInputPixels, claim, onFile, onSize, noMaps, view } =
    options;
  const before = claim?.held ?? 0;
  /** What the engine holds of it, with its maps. */
  const after = (seen: number, pixels: number): number => {
    if (noMaps) return seen;
    return seen + mapBytes(config, pixels) + (input.mode === 'resize' ? 0 : workBytes(config, pixels));
  };
  const side = pixelSize(config);
  const later = ({ width, height, bytes }: { width: number; height: number; bytes: number }): number => {
    onSize?.(width, height);
    const pixels = width * height;
    const resized = input.mode === 'resize';
    const seen = resized ? (bytes / pixels) * side * side : bytes;
    // 16 bits may be scaled as 8
    const half = resized && bytes > input.channels * pixels ? bytes / 2 : 0;
    return Math.max(bytes + half + seen, after(seen, pixels)); // all are there at first
  };
  const decoded = await decodeImage(image, {
    channels: input.channels,
    limitInputPixels,
    signal,
    claim,
    later,
    onFile,
  });
  const { width, height } = decoded;
  const seen = await fitTo(config, decoded, signal);
  const outputSize = options.networkSize ? {} : { outWidth: width, outHeight: height };
  const data = view ? view(seen) : seen.data;
  const prepared = {
    ...seen,
    data,
    ...outputSize,
    ...(label === undefined ? {} : { label }),
    ...(residuals ? { residuals } : {}),
    ...(features ? { features } : {}),
    ...(featuresOnly ? { featuresOnly } : {}),
  };
  const bytes = seen.data.byteLength;
  try {
    const handed = await copyToEngine(prepared, data, signal);
    claim?.shrink((typeof image === 'string' ? 0 : before) + after(bytes, width * height));
    return handed;
  } catch (error) {
    addon().release(seen.data);
    throw error;
  }
}

/** Decodes and scores one image as the configuration says. */
export async function scoreImage(
  native: NativeDetector,
  config: ScoredConfig,
  image: ImageInput,
  options: PrepareOptions,
): Promise<NativeScore> {
  const prepared = await prepareImage(config, image, options);
  return callNative(options.signal, (token) => native.score(prepared, token));
}
