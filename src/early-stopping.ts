import { type ModelConfig, pixelSize } from './config.js';
import { TrainingData } from './dataset.js';
import { auroc } from './evaluation/auroc.js';
import type { CheckpointState } from './model-file.js';
import { callNative, type NativeTrainer } from './native.js';
import { random, streams } from './random.js';
import { scoreImage } from './score-image.js';

/** The first look at what training has given; each later one is at twice as many steps. */
export const firstCheck = 128;
/** The separation must grow by this much from one look to the next, or training ends. */
const leastGain = 0.02;
/** Below this the network has not begun to see damage, whatever the gain. */
const leastSeparation = 0.75;
/** Share of the steps so far in which the learning rate then falls to 0. */
const coolDown = 0.25;
/** Damaged samples that a look is taken at. */
const samples = 24;
/** Map values are compared at every so many pixels of each axis. */
const every = 4;

/** A rectangle [left, top, width, height]. */
type Box = readonly [number, number, number, number];

/**
 * Pastes a piece of a sample [size, size, channels] somewhere else in it, a little brighter or darker (CutPaste, Li et al.
 * 2021): every other time a thin one. Returns where.
 */
export function cutPaste(sample: Float32Array, size: number, channels: number, next: () => number): Box {
  const scar = next() < 0.5;
  const area = size * size * (0.01 + 0.05 * next()) * (scar ? 0.2 : 1);
  const aspect = (scar ? 6 + 6 * next() : 1 + 2 * next()) ** (next() < 0.5 ? 0.5 : -0.5);
  const side = (length: number): number => Math.min(size >> 1, Math.max(2, Math.round(length)));
  const [width, height] = [side(Math.sqrt(area) * aspect), side(Math.sqrt(area) / aspect)];
  const place = (length: number): number => Math.floor(next() * (size - length + 1));
  const [fromX, fromY, left, top] = [place(width), place(height), place(width), place(height)];
  const shift = 0.3 * (2 * next() - 1);
  const piece = Float32Array.from({ length: width * height * channels }, (_, i) => {
    const [pixel, c] = [Math.floor(i / channels), i % channels];
    const [x, y] = [fromX + (pixel % width), fromY + Math.floor(pixel / width)];
    return Math.min(1, Math.max(-1, (sample[(y * size + x) * channels + c] as number) + shift));
  });
  for (let y = 0; y < height; y++) {
    const row = piece.subarray(y * width * channels, (y + 1) * width * channels);
    sample.set(row, ((top + y) * size + left) * channels);
  }
  return [left, top, width, height];
}

/** Pixel AUROC of a map against a rectangle of it, on a coarse grid. */
function separationOf(map: Float32Array, size: number, [left, top, width, height]: Box): number {
  const [inside, outside]: [number[], number[]] = [[], []];
  // a thin rectangle may lie between the points of the grid: its own are taken one by one
  for (let y = top; y < top + height; y++)
    for (let x = left; x < left + width; x++) inside.push(map[y * size + x] as number);
  for (let y = 0; y < size; y += every)
    for (let x = 0; x < size; x += every)
      if (x < left || x >= left + width || y < top || y >= top + height) outside.push(map[y * size + x] as number);
  return auroc(outside, inside);
}

/**
 * Ends a training when more of it does not help: at 128 steps, 256, 512 and so on the averaged weights score samples of
 * held-back images into which a piece was pasted. `separation` is the mean pixel AUROC of the network's own map for those
 * pieces. Once it grows no more, the learning rate falls to 0 within a quarter of the steps so far. Everything depends on
 * steps and seed, nothing on the clock.
 */
export class EarlyStopping {
  readonly #native: NativeTrainer;
  readonly #config: ModelConfig;
  readonly #data: TrainingData;
  readonly #state: CheckpointState;

  constructor(
    native: NativeTrainer,
    config: ModelConfig,
    heldBack: readonly (readonly string[])[],
    state: CheckpointState,
  ) {
    this.#native = native;
    const batchSize = heldBack.length; // one sample of each product
    this.#config = {
      ...config,
      score: { ...config.score, normalization: 'none', memory: null, evidence: null, positions: false, smoothing: 1 },
      training: { ...config.training, batchSize },
    };
    this.#data = new TrainingData(heldBack, this.#config);
    this.#state = state;
  }

  /** How many steps training has in all, once that is known. */
  get total(): number | undefined {
    return this.#state.early?.total;
  }

  /** Share of the cool-down that is done, 0 before it. */
  get cooled(): number {
    const { step, early } = this.#state;
    const begin = early?.looks.at(-1)?.step;
    if (early?.total === undefined || begin === undefined) return 0;
    return Math.min(1, (step - begin) / (early.total - begin));
  }

  /** Takes a look where one is due; resolves to the separation, or undefined. */
  async look(signal?: AbortSignal): Promise<number | undefined> {
    const { step } = this.#state;
    const early = (this.#state.early ??= { looks: [] });
    const before = early.looks.at(-1);
    if (!Number.isInteger(Math.log2(step / firstCheck)) || step < firstCheck) return undefined;
    if (early.total !== undefined || before?.step === step) return undefined;
    const separation = await this.#separation(signal);
    early.looks.push({ step, separation });
    const grows = !before || separation < leastSeparation || separation - before.separation >= leastGain;
    if (!grows) early.total = step + Math.round(coolDown * step);
    return separation;
  }

  async #separation(signal?: AbortSignal): Promise<number> {
    const config = this.#config;
    const { batchSize, seed } = config.training;
    const { channels } = config.input;
    const size = pixelSize(config);
    const length = size * size * channels;
    const detector = await callNative(signal, () => this.#native.toDetector(JSON.stringify(config)));
    try {
      let [sum, count] = [0, 0];
      for (let batch = 0; batch * batchSize < samples; batch++) {
        const all = await this.#data.batch(batch, signal);
        const labels = config.products ? this.#data.labels(batch) : null;
        for (let i = 0; i < batchSize; i++) {
          const data = all.slice(i * length, (i + 1) * length);
          const box = cutPaste(data, size, channels, random(seed, streams.damage, count));
          for (let p = 0; p < length; p++) data[p] = ((data[p] as number) + 1) / 2;
          const image = { data, width: size, height: size, channels };
          const found = await scoreImage(detector, config, image, { signal, networkSize: true, label: labels?.[i] });
          sum += separationOf(found.featureMap ?? found.map, size, box);
          count += 1;
        }
      }
      return sum / count;
    } finally {
      detector.dispose();
    }
  }
}
