// What is timed: the networks, spelled out here so that a retuned preset does not change what old numbers mean.

const networks = {
  nano: { size: 64, channelMult: [1, 2, 2], attentionResolutions: [] },
  lite: { size: 128, channelMult: [1, 2, 2, 4], attentionResolutions: [16] },
};

export const presetNames = Object.keys(networks);

/** The whole configuration of a model file, as the package writes it. */
function modelConfig(name) {
  const { size, channelMult, attentionResolutions } = networks[name];
  return {
    preset: name,
    unet: {
      imageSize: size,
      inChannels: 3,
      modelChannels: 32,
      outChannels: 6,
      numResBlocks: 1,
      attentionResolutions,
      channelMult,
      numHeads: 1,
      numHeadChannels: 32,
      useScaleShiftNorm: true,
      resblockUpdown: true,
      useNewAttentionOrder: false,
      numClasses: null,
    },
    diffusion: { schedule: 'linear', steps: 1000, respacing: null, loss: 'rescaled_mse' },
    input: { mode: 'crop', size, channels: 3 },
    score: {
      scales: [5, 50, 100],
      scaleIndexing: 'original',
      respacing: null,
      normalization: 'calibration',
      alpha: 1,
      smoothing: 0,
      topPixels: { count: 64 },
      seed: 0,
    },
    calibration: { pixelMean: [0.5, 0.1, 0.05], pixelStd: [0.2, 0.05, 0.02], images: 10, quantile: 0.99 },
    threshold: 1,
    training: {
      seed: 0,
      steps: 1000,
      timeLimitMs: null,
      batchSize: 8,
      lr: 1e-4,
      betas: [0.9, 0.999],
      eps: 1e-8,
      weightDecay: 0.01,
      ema: 0.997,
      flip: 'none',
      holdOut: 0.1,
      quantile: 0.99,
    },
  };
}

/** The workloads of the given presets, in the order in which they run. */
export function workloadsOf(presets) {
  const make = (workload, preset, images) => ({
    key: `${preset}-${images}`,
    title: workload === 'score' ? `${preset}, score ${images}` : `${preset}, train ${images}`,
    workload,
    preset,
    images,
    size: networks[preset].size,
    config: modelConfig(preset),
  });
  return [
    ...presets.flatMap((preset) => [make('score', preset, 1), make('score', preset, 4)]),
    ...presets.map((preset) => make('train', preset, 8)),
  ];
}

/** The workloads whose memory is compared; `key` in the report's `memory` is `name`. */
export const nameOf = ({ workload, key }) => `${workload}-${key}`;
export const isMemoryWorkload = (work) => ['train-lite-8', 'score-lite-1'].includes(nameOf(work));
