import { z } from 'zod';
import { backboneName } from './backbones.js';
import { fromEngineJson } from './engine-json.js';
import { evidenceOf } from './evidence.js';
import { DdadError } from '../base/errors.js';
import { defined, parse, scoreKinds, topPixels, type TrainerOptions } from './options.js';
import { defaultPreset, type Preset, presets } from './presets.js';

const whole = (min: number, max: number) => z.number().int().min(min).max(max);
const count = whole(1, 2 ** 53 - 1);
const seed = whole(0, 2 ** 53 - 1);
const share = z.number().min(0).max(1);
/** A statistic. Beyond this no float32 follows. */
const figure = z.number().min(-1e38).max(1e38);
const perScale = z.array(figure).max(64);

/** Places of a grid over the whole image; the engine has as many at most. */
const gridSide = whole(1, 4096);
const perPlace = z.array(figure).max(4096 * 4096);

// What a file says is bounded as the engine bounds it, so that nothing is made of a number that cannot be.
const commonConfig = z.looseObject({
  preset: z.string(),
  unet: z.looseObject({
    imageSize: whole(1, 4096),
    inChannels: z.union([z.literal(1), z.literal(3)]),
    modelChannels: whole(1, 4096),
    outChannels: whole(1, 8),
    numResBlocks: whole(1, 16),
    attentionResolutions: z.array(whole(1, 4096)).max(16),
    channelMult: z.array(whole(1, 64)).max(8),
    numHeads: whole(1, 256),
    numHeadChannels: whole(-1, 4096),
    useScaleShiftNorm: z.boolean(),
    resblockUpdown: z.boolean(),
    useNewAttentionOrder: z.boolean(),
    numClasses: whole(1, 1_000_000).nullable(),
    featureChannels: whole(0, 65_536).optional(),
  }),
  features: z
    .looseObject({
      backbone: z.string(),
      strides: z.array(whole(1, 16)).min(1).max(4),
      scale: whole(1, 4),
      /** Stride of the deepest tap that the model keeps of the backbone; that of `strides` where absent. */
      depth: whole(2, 32).optional(),
      weight: z.number().min(0).max(1e6),
      /** False where the feature head is fresh: no feature-level score. */
      trained: z.boolean().optional(),
    })
    .nullable()
    .optional(),
  diffusion: z.looseObject({
    schedule: z.enum(['linear', 'cosine']),
    steps: whole(2, 100_000),
    respacing: z.string().nullable(),
    loss: z.enum(['rescaled_mse', 'mse']),
  }),
  input: z.looseObject({
    mode: z.enum(['resize', 'crop']),
    size: whole(1, 4096),
    channels: z.union([z.literal(1), z.literal(3)]),
  }),
  score: z.looseObject({
    scales: z.array(whole(0, 99_999)).min(1).max(64),
    scaleIndexing: z.enum(['original', 'respaced']),
    respacing: z.string().nullable(),
    normalization: z.enum(['calibration', 'per-image', 'none']),
    alpha: share,
    smoothing: z.number().min(0).max(100),
    topPixels,
    positions: z.boolean().optional(),
    memoryBank: z
      .looseObject({ patches: whole(1, 2 ** 22), weight: share })
      .nullable()
      .optional(),
    evidence: z
      .looseObject({
        banks: z
          .array(z.array(whole(4, 32)).min(1).max(4))
          .min(1)
          .max(8),
        rows: whole(1, 2 ** 22),
        image: z.boolean(),
        placeStride: whole(4, 32).nullable().optional(),
      })
      .nullable()
      .optional(),
    seed,
    kind: z.enum(scoreKinds).optional(),
  }),
  calibration: z
    .looseObject({
      pixelMean: perScale,
      pixelStd: perScale,
      featureMean: perScale.optional(),
      featureStd: perScale.optional(),
      /** Of the squared error of the reconstruction. */
      rgbMean: perScale.optional(),
      rgbStd: perScale.optional(),
      /** Of the distance to the nearest residual in the memory bank. */
      memoryBankMean: figure.optional(),
      memoryBankStd: figure.optional(),
      /** Mean and standard deviation of both normalised scores at the places of a grid over the whole image. */
      position: z
        .looseObject({
          width: gridSide,
          height: gridSide,
          pixelMean: perPlace,
          pixelStd: perPlace,
          featureMean: perPlace.optional(),
          featureStd: perPlace.optional(),
        })
        .nullable()
        .optional(),
      /** Of the distances to each bank, and of each value that the score is made of ({@link EvidenceName}). */
      evidence: z
        .looseObject({
          ...{ mapMean: perScale, mapStd: perScale, mean: perScale.optional(), std: perScale.optional() },
          /** Of the map; the ensemble has the rest. */
          share: share.optional(),
          /** False where no Gaussians of places judge, although the configuration has them. */
          places: z.boolean().optional(),
        })
        .nullable()
        .optional(),
      images: whole(1, 1e15),
      quantile: z.number().gt(0).max(1),
      /** Map values of a typical good image: its median and the end of its normal range. */
      mapRange: z.tuple([figure, figure]).optional(),
      /** Whether good images were found to be aligned. */
      aligned: z.boolean().optional(),
    })
    .nullable(),
  threshold: figure.nullable(),
  training: z.looseObject({
    seed: z.number().int().min(0),
    steps: count.nullable(),
    timeLimitMs: z.number().positive().nullable(),
    batchSize: whole(1, 4096),
    lr: z.number().gt(0).max(1),
    betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]),
    eps: z.number().gt(0).max(1),
    weightDecay: z.number().min(0).max(1),
    ema: z.number().min(0).lt(1),
    flip: z.enum(['none', 'horizontal', 'vertical', 'both']),
    rotation: z.number().min(0).max(180).optional(),
    focus: z
      .looseObject({ share: z.number().min(0).max(1), below: whole(1, 100_000) })
      .nullable()
      .optional(),
    earlyStopping: z.boolean().optional(),
    /** Whether calibration decides by the good images if it tells places apart. */
    placesMeasured: z.boolean().optional(),
    holdOut: z.number().gt(0).lt(1),
    quantile: z.number().gt(0).max(1),
  }),
});

