import sharp from 'sharp';
import { z } from 'zod';
import type { StoredConfig } from '../config/config.js';
import { DdadError, optionError, toDdadError } from '../base/errors.js';
import type { RawImage } from '../image/decode.js';
import {
  callNative,
  type CancelToken,
  type NativeDetector,
  type NativeImage,
  type NativeReconstruction,
} from '../engine/native.js';
import { lacksGaussian } from '../model/scored-as.js';
import { inSlices } from '../base/slices.js';

const whole = (min: number, max: number) => z.number().int().min(min).max(max);
const onProgress = z
  .custom<(progress: ReconstructProgress) => void>((value) => typeof value === 'function', {
    error: 'expected a function',
  })
  .optional();

const chain = {
  respacing: z.string().min(1).nullable().optional(),
  eta: z.number().min(0).max(1).optional(),
  seed: whole(0, Number.MAX_SAFE_INTEGER).optional(),
  previews: whole(0, 1000).optional(),
  product: z.string().optional(),
  onProgress,
  signal: z.instanceof(AbortSignal).optional(),
};

export const reconstructMethods = ['gradient', 'ddpm', 'ddim'] as const;

export const reconstructOptions = z.strictObject({
  ...chain,
  method: z.enum(reconstructMethods).optional(),
  step: whole(0, 999_999).optional(),
  rounds: whole(1, 100_000).optional(),
  gradientSteps: whole(1, 1000).optional(),
  stepSize: z.number().gt(0).lt(1).optional(),
  limitInputPixels: whole(1, Number.MAX_SAFE_INTEGER).optional(),
  transfer: z.boolean().optional(),
});

export const sampleOptions = z.strictObject({
  ...chain,
  method: z.enum(['ddpm', 'ddim']).optional(),
  count: whole(1, 64).optional(),
  first: whole(0, 1_000_000).optional(),
  width: whole(1, 4096).optional(),
  height: whole(1, 4096).optional(),
});

/**
 * How an image is taken back to what the model knows of good ones.
 *
 * - `method`, `gradient` where the model can and else `ddim`: `gradient`, the paper's Algorithm 1, rounds of steps down the gradient of the distance from good features,
 *   each followed by one denoising step (needs a model with a Gaussian, see {@link Detector.fitPadim}); `ddpm` or `ddim`,
 *   the reverse process from the image noised to `step`.
 * - `respacing`: of the chain: how many steps are kept of the model's (`"250"`), of each part (`"10,15,20"`), or a fixed
 *   stride (`"ddim50"`); null for all. `step` counts in what is left: where the chain begins (50), or the step that
 *   denoises (8).
 * - `eta`: of `ddim`: 0 adds no noise (0).
 * - `rounds` (100), `gradientSteps` of each (5), and `stepSize` (0.02): of `gradient`.
 * - `seed`: of the noise; the same seed gives the same result (0).
 * - `previews`: so many images of the way there, evenly spread (0).
 * - `transfer`: takes the memory of given images over instead of copying it, as in {@link ScoreOptions}.
 */
export type ReconstructOptions = z.infer<typeof reconstructOptions>;

/** Of images made of noise: `count` of them (1), of the size that the model was trained at; the rest as above. */
export type SampleOptions = z.infer<typeof sampleOptions>;

export interface ReconstructProgress {
  /** Steps (rounds, method `gradient`) done, of `steps`. */
  step: number;
  steps: number;
  done: number;
  /** Mean distance of the images from good ones; null unless the method is `gradient`. */
  distance: number | null;
  elapsedMs: number;
  remainingMs: number;
}

/** An image on the way: pixels in 0..1 at the size at which the network sees the image. */
export interface ReconstructedImage extends RawImage {
  data: Float32Array;
  channels: 1 | 3;
}

