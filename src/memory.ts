import type { ModelConfig } from './config.js';
import { callNative, type NativeDetector } from './native.js';
import { permutation, random, streams } from './random.js';
import { mapAhead } from './read-ahead.js';
import { scoreImage } from './score-image.js';

/** More images than this say little more, and each takes a pass of the network. */
const mostImages = 1000;

/** The images whose residuals are remembered. */
export function remembered({ score, training }: ModelConfig, files: readonly string[], label = 0): string[] {
  if (!score.memory) return [];
  const order = permutation(files.length, random(training.seed, streams.memory, label));
  return Array.from(order.subarray(0, Math.min(mostImages, score.memory.patches)), (i) => files[i] as string);
}

/**
 * Gives the detector the residuals of patches of good images, as many as `config.score.memory` says, drawn evenly from
 * the images: a weight of the feature-level score tells how near a residual is to one of them. Yields after each image.
 */
export async function* remember(
  detector: NativeDetector,
  config: ModelConfig,
  files: readonly string[],
  { signal, label }: { signal?: AbortSignal | undefined; label?: number | undefined },
): AsyncGenerator<void, void, undefined> {
  const { memory } = config.score;
  if (!memory || files.length === 0) return;
  const channels = config.unet.featureChannels ?? 0;
  const patches = new Float32Array(memory.patches * channels);
  let count = 0;
  const residualsOf = async (file: string, inner: AbortSignal): Promise<Float32Array> => {
    const options = { signal: inner, networkSize: true, residuals: true, label };
    return (await scoreImage(detector, config, file, options)).residuals ?? new Float32Array();
  };
  let image = 0;
  for await (const residuals of mapAhead(files, residualsOf, { ahead: 2, signal })) {
    // what is left, shared evenly by the images that are left
    const share = Math.ceil((memory.patches - count) / (files.length - image));
    const cells = permutation(residuals.length / channels, random(config.training.seed, streams.memory, 1 + image));
    for (const cell of cells.subarray(0, share)) {
      patches.set(residuals.subarray(cell * channels, (cell + 1) * channels), count * channels);
      count += 1;
    }
    image += 1;
    yield;
  }
  const found = patches.subarray(0, count * channels);
  await callNative(signal, () => detector.setMemory(label ?? 0, found, count));
}