const { calibration, threshold } = commonConfig.shape;
const modelConfig = commonConfig.extend({
  /** Products of a unified model, in the order of their labels; calibration and threshold are then those of each. */
  products: z.array(z.string().min(1)).min(2).optional(),
  /** The Gaussian of good features: of which of their channels, and at which places (null: one for all). */
  padim: z
    .looseObject({
      channels: z.array(whole(0, 65_535)).min(1).max(65_536),
      grid: z.tuple([gridSide, gridSide]).nullable(),
      seed,
      images: z.number().min(0).max(1e15),
    })
    .nullable()
    .optional(),
  perProduct: z.record(z.string(), z.looseObject({ calibration, threshold })).optional(),
});

/** The configuration that a model file carries. */
export type ModelConfig = z.infer<typeof modelConfig>;

/** A configuration read from a file; `training` may be absent in models that were imported. */
const storedConfig = modelConfig.extend({ training: modelConfig.shape.training.optional() });
export type StoredConfig = z.infer<typeof storedConfig>;

/** Pixels of the largest side that an image is brought to. */
const largestSide = 8192;

function fromJson<T>(schema: z.ZodType<T>, json: string, file: string): T {
  let value: unknown;
  try {
    value = fromEngineJson(json);
  } catch (cause) {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: its configuration is not JSON`, { cause });
  }
  const config = parse(schema, value, 'ERR_MODEL_FORMAT', `${file}: in its configuration, `);
  const side = pixelSize(config as Pick<StoredConfig, 'input' | 'features'>);
  if (side > largestSide) {
    throw new DdadError(
      'ERR_MODEL_FORMAT',
      `${file}: in its configuration, expected "input.size" times "features.scale" up to ${largestSide}, got ${side}`,
    );
  }
  return config;
}

/** The configuration of a model file. */
export const parseStoredConfig = (json: string, file: string): StoredConfig => fromJson(storedConfig, json, file);
/** The configuration of a checkpoint, which always has its training settings. */
export const parseModelConfig = (json: string, file: string): ModelConfig => fromJson(modelConfig, json, file);

/** A tap of a backbone. */
export interface BackboneTap {
  stride: number;
  channels: number;
}

/** Taps of EfficientNet-Lite0, the default backbone. */
const liteTaps: readonly BackboneTap[] = [
  { stride: 2, channels: 16 },
  { stride: 4, channels: 24 },
  { stride: 8, channels: 40 },
  { stride: 16, channels: 112 },
  { stride: 32, channels: 320 },
];

/** The memory bank of a model that sees whole images; bench/accuracy has what other numbers gave. */
export const defaultMemoryBank = { patches: 20_000, weight: 0.75 } as const;

/** A network that is there already, and the chain that it was trained on. */
export type Base = Pick<StoredConfig, 'unet' | 'diffusion'>;

/**
 * The whole configuration that stands behind a few options. `channels` must be decided by now; `taps` are those of the
 * backbone. Network and chain are those of `base`, where one is given.
 */
export function expandConfig(
  options: TrainerOptions,
  taps: readonly BackboneTap[] = liteTaps,
  base?: Base,
): ModelConfig {
  const name = options.preset ?? defaultPreset;
  const preset = presets[name];
  const channels = options.channels === 'gray' ? 1 : 3;
  const unet: Preset = { ...preset, ...defined(options.unet ?? {}) };
  const size = options.size ?? preset.size;
  const strides: number[] = options.backbone === null ? [] : [...(options.featureStrides ?? preset.featureStrides)];
  const featureChannels = taps.reduce((sum, tap) => sum + (strides.includes(tap.stride) ? tap.channels : 0), 0);
  const resized = (options.mode ?? preset.mode) === 'resize';
  // a window of a texture shows the backbone enough as it is
  const featureScale = options.featureScale ?? (resized ? preset.featureScale : 1);
  const normalization = options.normalization ?? 'calibration';
  const side = size * featureScale;
  const reachable = taps.map(({ stride }) => stride).filter((stride) => side % stride === 0);
  const depth = Math.max(0, ...reachable, ...strides);
  const judges = options.evidence !== null && strides.length > 0 && normalization === 'calibration';
  const aligned = resized && options.positions !== false && !options.rotation;
  const evidence = judges ? evidenceOf(depth, { whole: resized, aligned, rows: options.evidence?.rows }) : null;
  const remembers = resized && strides.length > 0 && normalization === 'calibration';
  if (options.evidence && normalization !== 'calibration') {
    throw new DdadError(
      'ERR_OPTION',
      `option "evidence": goes with normalization "calibration" only, got "${normalization}"`,
    );
  }
  const config: ModelConfig = {
    preset: name,
    unet: {
      // The nominal size fixes where attention stands, so a network is the same whatever `size` it is trained at.
      imageSize: preset.size,
      inChannels: channels,
      modelChannels: unet.modelChannels,
      outChannels: 2 * channels,
      numResBlocks: unet.numResBlocks,
      attentionResolutions: [...unet.attentionResolutions],
      channelMult: [...unet.channelMult],
      numHeads: 4,
      numHeadChannels: unet.numHeadChannels,
      useScaleShiftNorm: true,
      resblockUpdown: true,
      useNewAttentionOrder: false,
      numClasses: null,
      ...base?.unet,
      featureChannels,
    },
    features:
      strides.length === 0
        ? null
        : {
            backbone: backboneName(options.backbone ?? 'efficientnet-lite0'),
            strides: strides.sort((a, b) => a - b),
            scale: featureScale,
            ...(evidence && { depth }),
            weight: options.featureWeight ?? 1,
          },
    diffusion: {
      schedule: options.schedule ?? base?.diffusion.schedule ?? 'linear',
      steps: base?.diffusion.steps ?? 1000,
      respacing: null,
      loss: options.loss ?? 'rescaled_mse',
    },
    input: { mode: options.mode ?? preset.mode, size, channels },
    score: {
      scales: options.scales ?? [5, 50, 100],
      scaleIndexing: options.scaleIndexing ?? 'original',
      respacing: options.respacing ?? (options.scaleIndexing === 'respaced' ? '250' : null),
      normalization,
      // measured on the magnetic tiles: 0.1 against 0 gives 0.003 of AUPRO for 0.001 of image AUROC, 0.5 is worse
      alpha: options.alpha ?? (strides.length === 0 ? 1 : resized ? 0.1 : 0),
      // one cell of the features, measured on the magnetic tiles with whole images and with crops
      smoothing: options.smoothing ?? 4 * featureScale,
      topPixels: options.topPixels ?? { count: 64 },
      positions: options.positions ?? resized,
      // measured on the magnetic tiles: image AUROC 0.97 against 0.90 without
      memoryBank: options.memoryBank === undefined ? (remembers ? { ...defaultMemoryBank } : null) : options.memoryBank,
      evidence,
      seed: 0,
    },
    calibration: null,
    threshold: null,
    training: {
      seed: options.seed ?? 0,
      steps: options.steps ?? preset.steps,
      timeLimitMs: null,
      batchSize: options.batchSize ?? preset.batchSize,
      lr: options.lr ?? preset.lr,
      betas: [0.9, 0.999],
      eps: 1e-8,
      weightDecay: options.weightDecay ?? 0.01,
      ema: options.ema ?? 0.997,
      flip: options.flip ?? 'none',
      ...(options.rotation ? { rotation: options.rotation } : {}),
      focus: options.focus === undefined ? { share: 0.75, below: 500 } : options.focus,
      ...((options.earlyStopping ?? options.steps === undefined) ? { earlyStopping: true } : {}),
      ...(resized && options.positions === undefined ? { placesMeasured: true } : {}),
      holdOut: options.holdOut ?? 0.1,
      quantile: options.quantile ?? 0.99,
    },
  };
  check(config);
  return config;
}

function check({ unet, input, score, features }: ModelConfig): void {
  const refuse = (message: string): never => {
    throw new DdadError('ERR_OPTION', message);
  };
  const stride = 2 ** (unet.channelMult.length - 1);
  if (input.size % stride !== 0) {
    refuse(`option "size": expected a multiple of ${stride}, the network's coarsest stride, got ${input.size}`);
  }
  const coarsest = Math.max(1, ...(features?.strides ?? []));
  if ((input.size * (features?.scale ?? 1)) % coarsest !== 0) {
    refuse(`option "size": expected a multiple of ${coarsest}, the features' coarsest stride, got ${input.size}`);
  }
  if (score.positions && input.mode !== 'resize') refuse('option "positions": goes with mode "resize" only');
  if (score.memoryBank && !features) refuse('option "memoryBank": goes with features only, which need a backbone');
  if (score.memoryBank && score.normalization !== 'calibration') {
    refuse(`option "memoryBank": goes with normalization "calibration" only, got "${score.normalization}"`);
  }
  if (features && unet.channelMult.length < 3) {
    refuse(
      'option "unet.channelMult": expected at least 3 levels, which features need, got ' + unet.channelMult.length,
    );
  }
  const stray = unet.attentionResolutions.find((resolution) => unet.imageSize % resolution !== 0);
  if (stray !== undefined) {
    refuse(`option "unet.attentionResolutions": expected divisors of ${unet.imageSize}, got ${stray}`);
  }
  for (const [level, mult] of unet.channelMult.entries()) {
    // The middle block has attention too, at the channels of the last level.
    const attends = unet.attentionResolutions.includes(unet.imageSize / 2 ** level) || 2 ** level === stride;
    const channels = mult * unet.modelChannels;
    if (attends && channels % unet.numHeadChannels !== 0) {
      refuse(`option "unet.numHeadChannels": expected a divisor of ${channels}, got ${unet.numHeadChannels}`);
    }
  }
  if (score.scaleIndexing === 'original' && score.respacing !== null) {
    refuse('option "respacing": goes with scaleIndexing "respaced" only');
  }
  if (new Set(score.scales).size !== score.scales.length) refuse('option "scales": a noise scale is given twice');
}

