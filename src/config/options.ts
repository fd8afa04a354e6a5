import { z } from 'zod';
import { DdadError, type DdadErrorCode } from '../base/errors.js';
import { presetNames } from './presets.js';
import { didYouMean } from '../base/suggest.js';

const whole = (min: number, max: number = Number.MAX_SAFE_INTEGER) => z.number().int().min(min).max(max);
export const topPixels = z.union(
  [z.strictObject({ count: whole(1) }), z.strictObject({ share: z.number().gt(0).max(1) })],
  {
    error: 'expected { count: a number of pixels } or { share: above 0, at most 1 }',
  },
);
const deviceName = z.union([z.enum(['auto', 'cpu', 'cuda']), z.templateLiteral(['cuda:', z.number().int().min(0)])], {
  error: 'expected auto, cpu, cuda or cuda:N (the GPU of that number)',
});
const precisionName = z.enum(['float32', 'tf32', 'bf16']);

/**
 * Which device computes, how many threads of the CPU it may use (0: all), and what products are computed in: a CPU has
 * float32; a GPU also tf32 (float32 rounded to 11 bits for products) and bf16 (8 bits, activations too).
 */
export const deviceOptions = z.strictObject({
  device: deviceName.optional(),
  threads: whole(0, 1024).optional(),
  precision: precisionName.optional(),
});

const unetOptions = z.strictObject({
  modelChannels: whole(32, 1024).multipleOf(32).optional(),
  channelMult: z.array(whole(1, 16)).min(1).max(8).optional(),
  numResBlocks: whole(1, 8).optional(),
  attentionResolutions: z.array(whole(1)).max(8).optional(),
  numHeadChannels: whole(8, 512).optional(),
});

const trainerOptions = z.strictObject({
  preset: z.enum(presetNames).optional(),
  mode: z.enum(['resize', 'crop']).optional(),
  size: whole(8, 2048).optional(),
  channels: z.enum(['auto', 'gray', 'rgb']).optional(),
  unet: unetOptions.optional(),
  schedule: z.enum(['linear', 'cosine']).optional(),
  loss: z.enum(['rescaled_mse', 'mse']).optional(),
  steps: whole(1).optional(),
  batchSize: whole(1, 1024).optional(),
  lr: z.number().gt(0).max(1).optional(),
  weightDecay: z.number().min(0).max(1).optional(),
  ema: z.number().min(0).lt(1).optional(),
  flip: z.enum(['none', 'horizontal', 'vertical', 'both']).optional(),
  rotation: z.number().min(0).max(180).optional(),
  seed: whole(0).optional(),
  holdOut: z.number().gt(0).lt(1).optional(),
  quantile: z.number().gt(0).max(1).optional(),
  scales: z.array(whole(0, 999)).min(1).max(64).optional(),
  scaleIndexing: z.enum(['original', 'respaced']).optional(),
  respacing: z.string().min(1).nullable().optional(),
  normalization: z.enum(['calibration', 'per-image', 'none']).optional(),
  smoothing: z.number().min(0).max(100).optional(),
  topPixels: topPixels.optional(),
  backbone: z.string().min(1).nullable().optional(),
  featureStrides: z
    .array(z.union([z.literal(2), z.literal(4), z.literal(8), z.literal(16)]))
    .min(1)
    .optional(),
  featureScale: whole(1, 4).optional(),
  featureWeight: z.number().min(0).max(1e6).optional(),
  focus: z
    .strictObject({ share: z.number().min(0).max(1), below: whole(1, 1000) })
    .nullable()
    .optional(),
  positions: z.boolean().optional(),
  memoryBank: z
    .strictObject({ patches: whole(1, 1_000_000), weight: z.number().gt(0).max(1) })
    .nullable()
    .optional(),
  earlyStopping: z.boolean().optional(),
  evidence: z
    .strictObject({ rows: whole(1, 1_000_000) })
    .nullable()
    .optional(),
  alpha: z.number().min(0).max(1).optional(),
  init: z.string().min(1).optional(),
  ...deviceOptions.shape,
});

const { size, backbone, featureStrides, featureScale } = trainerOptions.shape;

/** What decides a model that is imported, beside its checkpoint. */
export const importSettings = trainerOptions
  .pick({ preset: true, mode: true, schedule: true, scales: true, scaleIndexing: true, respacing: true })
  .extend({ smoothing: trainerOptions.shape.smoothing, topPixels: topPixels.optional() })
  .extend({ size, backbone, featureStrides, featureScale })
  .extend({
    normalization: z.enum(['per-image', 'none']).optional(),
    diffusionSteps: whole(2, 100_000).optional(),
    prefix: z.string().optional(),
    dropLabels: z.boolean().optional(),
    imageSize: whole(8, 4096).optional(),
    attentionResolutions: z.array(whole(1, 4096)).max(8).optional(),
    numHeads: whole(1, 256).optional(),
    numHeadChannels: whole(1, 4096).optional(),
    useNewAttentionOrder: z.boolean().optional(),
  });

export const scoreKinds = ['ensemble', 'pixel', 'feature', 'rgb', 'padim'] as const;

/** What may differ when a trained model scores. */
export const scoringOptions = trainerOptions
  .pick({ scales: true, normalization: true, smoothing: true, topPixels: true, alpha: true })
  .extend({ kind: z.enum(scoreKinds).optional() });

