import { z } from 'zod';
import type { StoredConfig } from '../config/config.js';
import { toEngineJson } from '../config/engine-json.js';
import { findImages } from '../data/dataset.js';
import { DdadError, optionError } from '../base/errors.js';
import { callNative, type NativeDetector } from '../engine/native.js';
import { productOf, quoted } from '../model/products.js';
import { mapAhead } from '../base/read-ahead.js';
import { prepareImage } from './score-image.js';

const defaultChannels = 100;

export const fitPadimOptions = z.strictObject({
  channels: z.number().int().min(1).max(4096).optional(),
  seed: z.number().int().min(0).optional(),
  places: z.boolean().optional(),
  limitInputPixels: z.number().int().min(1).optional(),
  onProgress: z
    .custom<(progress: FitPadimProgress) => void>((value) => typeof value === 'function', {
      error: 'expected a function',
    })
    .optional(),
  signal: z.instanceof(AbortSignal).optional(),
});

/**
 * - `channels`: of the features, chosen by `seed` (100, or all where there are fewer; seed 0). The Gaussian takes
 *   `channels`² · 4 bytes a place, and while it is fitted as much again in float64.
 * - `places`: a Gaussian for each place of the image, for aligned parts, or one for all, for textures; by default as the
 *   model takes images in: whole (true) or in crops (false).
 */
export type FitPadimOptions = z.infer<typeof fitPadimOptions>;

export interface FitPadimProgress {
  /** Images seen, of `steps`. */
  step: number;
  steps: number;
  done: number;
  elapsedMs: number;
  remainingMs: number;
}

/**
 * Fits the Gaussian of the features on the good images of a dataset, in one pass, for each product of a unified model;
 * the detector then has it. Returns the configuration with `padim`. Throws ERR_DATASET, ERR_IMAGE, ERR_OPTION,
 * ERR_MEMORY, ERR_NUMERIC, ERR_ABORTED.
 */
export async function fitPadim(
  native: NativeDetector,
  config: StoredConfig,
  dataset: string,
  options: FitPadimOptions,
): Promise<StoredConfig> {
  const { channels = defaultChannels, seed = 0, limitInputPixels, onProgress, signal } = options;
  const places = options.places ?? config.input.mode === 'resize';
  if (!config.features) {
    throw new DdadError('ERR_OPTION', 'fit-padim: expected a model with features, got one that was trained without');
  }
  if (places && config.input.mode !== 'resize') {
    throw new DdadError('ERR_OPTION', 'option "places": goes with a model of mode "resize" only, got "crop"');
  }
  const { products } = await findImages(dataset);
  const names = products.map(({ name }) => name);
  if (config.products ? names.some((name) => name === null) : names.some((name) => name !== null)) {
    const expected = config.products ? `folders of its products, ${quoted(config.products)}` : 'those of one product';
    throw new DdadError('ERR_DATASET', `${dataset}: expected good images in ${expected}`);
  }
  const lacking = config.products?.find((name) => !names.includes(name));
  if (lacking !== undefined) throw new DdadError('ERR_DATASET', `${dataset}: no good images of "${lacking}"`);
  const steps = products.reduce((sum, { files }) => sum + files.length, 0);
  const start = performance.now();
  let step = 0;
  let padim: StoredConfig['padim'] = null;
  const engine = JSON.stringify({ channels, seed, pooled: !places });
  const call = <T>(run: () => Promise<T>): Promise<T> =>
    callNative(signal, run).catch((error: unknown) => {
      throw optionError(error);
    });
  for (const { name, files } of products) {
    const { label } = productOf(config, name ?? undefined);
    await call(() => native.beginGaussian(engine));
    const prepare = (file: string, inner: AbortSignal) =>
      prepareImage(config, file, { limitInputPixels, signal: inner, label });
    for await (const image of mapAhead(files, prepare, { ahead: 2, signal })) {
      await callNative(signal, (token) => native.observeGaussian(image, token));
      const done = ++step / steps;
      const elapsedMs = performance.now() - start;
      onProgress?.({ step, steps, done, elapsedMs, remainingMs: elapsedMs * (1 / done - 1) });
    }
    padim = JSON.parse(await call(() => native.finishGaussian(label ?? 0))) as StoredConfig['padim'];
  }
  const next = { ...config, padim: padim && { ...padim, images: steps } };
  await call(() => native.setConfig(toEngineJson(next)));
  return next;
}
