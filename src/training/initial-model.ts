import { type ModelConfig, pixelSize, type StoredConfig } from '../config/config.js';
import { evidenceOf } from '../config/evidence.js';
import { DdadError } from '../base/errors.js';
import { readModel } from '../model/model-file.js';
import type { TrainerOptions } from '../config/options.js';
import { type PresetName, presetNames } from '../config/presets.js';

/** A model that training starts from. */
export interface Init {
  file: string;
  config: StoredConfig;
}

export async function openInit(file: string | undefined): Promise<Init | undefined> {
  return file === undefined ? undefined : { file, config: await readModel(file) };
}

const same = (a: readonly number[], b: readonly number[]): boolean => [...a].sort().join() === [...b].sort().join();

/** The options of a run that starts from a model: its input and features are the default. Throws ERR_OPTION. */
export function initOptions({ file, config }: Init, given: TrainerOptions): TrainerOptions {
  const { unet, input, features } = config;
  if (given.unet !== undefined) {
    throw new DdadError('ERR_OPTION', `option "unet": the network is that of ${file}; expected none beside "init"`);
  }
  const channels = unet.inChannels === 1 ? 'gray' : 'rgb';
  if (given.channels !== undefined && given.channels !== 'auto' && given.channels !== channels) {
    throw new DdadError(
      'ERR_OPTION',
      `option "channels": the network of ${file} is ${channels}, got "${given.channels}"`,
    );
  }
  const preset = presetNames.includes(config.preset as PresetName) ? (config.preset as PresetName) : undefined;
  const mode = given.mode ?? input.mode;
  return {
    ...(preset && { preset }),
    size: input.size,
    ...(features && {
      featureStrides: features.strides as NonNullable<TrainerOptions['featureStrides']>,
      ...(mode === input.mode && { featureScale: features.scale }),
    }),
    ...given,
    mode,
    channels,
  };
}

/** Whether a run takes its features from the model that it starts from: unless it asks for others. */
export function keepsFeatures({ config }: Init, { backbone, featureStrides }: TrainerOptions): boolean {
  const { features } = config;
  return Boolean(features && backbone === undefined && same(featureStrides ?? features.strides, features.strides));
}

/** Whether the feature head of the model that a run starts from predicts the features of the run. */
export function keepsHead(init: Init, config: ModelConfig): boolean {
  const [before, now] = [init.config.features, config.features];
  return Boolean(before && now && before.backbone === now.backbone && same(before.strides, now.strides));
}

/** What the network is told of the images' products; throws ERR_OPTION where that of the model was told something else. */
export function checkClasses({ file, config }: Init, products: number): void {
  const { numClasses } = config.unet;
  if (numClasses === null || numClasses === products) return;
  const images = products === 0 ? 'a single product' : `${products} products`;
  throw new DdadError(
    'ERR_OPTION',
    `option "init": the network of ${file} is told one of ${numClasses} classes, and the images are of ${images}; ` +
      'import --drop-label-emb makes a model without them',
  );
}

/** Puts the features of the model that a run starts from into its configuration. */
export function copyFeatures(config: ModelConfig, { config: { unet, features } }: Init, given: TrainerOptions): void {
  if (!features || !config.features) return;
  config.features.backbone = features.backbone;
  // the model has the backbone down to its depth, no further
  let depth = features.depth ?? Math.max(...features.strides);
  while (pixelSize(config) % depth !== 0 && depth > Math.max(...features.strides)) depth /= 2;
  config.features.depth = depth;
  const whole = config.input.mode === 'resize';
  const aligned = given.positions !== false && !given.rotation;
  const none = given.evidence === null || config.score.normalization !== 'calibration';
  config.score.evidence = none ? null : evidenceOf(depth, { whole, aligned, rows: given.evidence?.rows });
  config.unet.featureChannels = unet.featureChannels;
}