/** Side of what is taken of an image: the UNet's input, as many times finer as the features are. */
export function pixelSize({ input, features }: Pick<StoredConfig, 'input' | 'features'>): number {
  return input.size * (features?.scale ?? 1);
}

/** The options that lead to this configuration; the inverse of {@link expandConfig}. */
export function optionsOf(config: ModelConfig): TrainerOptions {
  const { unet, training, score } = config;
  return {
    preset: config.preset as NonNullable<TrainerOptions['preset']>,
    mode: config.input.mode,
    size: config.input.size,
    channels: config.input.channels === 1 ? 'gray' : 'rgb',
    unet: {
      modelChannels: unet.modelChannels,
      channelMult: unet.channelMult,
      numResBlocks: unet.numResBlocks,
      attentionResolutions: unet.attentionResolutions,
      numHeadChannels: unet.numHeadChannels,
    },
    schedule: config.diffusion.schedule,
    loss: config.diffusion.loss,
    ...(training.steps === null ? {} : { steps: training.steps }),
    earlyStopping: training.earlyStopping ?? false,
    batchSize: training.batchSize,
    lr: training.lr,
    weightDecay: training.weightDecay,
    ema: training.ema,
    flip: training.flip,
    rotation: training.rotation ?? 0,
    focus: training.focus ?? null,
    seed: training.seed,
    holdOut: training.holdOut,
    quantile: training.quantile,
    scales: score.scales,
    scaleIndexing: score.scaleIndexing,
    respacing: score.respacing,
    normalization: score.normalization,
    smoothing: score.smoothing,
    topPixels: score.topPixels,
    alpha: score.alpha,
    ...(training.placesMeasured ? {} : { positions: score.positions ?? false }),
    memoryBank: score.memoryBank ?? null,
    evidence: score.evidence ? { rows: score.evidence.rows } : null,
    backbone: config.features?.backbone ?? null,
    ...(config.features && {
      featureStrides: config.features.strides as TrainerOptions['featureStrides'],
      featureScale: config.features.scale,
      featureWeight: config.features.weight,
    }),
  };
}

