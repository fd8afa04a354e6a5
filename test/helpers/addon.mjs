// What the tests of the addon share: the addon, as src/engine/native.ts finds it, and models that are small or slow.
import { createRequire } from 'node:module';
import path from 'node:path';
import { root } from './common.mjs';

export const file = path.resolve(process.env.DDAD_ADDON || path.join(root, 'build', 'Release', 'ddad.node'));
export const addon = createRequire(import.meta.url)(file);

/** A configuration: `size` pixels a side and `batch` images a step decide how long a step takes. */
export function configOf({ size = 16, batch = 2, channels = 32 } = {}) {
  return JSON.stringify({
    preset: 'nano',
    unet: {
      imageSize: size,
      inChannels: 1,
      modelChannels: channels,
      outChannels: 2,
      numResBlocks: 1,
      attentionResolutions: [],
      channelMult: [1, 1],
      numHeads: 1,
      numHeadChannels: -1,
      useScaleShiftNorm: true,
      resblockUpdown: false,
      useNewAttentionOrder: false,
      numClasses: null,
    },
    diffusion: { schedule: 'linear', steps: 1000, respacing: null, loss: 'rescaled_mse' },
    input: { mode: 'crop', size, channels: 1 },
    score: {
      scales: [5, 50],
      scaleIndexing: 'original',
      respacing: '250',
      normalization: 'none',
      alpha: 1,
      smoothing: 0,
      topPixels: { count: 64 },
      seed: 0,
    },
    calibration: null,
    threshold: null,
    training: {
      seed: 0,
      steps: 10,
      batchSize: batch,
      lr: 1e-4,
      betas: [0.9, 0.999],
      eps: 1e-8,
      weightDecay: 0.01,
      ema: 0.997,
    },
  });
}

export const small = { size: 16, batch: 2 };
export const slow = { size: 32, batch: 128 }; // a step takes long, is cancelled between two operations
export const options = JSON.stringify({ device: 'cpu', threads: 1 });
export const token = () => new addon.CancelToken();
export const pixelsOf = ({ size, batch }) => new Float32Array(batch * size * size).fill(0.25);
export const grayImage = (width = 16, height = 16) => ({
  data: new Uint8Array(width * height).fill(100),
  width,
  height,
  channels: 1,
});
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function open(t, shape = small) {
  const trainer = new addon.NativeTrainer(configOf(shape), options);
  t.after(() => trainer.dispose());
  await trainer.open(token());
  return trainer;
}

export async function openDetector(t, shape = small) {
  const trainer = await open(t, shape);
  const detector = await trainer.toDetector(configOf(shape));
  t.after(() => detector.dispose());
  return detector;
}