/**
 * Another way to score with a trained model than that which it was calibrated for. Its threshold does not hold then.
 *
 * - `kind`: what an image is judged by: both scores (`ensemble`, by `alpha`), the `pixel`-level (9) or `feature`-level
 *   (10) score alone, `rgb`, the squared error of the reconstruction, or `padim`, the Mahalanobis distance of the
 *   features from those of good images, which the model must have been fitted on.
 * - `scales`: fewer noise steps of those that the model has; any, where `normalization` is not `calibration`.
 * - `alpha`, `normalization`, `smoothing`, `topPixels`: as in {@link TrainerOptions}.
 */
export type ScoringOptions = z.infer<typeof scoringOptions>;

/**
 * Options of a training run; whatever is left out comes from the preset.
 *
 * - `preset`: size of the network, see {@link presets}; `lite` by default.
 * - `mode`: `crop` for textures (random windows of `size` pixels), `resize` for aligned parts (the whole image).
 * - `channels`: `auto` takes gray when every training image is gray.
 * - `steps`: optimiser steps; a time limit given to `fit` alone means as many as fit in.
 * - `earlyStopping`: training ends by itself when damage in held-back images is separated no better than at half as many
 *   steps; true where no `steps` are given. Decided at 128, 256, 512 … steps, never by the clock.
 * - `flip`: mirrors training samples at random; `rotation`: turns each by a random angle of at most so many degrees, one
 *   way or the other (0). Both only where parts may well lie like that.
 * - `holdOut`: share of the good images kept for calibration and never trained on (0.1).
 * - `quantile`: of the held-back images' scores, becomes the threshold (0.99).
 * - `scales`: noise steps that are scored, of the 1000-step chain (`scaleIndexing: 'original'`) or of the chain
 *   respaced to `respacing` (`'respaced'`).
 * - `backbone`: weights file of the pretrained network whose features are predicted (EfficientNet-Lite0 to Lite4, B0 to
 *   B7; docs/backbones.md), or `lite1` or `lite2` of the package ddad-native-backbones; the package's Lite0 by default, null for none: then there is no feature-level score.
 * - `featureStrides`: which of the backbone's taps (2, 4, 8, 16) make the features; `featureWeight`: of their loss;
 *   `featureScale`: how many times finer than the UNet the backbone sees the image (1 to 4).
 * - `focus`: so many of the training samples (`share`) have a time step below `below`, near the scales that are scored;
 *   null for none, as published.
 * - `positions`: calibration gives every place of the image statistics of its own (mode `resize` only). Left out, 8
 *   held-back images or more decide: places are left out where the ensemble tells damage in good images better without.
 * - `memoryBank`: the model keeps the feature residuals of so many patches of good images; in the feature-level score the
 *   distance to the nearest of them has the weight `weight`, the published distance to zero the rest. Null for none.
 * - `evidence`: the model keeps features of good images as well, `rows` a bank (4 000), and the score of an image is made of
 *   the ensemble (11) and of how far its features are from those, see {@link EvidenceName}. Null for the ensemble alone.
 *   With normalization `calibration` only; needs a backbone with a tap at stride 16.
 * - `alpha`: weight of the pixel-level score in the ensemble (11), 0 to 1; the feature-level score has the rest.
 * - `topPixels`: the image score is the mean over this number or share of the largest map values (64).
 * - `init`: a model file to start from, made by `importModel` or by training. The network and its chain are then that
 *   model's, its input is the default; a feature head that it does not have, or of another backbone, is fresh.
 */
export type TrainerOptions = z.infer<typeof trainerOptions>;
export type TopPixels = z.infer<typeof topPixels>;
export type DeviceOptions = z.infer<typeof deviceOptions>;

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
}

/** Options of earlier versions, and what they are called now. */
export const renamedOptions: Record<string, string> = { memory: 'memoryBank' };

function describe(issue: z.core.$ZodIssue, value: unknown, known: readonly string[]): string {
  const name = issue.path.map(String).join('.');
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0] ?? '';
    const now = Object.hasOwn(renamedOptions, key) ? renamedOptions[key] : undefined;
    const meant = now !== undefined && known.includes(now) ? `; did you mean "${now}"?` : didYouMean(key, known);
    return `unknown option "${name ? `${name}.` : ''}${key}"${meant}`;
  }
  const came = valueAt(value, issue.path);
  const text = JSON.stringify(came) ?? String(came);
  const expected = issue.message.replace(/^(Invalid|Too) \w+: /, '').replace(/, received .*$/, '');
  return `${name ? `option "${name}"` : 'options'}: ${expected}, got ${text.length > 80 ? `${text.slice(0, 80)}…` : text}`;
}

/** Checks a value; throws an error of `code`, its message beginning with `what`, that names what is wrong first. */
export function parse<T>(schema: z.ZodType<T>, value: unknown, code: DdadErrorCode, what = ''): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0] as z.core.$ZodIssue;
  const known = schema instanceof z.ZodObject && issue.path.length === 0 ? Object.keys(schema.shape) : [];
  throw new DdadError(code, what + describe(issue, value, known));
}

/** Checks options given by a caller; throws ERR_OPTION naming the first that is unknown or out of range. */
export function parseOptions<T>(schema: z.ZodType<T>, value: unknown): T {
  return parse(schema, value, 'ERR_OPTION');
}

/** The same without the keys whose value is undefined, which would hide a default. */
export function defined<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}

export function parseTrainerOptions(value: unknown): TrainerOptions {
  return defined(parseOptions(trainerOptions, value));
}
