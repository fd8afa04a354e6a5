import { pixelSize, type StoredConfig } from './config.js';
import { decodeImage, type ImageInput, resizePixels } from './image.js';
import { addon, callNative, type NativeDetector, type NativeImage, type NativeScore } from './native.js';

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
  return { ...seen, ...own, ...(label === undefined ? {} : { label }), ...(residuals ? { residuals } : {}) };
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
