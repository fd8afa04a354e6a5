import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { defaultBackbone, findBackbone } from '../config/backbones.js';
import { memoryUsageOf, toEngineJson } from '../config/engine-json.js';
import { calibrate, calibrateProducts, type CalibrateProgress, leastForPlaces } from './calibrate.js';
import { expandConfig, type ModelConfig, resumeOptions } from '../config/config.js';
import { parseOptions, parseTrainerOptions, type TrainerOptions } from '../config/options.js';
import { allGray, findImages, type ImageSet, readableImages, splitHeldBack, TrainingData } from '../data/dataset.js';
import { checkImages, digestFiles } from './image-digests.js';
import { atCaller, callSite, DdadError, modelError, optionError, throwIfAborted } from '../base/errors.js';
import {
  checkClasses,
  type Init,
  initOptions,
  keepsHead,
  openInit,
  keepsFeatures,
  copyFeatures,
} from './initial-model.js';
import { FileLock } from '../files/lock.js';
import { evidenceOf } from '../config/evidence.js';
import { EarlyStopping } from './early-stopping.js';
import { MetricsLog, type StepMetrics } from './metrics-log.js';
import { type Checkpoint, type CheckpointState, readCheckpoint } from '../model/model-file.js';
import { addon, callNative, type NativeDetector, type NativeTrainer, readTaps } from '../engine/native.js';
import { droppedSignature } from '../model/signature.js';

const fitOptions = z.strictObject({
  signal: z.instanceof(AbortSignal).optional(),
  timeLimitMs: z.number().positive().optional(),
  checkpoint: z.string().min(1).optional(),
  checkpointEverySeconds: z.number().positive().optional(),
  resume: z.string().min(1).optional(),
  metrics: z.string().min(1).optional(),
  strictImages: z.boolean().optional(),
});

/**
 * - `timeLimitMs`: ends training after this time, counted across resumes; calibration follows.
 * - `checkpoint`: a file that always holds a state to resume from: written at the start, every
 *   `checkpointEverySeconds` (30), at the end and when aborted. No other run writes it meanwhile (`<checkpoint>.lock`).
 * - `resume`: a checkpoint to go on from, with the images of before; the result has the same bytes as that of a run never
 *   stopped.
 * - `metrics`: a file that gets a line of JSON a step (loss and its terms, norm of the gradient, learning rate, speed),
 *   within a second. A resumed run goes on in it, after its checkpoint's step; a new one begins it anew.
 * - `strictImages`: an image that cannot be read ends the run; else it is left out, with one of the warnings.
 */
export type FitOptions = z.infer<typeof fitOptions>;

export interface TrainProgress extends StepMetrics {
  phase: 'train';
  /** Steps in all; null when only the time limits them. */
  steps: number | null;
  /** Whether early stopping may still make them fewer; then `done` and `remainingMs` are of the longest run. */
  atMost: boolean;
  /** Where early stopping has just looked: the pixel AUROC of the network's map for damage in held-back images. */
  separation?: number;
  /** Share of the run that is done, 0 to 1. */
  done: number;
  remainingMs: number;
}

export type { CalibrateProgress } from './calibrate.js';

export type Progress = TrainProgress | CalibrateProgress;

interface Run {
  config: ModelConfig;
  images: ImageSet;
  native: NativeTrainer;
  state: CheckpointState;
  options: FitOptions;
  log: MetricsLog | undefined;
}

/**
 * Trains a detector on good images.
 *
 *     const trainer = new Trainer({ preset: 'lite', mode: 'resize' });
 *     for await (const { step, loss } of trainer.fit('dataset/', { timeLimitMs: 600_000 })) console.log(step, loss);
 *     await trainer.save('model.safetensors');
 */
export class Trainer {
  readonly #options: TrainerOptions;
  #config: ModelConfig | undefined;
  #detector: NativeDetector | undefined;
  #memoryUsage: Record<string, number> = {};
  #warnings: string[] = [];
  #busy = false;