/** Options that a resumed run may change: they do not touch what has been trained so far. */
const changeable = new Set<keyof TrainerOptions>([
  'steps',
  'earlyStopping',
  'quantile',
  'scales',
  'scaleIndexing',
  'respacing',
  'normalization',
  'smoothing',
  'topPixels',
  'alpha',
  'positions',
  'memoryBank',
  'evidence',
  'device',
  'precision',
  'threads',
]);

/** The options of a run that goes on from `saved`: what is given must agree with it, or be free to change. */
export function resumeOptions(saved: ModelConfig, given: TrainerOptions): TrainerOptions {
  const before = optionsOf(saved);
  if (given.init !== undefined) {
    throw new DdadError('ERR_OPTION', 'option "init": the checkpoint has weights of its own; expected none beside it');
  }
  for (const [key, value] of Object.entries(given) as [keyof TrainerOptions, unknown][]) {
    if (changeable.has(key) || (key === 'channels' && value === 'auto')) continue;
    const was = before[key];
    let wanted = value;
    if (key === 'unet') wanted = { ...before.unet, ...defined(value as object) };
    // the checkpoint carries its backbone; where the file lies now does not matter
    if (key === 'backbone' && typeof value === 'string') wanted = backboneName(value);
    if (JSON.stringify(wanted) !== JSON.stringify(was)) {
      throw new DdadError(
        'ERR_OPTION',
        `option "${key}": the checkpoint was trained with ${JSON.stringify(was)}, got ${JSON.stringify(value)}`,
      );
    }
  }
  return { ...before, ...given, unet: before.unet, channels: before.channels };
}