/** A reconstruction, or a sample. A clone of it (`structuredClone`, `postMessage`) has all but `png`. */
export class Reconstruction {
  readonly image: ReconstructedImage;
  /** Images of the way there, as many as `previews`, each with the steps done. */
  readonly trajectory: readonly { step: number; image: ReconstructedImage }[];
  /** The distance from good features during each round; empty unless the method is `gradient`. */
  readonly distances: readonly number[];
  readonly #size: Size;

  /** Reconstructions come from `Detector.reconstruct` and `Detector.sample`. */
  constructor(
    { image, trajectory, distances }: Pick<Reconstruction, 'image' | 'trajectory' | 'distances'>,
    size: Size,
  ) {
    this.image = image;
    this.trajectory = trajectory;
    this.distances = distances;
    this.#size = size;
  }

  /** Such an image (this one, where none is given) as a PNG of 8 bits, brought to the size of the original. */
  png(image: ReconstructedImage = this.image): Promise<Buffer> {
    return toPng(image, this.#size);
  }
}

interface Size {
  width: number;
  height: number;
}

/** PNG of an image in 0..1, resized. */
async function toPng({ data, width, height, channels }: ReconstructedImage, size: Size): Promise<Buffer> {
  const bytes = new Uint8Array(data.length);
  await inSlices(data.length, (from, to) => {
    for (let i = from; i < to; i++) bytes[i] = Math.round(255 * (data[i] as number));
  });
  let image = sharp(bytes, { raw: { width, height, channels } });
  if (size.width !== width || size.height !== height) image = image.resize(size.width, size.height, { fit: 'fill' });
  return (channels === 1 ? image.toColourspace('b-w') : image).png().toBuffer();
}

type Common = Pick<ReconstructOptions, 'previews' | 'onProgress' | 'signal'>;

/** Of a model without diffusion steps enough for the published chain, all of them. */
const usualRespacing = ({ diffusion }: StoredConfig): string | null => (diffusion.steps >= 250 ? '250' : null);

/** Gradient steps where the model has the Gaussian that they need. */
const defaultMethod = ({ padim }: StoredConfig): (typeof reconstructMethods)[number] => (padim ? 'gradient' : 'ddim');

/** The engine's options, as JSON. Throws ERR_OPTION. */
function engineOptions(config: StoredConfig, given: ReconstructOptions, usualStep: number | null): string {
  const { method = defaultMethod(config), eta, rounds, gradientSteps, stepSize, seed } = given;
  const refuse = (name: string, message: string): never => {
    throw new DdadError('ERR_OPTION', `option "${name}": ${message}`);
  };
  if (method === 'gradient' && !config.padim) refuse('method', lacksGaussian);
  if (method !== 'ddim' && eta !== undefined) refuse('eta', `goes with method "ddim" only, got "${method}"`);
  for (const [name, value] of Object.entries({ rounds, gradientSteps, stepSize })) {
    if (method !== 'gradient' && value !== undefined) refuse(name, `goes with method "gradient" only, got "${method}"`);
  }
  const respacing = given.respacing === undefined ? usualRespacing(config) : given.respacing;
  return JSON.stringify({
    method,
    respacing: respacing ?? '',
    step: given.step ?? usualStep,
    eta: eta ?? 0,
    seed: seed ?? 0,
    ...(rounds === undefined ? {} : { rounds }),
    ...(gradientSteps === undefined ? {} : { gradientSteps }),
    ...(stepSize === undefined ? {} : { stepSize }),
  });
}

/** The engine's tile where the configuration has none. */
const usualTile = 256;

/** Refuses an image before it is decoded that the engine would refuse afterwards. Throws ERR_IMAGE. */
export function checkWhole({ input, score }: StoredConfig, width: number, height: number): void {
  const tile = Number(score['tile'] ?? usualTile);
  const most = 4 * tile * tile;
  if (input.mode === 'resize' || width * height <= most) return;
  throw new DdadError(
    'ERR_IMAGE',
    `image: a reconstruction takes an image whole, at most ${most} pixels (${2 * tile} x ${2 * tile}), got ${width} x ` +
      `${height}; give it the part that matters`,
  );
}

/** Reconstructs images of one size and product together. Throws ERR_OPTION, ERR_IMAGE, ERR_MEMORY, ERR_ABORTED. */
export function reconstructImages(
  native: NativeDetector,
  config: StoredConfig,
  images: NativeImage[],
  given: ReconstructOptions,
): Promise<Reconstruction[]> {
  const engine = engineOptions(config, given, (given.method ?? defaultMethod(config)) === 'gradient' ? 8 : 50);
  const sizes = images.map(({ width, height, outWidth = width, outHeight = height }) => ({
    width: outWidth,
    height: outHeight,
  }));
  return runChain(native, given, sizes, (token) => native.reconstruct(images, engine, token));
}

/** Makes images of noise. */
export function sampleImages(
  native: NativeDetector,
  config: StoredConfig,
  label: number | undefined,
  given: SampleOptions,
): Promise<Reconstruction[]> {
  const { method = 'ddpm', respacing, eta, seed } = given;
  const chosen = JSON.parse(engineOptions(config, { method, respacing, eta, seed }, null)) as object;
  const { count = 1, first = 0, width = config.input.size, height = config.input.size } = given;
  const engine = JSON.stringify({ ...chosen, count, first, width, height, label: label ?? -1 });
  const sizes = Array.from({ length: count }, () => ({ width, height }));
  return runChain(native, given, sizes, (token) => native.sample(engine, token));
}

/** The steps after which images are kept, the last one always. */
export function previewSteps(steps: number, previews: number): Set<number> {
  const kept = new Set<number>([steps]);
  for (let i = 1; i <= previews; i++) kept.add(Math.max(1, Math.round((i * steps) / previews)));
  return kept;
}

/** Runs a reconstruction a step at a time; other calls have their turn in between, and so has an abort. */
async function runChain(
  native: NativeDetector,
  { previews = 0, onProgress, signal }: Common,
  sizes: readonly Size[],
  begin: (token: CancelToken) => Promise<string>,
): Promise<Reconstruction[]> {
  const begun = await callNative(signal, begin).catch((error: unknown) => {
    throw optionError(error);
  });
  const { id, steps, images: count, width, height, channels } = JSON.parse(begun) as NativeReconstruction;
  const elements = width * height * channels;
  const kept = previewSteps(steps, previews);
  const results = Array.from({ length: count }, () => ({
    trajectory: [] as { step: number; image: ReconstructedImage }[],
    distances: [] as number[],
  }));
  const start = performance.now();
  let last = new Float32Array();
  try {
    for (let step = 1; step <= steps; step++) {
      const floats = kept.has(step) ? count * elements : 0;
      const { distances, pixels } = await callNative(signal, (token) => native.advance(id, floats, token));
      if (pixels) last = pixels as Float32Array<ArrayBuffer>;
      for (const [i, one] of results.entries()) {
        if (pixels && previews > 0) one.trajectory.push({ step, image: imageAt(last, i) });
        if (distances.length > 0) one.distances.push(distances[i] as number);
      }
      const elapsedMs = performance.now() - start;
      const distance = distances.length > 0 ? distances.reduce((sum, d) => sum + d, 0) / distances.length : null;
      const done = step / steps;
      onProgress?.({ step, steps, done, distance, elapsedMs, remainingMs: elapsedMs * (1 / done - 1) });
    }
  } finally {
    await native.endReconstruction(id).catch((error: unknown) => {
      if (toDdadError(error).code !== 'ERR_DISPOSED') throw error; // a disposed detector has ended it
    });
  }
  return results.map((one, i) => new Reconstruction({ image: imageAt(last, i), ...one }, sizes[i] as Size));

  function imageAt(pixels: Float32Array, i: number): ReconstructedImage {
    return { data: pixels.subarray(i * elements, (i + 1) * elements), width, height, channels };
  }
}
