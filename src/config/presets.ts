/** What a preset decides; every value can be overridden. */
export interface Preset {
  /** Input size in pixels, and the nominal size that `attentionResolutions` refer to. */
  size: number;
  mode: 'resize' | 'crop';
  modelChannels: number;
  channelMult: readonly number[];
  numResBlocks: number;
  attentionResolutions: readonly number[];
  numHeadChannels: number;
  /** Strides of the backbone's taps that make the features. */
  featureStrides: readonly number[];
  /** In mode `resize`, the backbone sees the image this many times finer than the UNet does. */
  featureScale: number;
  batchSize: number;
  lr: number;
  steps: number;
}

/** From a model that trains in minutes on a CPU to the published one. */
export const presets = {
  /** Tests and demos. */
  nano: {
    size: 64,
    mode: 'crop',
    modelChannels: 32,
    channelMult: [1, 2, 2],
    numResBlocks: 1,
    attentionResolutions: [],
    numHeadChannels: 32,
    featureStrides: [2, 4, 8],
    featureScale: 1,
    batchSize: 4,
    lr: 5e-4,
    steps: 5000,
  },
  /** A CPU on the line. */
  lite: {
    size: 128,
    mode: 'resize',
    modelChannels: 32,
    channelMult: [1, 2, 2, 4],
    numResBlocks: 1,
    attentionResolutions: [16],
    numHeadChannels: 32,
    featureStrides: [8, 16],
    featureScale: 2,
    batchSize: 4,
    lr: 5e-4,
    steps: 10000,
  },
  /** One GPU. */
  base: {
    size: 256,
    mode: 'resize',
    modelChannels: 128,
    channelMult: [1, 1, 2, 3, 4],
    numResBlocks: 2,
    attentionResolutions: [32, 16, 8],
    numHeadChannels: 64,
    featureStrides: [2, 4, 8, 16],
    featureScale: 1,
    batchSize: 4,
    lr: 1e-4,
    steps: 10000,
  },
  /** The published setting. */
  'paper-256': {
    size: 256,
    mode: 'resize',
    modelChannels: 256,
    channelMult: [1, 1, 2, 2, 4, 4],
    numResBlocks: 2,
    attentionResolutions: [32, 16, 8],
    numHeadChannels: 64,
    featureStrides: [2, 4, 8, 16],
    featureScale: 1,
    batchSize: 2,
    lr: 1e-4,
    steps: 10000,
  },
} as const satisfies Record<string, Preset>;

export type PresetName = keyof typeof presets;
export const presetNames = Object.keys(presets) as PresetName[];
export const defaultPreset: PresetName = 'lite';