  /** Throws ERR_OPTION for an unknown option or a value out of range. */
  constructor(options: TrainerOptions = {}) {
    this.#options = parseTrainerOptions(options);
    if (this.#options.init === undefined) expandConfig(this.#options); // else the network is not known yet
  }

  /** The model's configuration, known once `fit` has looked at the images; do not change it. */
  get config(): ModelConfig | undefined {
    return this.#config;
  }

  /** Bytes that training took, by purpose; known once `fit` has started. */
  get memoryUsage(): Record<string, number> {
    return this.#memoryUsage;
  }

  /** What the last `fit` found doubtful, in sentences. */
  get warnings(): readonly string[] {
    return this.#warnings;
  }

  /**
   * Trains on the good images of a folder (`train/good` in the MVTec AD layout, else the folder's own images) or of a
   * list of files, then calibrates on images held back. A folder that holds folders of several products makes a unified
   * model: one network for all of them, which is told the product, and a calibration and threshold for each. Yields
   * after every step; leaving the loop stops the training.
   * Throws ERR_DATASET, ERR_IMAGE, ERR_FILE_WRITE, ERR_NUMERIC, ERR_ABORTED and more; see {@link DdadError}.
   */
  async *fit(dataset: string | readonly string[], options: FitOptions = {}): AsyncGenerator<Progress, void, undefined> {
    const relocate = callSite();
    let run: Run | undefined;
    const locks: FileLock[] = [];
    if (this.#busy) throw relocate(new DdadError('ERR_ARGUMENT', 'fit: this trainer is training already'));
    this.#busy = true;
    try {
      this.#release();
      const fitting = parseOptions(fitOptions, options);
      for (const file of [fitting.checkpoint, fitting.metrics]) {
        if (file !== undefined) locks.push(await FileLock.take(file));
      }
      run = await this.#open(dataset, fitting);
      yield* this.#train(run);
      yield* this.#calibrate(run);
    } catch (error) {
      throw relocate(error);
    } finally {
      run?.native.dispose();
      await run?.log?.close().catch(() => undefined); // has been closed, unless something else went wrong
      for (const lock of locks) await lock.release();
      this.#busy = false;
    }
  }

  /** Writes the trained model, replacing a file of that name at once when complete. Throws ERR_FILE_WRITE. */
  save(path: string): Promise<void> {
    return atCaller(async () => {
      const detector = this.#detector;
      if (!detector || !this.#config) {
        throw new DdadError('ERR_ARGUMENT', 'save: expected a trained model; let fit run to its end first');
      }
      const config = toEngineJson(this.#config);
      const dropped = await droppedSignature(path);
      await callNative(undefined, (token) => detector.save(path, config, token));
      if (dropped !== undefined) this.#warnings.push(dropped);
    });
  }

  /** Frees the trained model. */
  dispose(): void {
    this.#release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #release(): void {
    this.#detector?.dispose();
    this.#detector = undefined;
    this.#config = undefined;
    this.#warnings = [];
  }

  /** Finds the images, decides the configuration, and builds the network or reads it from the checkpoint. */
  async #open(dataset: string | readonly string[], options: FitOptions): Promise<Run> {
    const { signal, resume } = options;
    throwIfAborted(signal);
    const { device = 'auto', threads = 0, precision = 'float32' } = this.#options;
    const all = await findImages(dataset);
    const saved = resume === undefined ? undefined : await readCheckpoint(resume);
    // Images that a checkpoint was trained on could be read then; whether they are the same is seen below.
    const known = options.strictImages === true || saved?.state.fingerprint === all.fingerprint;
    const { images, unreadable } = known ? { images: all, unreadable: [] } : await readableImages(all, signal);
    const digests = await digestFiles(images.files, signal);
    if (saved) checkImages(resume as string, saved.state, images, digests);
    if (saved && !saved.state.digests) {
      this.#warnings.push('the checkpoint has no digests of its images: only their names and sizes were compared');
    }
    const most = availableParallelism();
    if (threads > most) {
      this.#warnings.push(`threads: ${threads} asked for, ${most} used: this process may use ${most} processors`);
    }
    if (images.leftOut.length > 0) {
      this.#warnings.push(`left out, since there is no train/good in it: ${images.leftOut.join(', ')}`);
    }
    if (images.overlays > 0) {
      this.#warnings.push(`left out, since ddad-native has written them: ${images.overlays} overlays`);
    }
    if (unreadable.length > 0) {
      const named = unreadable.slice(0, mostNamed).map(({ file, reason }) => `${file} (${reason})`);
      const more = unreadable.length > named.length ? ` and ${unreadable.length - named.length} more` : '';
      this.#warnings.push(`left out, since they cannot be read: ${named.join(', ')}${more}`);
    }
    const init = saved ? undefined : await openInit(this.#options.init);
    const config = saved ? this.#resumedConfig(saved, options) : await this.#newConfig(images, options, init);
    const backboneIn = resume ?? (init && keepsFeatures(init, this.#options) ? init.file : undefined);
    const backbone = config.features ? (backboneIn ?? findBackbone(this.#options.backbone ?? defaultBackbone)) : '';
    const engine = JSON.stringify({ device, threads, precision, backbone });
    const native = new (addon().NativeTrainer)(toEngineJson(config), engine);
    const { fingerprint, files } = images;
    const { step, elapsedMs, early } = saved?.state ?? { step: 0, elapsedMs: 0 };
    const state: CheckpointState = { step, elapsedMs, fingerprint, images: files.length, digests };
    if (early) {
      const continues = options.timeLimitMs ?? this.#options.steps ?? this.#options.earlyStopping;
      const ended = early.total !== undefined && step >= early.total;
      state.early = ended && continues !== undefined ? { looks: early.looks } : early;
      if (ended && continues === undefined) {
        this.#warnings.push(`training had ended by itself at ${step} steps; steps or a time limit would make it go on`);
      }
    }
    let log: MetricsLog | undefined;
    try {
      await callNative(signal, (token) => native.open(token)).catch((error: unknown) => {
        throw resume === undefined ? optionError(error) : modelError(error, resume);
      });
      // Whether the model can be scored with is not to be found out after hours of training.
      const early = await callNative(signal, () => native.toDetector(toEngineJson(config))).catch((error: unknown) => {
        throw optionError(error);
      });
      early.dispose();
      if (init) {
        const keepHead = keepsHead(init, config);
        await callNative(signal, (token) => native.initialize(init.file, keepHead, token));
      }
      if (resume !== undefined) await callNative(signal, (token) => native.loadCheckpoint(resume, token));
      this.#memoryUsage = memoryUsageOf(native.memory());
      if (options.metrics !== undefined) log = await MetricsLog.open(options.metrics, state.step);
    } catch (error) {
      native.dispose();
      throw error;
    }
    this.#config = config;
    return { config, images, native, state, options, log };
  }

  async #newConfig(
    images: ImageSet,
    { signal, timeLimitMs }: FitOptions,
    init: Init | undefined,
  ): Promise<ModelConfig> {
    const { files, products } = images;
    const chosenOptions = init ? initOptions(init, this.#options) : this.#options;
    const { channels = 'auto' } = chosenOptions;
    const gray = channels === 'auto' && (await allGray(files, signal));
    const chosen = {
      ...chosenOptions,
      channels: channels === 'auto' ? (gray ? ('gray' as const) : ('rgb' as const)) : channels,
    };
    const isKept = init && keepsFeatures(init, this.#options);
    const config = expandConfig(chosen, isKept ? [] : await readTaps(chosenOptions.backbone, signal), init?.config);
    if (init && isKept) copyFeatures(config, init, chosenOptions);
    config.training.timeLimitMs = timeLimitMs ?? null;
    if (timeLimitMs !== undefined && chosenOptions.steps === undefined) config.training.steps = null;
    const names = products.flatMap(({ name }) => name ?? []);
    if (init) checkClasses(init, names.length);
    if (names.length > 0) {
      config.unet.numClasses = names.length;
      config.products = names;
    }
    return config;
  }

  #resumedConfig({ config: saved, state }: Checkpoint, { timeLimitMs }: FitOptions): ModelConfig {
    const changes = this.#options;
    if (changes.steps !== undefined && changes.steps < state.step) {
      const nothing = `the checkpoint is at step ${state.step}, so there is nothing to do`;
      throw new DdadError(
        'ERR_OPTION',
        `option "steps": ${nothing}; expected ${state.step} or more, got ${changes.steps}`,
      );
    }
    const config = expandConfig(resumeOptions(saved, changes), undefined, saved);
    const { quantile } = config.training;
    Object.assign(config.unet, saved.unet);
    config.features = saved.features;
    const { rows } = config.score.evidence ?? {};
    const whole = config.input.mode === 'resize';
    const aligned = config.score.positions === true && !saved.training.rotation;
    const depth = saved.features?.depth ?? 0; // of the backbone that the checkpoint has
    config.score.evidence = rows === undefined ? null : evidenceOf(depth, { whole, aligned, rows });
    Object.assign(config.training, saved.training, { quantile });
    if (saved.products) config.products = saved.products;
    if (changes.earlyStopping) config.training.earlyStopping = true;
    else if (changes.steps !== undefined || changes.earlyStopping === false) delete config.training.earlyStopping;
    if (changes.positions !== undefined) delete config.training.placesMeasured;
    if (timeLimitMs !== undefined || changes.steps !== undefined) {
      Object.assign(config.training, { steps: changes.steps ?? null, timeLimitMs: timeLimitMs ?? null });
    }
    return config;
  }

  async *#train(run: Run): AsyncGenerator<Progress, void, undefined> {
    const { config, images, native, state, options, log } = run;
    const { signal } = options;
    const { training } = config;
    const every = 1000 * (options.checkpointEverySeconds ?? 30);
    const splits = splitProducts(images, training);
    const data = new TrainingData(
      splits.map(({ train }) => train),
      config,
    );
    const early = training.earlyStopping
      ? new EarlyStopping(
          native,
          config,
          splits.map(({ heldBack }) => heldBack),
          state,
        )
      : undefined;
    const total = (): number | null =>
      early?.total === undefined ? training.steps : Math.min(early.total, training.steps ?? Infinity);
    const labelsOf = (step: number): Int32Array | null => (config.products ? data.labels(step) : null);
    const earlier = state.elapsedMs;
    const start = performance.now();
    const elapsed = (): number => earlier + performance.now() - start;
    /** Share of the steps and the time that were asked for. */
    const planned = (): number =>
      Math.max(
        state.step / (training.steps ?? Infinity),
        training.timeLimitMs === null ? 0 : elapsed() / training.timeLimitMs,
      );
    const done = (): number => Math.max(planned(), state.step / (early?.total ?? Infinity));
    let savedAt = performance.now();
    let written = options.resume === options.checkpoint ? state.step : -1;
    const checkpoint = async (): Promise<void> => {
      if (options.checkpoint === undefined || written === state.step) return;
      // Without a time limit the time decides nothing; leaving it out makes equal states equal files.
      state.elapsedMs = training.timeLimitMs === null ? 0 : elapsed();
      // First, so that no step before a checkpoint is missing; a failure must not cost the checkpoint, and is told later.
      await log?.flush().catch(() => undefined);
      await writeCheckpoint(native, options.checkpoint, config, state);
      written = state.step;
      savedAt = performance.now();
    };

    if (state.step === 0 && config.features) {
      for (let i = 0; i * training.batchSize < Math.max(observedSamples, training.batchSize); i++) {
        const pixels = await data.batch(i, signal);
        await callNative(signal, (token) => native.observe(pixels, token));
      }
    }
    await checkpoint();
    let failed = false;
    let speed = 0;
    let next = data.batch(state.step, signal);
    next.catch(() => undefined);
    try {
      while (done() < 1) {
        const separation = await early?.look(signal);
        const began = performance.now();
        const pixels = await next;
        if (done() >= 1) break; // the time was over while it waited
        const labels = labelsOf(state.step);
        next = data.batch(state.step + 1, signal);
        next.catch(() => undefined); // reported when its turn comes
        const lr = training.lr * Math.max(0, 1 - planned()) * (1 - (early?.cooled ?? 0));
        const result = await callNative(signal, (token) => native.step(pixels, labels, lr, token));
        state.step = result.step;
        const rate = (1000 * training.batchSize) / (performance.now() - began);
        speed = speed === 0 ? rate : 0.95 * speed + 0.05 * rate;
        const progress: TrainProgress = {
          phase: 'train',
          step: state.step,
          steps: total(),
          atMost: early !== undefined && early.total === undefined,
          ...(separation === undefined ? {} : { separation }),
          done: Math.min(1, done()),
          loss: result.loss,
          mse: result.mse,
          vb: result.vb,
          feature: config.features ? result.feature : null,
          gradNorm: result.gradNorm,
          lr,
          samplesPerSecond: speed,
          elapsedMs: elapsed(),
          remainingMs: remaining({ ...training, steps: total() }, state.step, elapsed(), speed),
        };
        log?.add(progress);
        if (performance.now() - savedAt >= every) await checkpoint();
        yield progress;
      }
    } catch (error) {
      failed = true;
      throw error;
    } finally {
      await Promise.allSettled([checkpoint(), log?.close()]).then((ended) => {
        const wrong = ended.find((end) => end.status === 'rejected');
        if (!failed && wrong) throw wrong.reason; // else the first error is the one to tell
      });
    }
  }

  /** Normalisation and threshold from the images held back. */
  async *#calibrate(run: Run): AsyncGenerator<Progress, void, undefined> {
    const { config, images, native, options } = run;
    const splits = splitProducts(images, config.training);
    const heldBack = splits.map((split) => split.heldBack);
    this.#warn(images, heldBack, config.training.quantile);
    const fewest = Math.min(...heldBack.map(({ length }) => length));
    if (config.training.placesMeasured && config.score.normalization === 'calibration' && fewest < leastForPlaces) {
      this.#warnings.push(
        `the good images are taken as aligned: ${leastForPlaces} held-back images or more would tell, there are ${fewest}`,
      );
    }
    if (config.score.evidence && fewest < leastForEvidence) {
      config.score.evidence = null;
      this.#warnings.push(
        `the ensemble alone judges: ${leastForEvidence} held-back images or more would tell how much the features of good ` +
          `ones vary, there are ${fewest}`,
      );
    }
    const raw: ModelConfig = { ...config, score: { ...config.score, normalization: 'none' } };
    this.#memoryUsage = memoryUsageOf(native.memory());
    const detector = await callNative(options.signal, () => native.toDetector(toEngineJson(raw)));
    native.dispose();
    try {
      const { signal } = options;
      if (config.products) yield* calibrateProducts(detector, config, splits, signal);
      else yield* calibrate(detector, config, heldBack.flat(), { signal, trained: splits[0]?.train });
      this.#detector = detector;
    } finally {
      if (this.#detector !== detector) detector.dispose();
    }
  }

  #warn({ products }: ImageSet, heldBack: readonly (readonly string[])[], quantile: number): void {
    const of = (name: string | null): string => (name === null ? '' : `${name}: `);
    const few: { name: string | null; count: number }[] = [];
    for (const [i, { name, files }] of products.entries()) {
      const count = heldBack[i]?.length ?? 0;
      if (files.length < 2) {
        this.#warnings.push(`${of(name)}a single image is trained on and calibrated on: the threshold means little`);
      } else if (quantile < 1 && count * (1 - quantile) < 1) few.push({ name, count });
    }
    const [first] = few.sort((a, b) => a.count - b.count);
    if (!first) return;
    this.#warnings.push(
      `${of(first.name)}the threshold is the quantile ${quantile} of only ${first.count} held-back images, close to ` +
        `their largest score (${Math.ceil(1 / (1 - quantile))} images or more would tell false alarms that rare)` +
        (few.length > 1 ? `; so it is for ${few.length - 1} more of the ${products.length} products` : ''),
    );
  }
}

/** Images that cannot be read and are named one by one. */
const mostNamed = 5;

/** Held-back images that the spread of each value of the evidence is told from. */
const leastForEvidence = 4;

/** Samples whose features give the mean and standard deviation of each channel. */
const observedSamples = 64;

/** The images of each product that are trained on, and those held back. */
function splitProducts({ products }: ImageSet, { holdOut, seed }: ModelConfig['training']) {
  return products.map(({ files }, label) => splitHeldBack(files, holdOut, seed, label));
}

function remaining(training: ModelConfig['training'], step: number, elapsedMs: number, speed: number): number {
  const byTime = training.timeLimitMs === null ? Infinity : training.timeLimitMs - elapsedMs;
  const samples = training.steps === null ? Infinity : (training.steps - step) * training.batchSize;
  return Math.max(0, Math.min(byTime, (1000 * samples) / speed));
}

async function writeCheckpoint(
  native: NativeTrainer,
  path: string,
  config: ModelConfig,
  state: CheckpointState,
): Promise<void> {
  const metadata = toEngineJson({ ...config, checkpoint: state });
  // Not cancellable: what an aborted run keeps is written here.
  await callNative(undefined, (token) => native.saveCheckpoint(path, metadata, token));
}
