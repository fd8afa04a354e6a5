import { type ModelConfig, pixelSize } from '../config/config.js';
import { toEngineJson } from '../config/engine-json.js';
import { damagedSamples, separationOf } from '../data/damage.js';
import type { CheckpointState } from '../model/model-file.js';
import { callNative, type NativeTrainer } from '../engine/native.js';
import { scoreImage } from '../scoring/score-image.js';

/** The first look at what training has given; each later one is at twice as many steps. */
const firstCheck = 128;
/** The separation must grow by this much from one look to the next, or training ends. */
const leastGain = 0.01;
/** Below this the network has not begun to see damage, whatever the gain. */
const leastSeparation = 0.75;
/** Share of the steps so far in which the learning rate then falls to 0. */
const coolDown = 0.25;

/**
 * Ends a training when more of it does not help: at 128 steps, 256, 512 and so on the averaged weights score samples of
 * held-back images into which a piece was pasted. `separation` is the mean pixel AUROC of the network's own map for those
 * pieces. Once it grows no more, the learning rate falls to 0 within a quarter of the steps so far. Without a
 * time limit everything depends on steps and seed, nothing on the clock.
 */
export class EarlyStopping {
  readonly #native: NativeTrainer;
  readonly #config: ModelConfig;
  readonly #heldBack: readonly (readonly string[])[];
  readonly #state: CheckpointState;

  constructor(
    native: NativeTrainer,
    config: ModelConfig,
    heldBack: readonly (readonly string[])[],
    state: CheckpointState,
  ) {
    this.#native = native;
    this.#config = {
      ...config,
      score: {
        ...config.score,
        normalization: 'none',
        memoryBank: null,
        evidence: null,
        positions: false,
        smoothing: 1,
      },
    };
    this.#heldBack = heldBack;
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
    const size = pixelSize(config);
    const detector = await callNative(signal, () => this.#native.toDetector(toEngineJson(config)));
    try {
      let [sum, count] = [0, 0];
      for await (const { image, box, label } of damagedSamples(config, this.#heldBack, signal)) {
        const options = { signal, networkSize: true, label: config.products ? label : undefined };
        const scored = await scoreImage(detector, config, image, options);
        sum += separationOf(scored.featureMap ?? scored.map, size, box);
        count += 1;
      }
      return sum / count;
    } finally {
      detector.dispose();
    }
  }
}
