// The smallest models that the engine takes, for the fuzzers of the JavaScript side.
import fs from 'node:fs';

const widths = [8, 12, 16, 20, 24]; // of the backbone's stages
const kernels = [3, 3, 5, 3, 5];

/** A safetensors file of float32 tensors: `tensors` holds [name, shape] pairs, every value is `value`. */
export function safetensors(tensors, metadata, value = 0.01) {
  const header = metadata ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const [name, shape] of tensors) {
    const end = offset + 4 * shape.reduce((product, extent) => product * extent, 1);
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, Buffer.from(new Float32Array(offset / 4).fill(value).buffer)]);
}

/** Weights of a backbone of a few channels, its norms folded. */
export function writeBackbone(file) {
  const tensors = [];
  const conv = (name, shape) => tensors.push([`${name}.weight`, shape], [`${name}.bias`, [shape[0]]]);
  conv('_conv_stem', [8, 3, 3, 3]);
  let channels = 8;
  widths.forEach((width, stage) => {
    conv(`_blocks.${stage}._depthwise_conv`, [channels, 1, kernels[stage], kernels[stage]]);
    conv(`_blocks.${stage}._project_conv`, [width, channels, 1, 1]);
    channels = width;
  });
  fs.writeFileSync(file, safetensors(tensors));
}

/** A configuration; with features it is for the backbone above. */
export function tinyConfig(features = false) {
  return {
    preset: 'nano',
    unet: {
      imageSize: 8,
      inChannels: 1,
      modelChannels: 32,
      outChannels: 2,
      numResBlocks: 1,
      attentionResolutions: [],
      channelMult: features ? [1, 1, 1] : [1],
      numHeads: 1,
      numHeadChannels: -1,
      useScaleShiftNorm: true,
      resblockUpdown: false,
      useNewAttentionOrder: false,
      numClasses: null,
      ...(features ? { featureChannels: widths[0] + widths[1] } : {}),
    },
    ...(features ? { features: { backbone: 'efficientnet-lite0', strides: [2, 4], weight: 1 } } : {}),
    diffusion: { schedule: 'linear', steps: 100, respacing: null, loss: 'rescaled_mse' },
    input: { mode: 'crop', size: 8, channels: 1 },
    score: { scales: [5], normalization: 'none', alpha: features ? 0.5 : 1, smoothing: 0, seed: 0 },
    calibration: null,
    threshold: null,
    training: { seed: 0, steps: 10, batchSize: 1, lr: 1e-4 },
  };
}
