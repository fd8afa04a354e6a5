import path from 'node:path';
import { defaultMemoryBank } from '../config/config.js';
import { defaultEvidenceRows } from '../config/evidence.js';
import { type TrainerOptions } from '../config/options.js';
import { defaultPreset, presetNames } from '../config/presets.js';
import { isOwnFile, readCheckpoint } from '../model/model-file.js';
import { type FitOptions, type Progress, Trainer } from '../training/trainer.js';
import type { Command } from './command.js';
import { makeFolder, writing } from '../files/write.js';
import { FileLock } from '../files/lock.js';
import { addon } from '../engine/native.js';
import { checkOutput, forceFlag } from './outputs.js';
import { duration, images, log, memoryLine, peakMemory, print, ProgressLine, short } from './output.js';
import {
  checkWhole,
  deviceFlags,
  exitCodes,
  number,
  parseDuration,
  parseNumbers,
  parseTopPixels,
  text,
  UsageError,
} from './usage.js';

function show(line: ProgressLine, progress: Progress): void {
  const left = `${duration(progress.remainingMs)} left`;
  if (progress.phase === 'calibrate') {
    line.update('calibrate', progress.done, `${progress.step}/${progress.steps} images scored  ${left}`);
    return;
  }
  const { step, steps, atMost, loss, samplesPerSecond } = progress;
  const count = steps === null ? `step ${step}` : `step ${step}/${steps}`;
  const most = atMost ? 'at most ' : '';
  line.update(
    'train',
    progress.done,
    `${count}  loss ${short(loss)}  ${samplesPerSecond.toFixed(1)} samples/s  ${most}${left}`,
  );
}

export const trainCommand: Command<TrainArguments> = {
  usage: 'train <dataset>',
  describe: 'Learn what good parts look like from a folder of good images',
  positionals: {
    dataset: 'A folder of good images, or one in the MVTec AD layout (train/good), or one of such products',
  },
  flags: {
    out: { ...text('out', 'The model file to write'), demandOption: true },
    preset: { choices: presetNames, describe: `Size of the network  [default: ${defaultPreset}]` },
    mode: {
      choices: ['resize', 'crop'],
      describe: 'resize: aligned parts, whole images; crop: textures, random windows  [default: by preset]',
    },
    size: number('size', 'Input size in pixels', 'by preset'),
    channels: { choices: ['auto', 'gray', 'rgb'], describe: 'auto: gray when all images are  [default: auto]' },
    steps: number('steps', 'Optimiser steps', "training ends by itself, with the preset's at the latest"),
    'early-stopping': {
      type: 'boolean',
      describe:
        'End by itself when more training does not help; --no-early-stopping: never  [default: where no --steps are given]',
    },
    positions: {
      type: 'boolean',
      describe: 'Tell the places of the image apart, as for aligned parts  [default: measured, in mode resize]',
    },
    'time-limit': text('time-limit', 'Time for training, such as 30s, 5m, 1h30m'),
    'batch-size': number('batch-size', 'Samples a step', 'by preset'),
    lr: number('lr', 'Learning rate at the start; falls to 0 at the end', 'by preset'),
    flip: {
      choices: ['none', 'horizontal', 'vertical', 'both'],
      describe: 'Mirror training samples at random  [default: none]',
    },
    rotation: number('rotation', 'Turn training samples at random, by at most so many degrees', '0'),
    seed: number('seed', 'Decides order, windows and noise', '0'),
    scales: text('scales', 'Noise steps to score', '5,50,100'),
    'top-pixels': text('top-pixels', 'Score: mean of so many of the largest map values, or a share: 50%', '64'),
    backbone: text(
      'backbone',
      'Pretrained weights whose features are predicted: a file, lite1, lite2 or none',
      "the package's Lite0",
    ),
    'memory-bank': number(
      'memory-bank',
      'Patches of good images whose residuals the model keeps; --no-memory-bank: none',
      '20000 in mode resize',
    ),
    evidence: number(
      'evidence',
      'Features of good images that the model keeps in each bank; 0: the ensemble alone judges',
      String(defaultEvidenceRows),
    ),
    alpha: number('alpha', 'Weight of the pixel-level score, 0 to 1; the feature-level score has the rest', 'by mode'),
    quantile: number('quantile', "Of the held-back images' scores, becomes the threshold", '0.99'),
    checkpoint: text('checkpoint', 'File that keeps the state to resume from', '<out>.checkpoint.safetensors'),
    'checkpoint-every': text('checkpoint-every', 'Time between two checkpoints', '30s'),
    metrics: text('metrics', 'File that gets a line of JSON a step: loss, gradient, learning rate, speed'),
    init: text('init', 'Model to start from, such as import makes; its network and input are the default'),
    resume: text('resume', 'Checkpoint to go on from'),
    'strict-images': {
      type: 'boolean',
      default: false,
      describe: 'Stop where an image cannot be read, instead of leaving it out with a warning',
    },
    ...forceFlag,
    ...deviceFlags,
  },
  example: ['$0 train parts/ --out part.safetensors --mode resize --time-limit 10m', 'Train for ten minutes'],
  work: train,
};

interface TrainArguments extends Pick<
  TrainerOptions,
  | 'preset'
  | 'mode'
  | 'size'
  | 'channels'
  | 'steps'
  | 'earlyStopping'
  | 'positions'
  | 'batchSize'
  | 'lr'
  | 'flip'
  | 'rotation'
  | 'seed'
  | 'quantile'
  | 'alpha'
  | 'init'
  | 'device'
  | 'precision'
  | 'threads'
> {
  dataset: string;
  out: string;
  force: boolean;
  json: boolean;
  timeLimit?: string;
  scales?: string;
  topPixels?: string;
  backbone?: string;
  memoryBank?: number;
  evidence?: number;
  checkpoint?: string;
  checkpointEvery?: string;
  resume?: string;
  metrics?: string;
  strictImages: boolean;
}

/** Rows and patches that a model may keep. */
const mostKept = 1_000_000;

async function train(argv: TrainArguments, signal: AbortSignal): Promise<number> {
  checkWhole('memory-bank', argv.memoryBank, 0, mostKept);
  checkWhole('evidence', argv.evidence, 0, mostKept);
  const { preset, mode, size, channels, steps, batchSize, lr, flip, rotation, seed, quantile, alpha, init } = argv;
  const { device, precision, threads, earlyStopping, positions } = argv;
  const trainer = new Trainer({
    ...{ preset, mode, size, channels, steps, batchSize, lr, flip, rotation, seed, quantile, alpha },
    ...{ init, device, precision, threads, earlyStopping, positions },
    ...(argv.scales === undefined ? {} : { scales: parseNumbers('scales', argv.scales) }),
    ...(argv.backbone === undefined ? {} : { backbone: argv.backbone === 'none' ? null : argv.backbone }),
    ...(argv.memoryBank === undefined
      ? {}
      : { memoryBank: argv.memoryBank === 0 ? null : { ...defaultMemoryBank, patches: argv.memoryBank } }),
    ...(argv.evidence === undefined ? {} : { evidence: argv.evidence === 0 ? null : { rows: argv.evidence } }),
    ...(argv.topPixels === undefined ? {} : { topPixels: parseTopPixels(argv.topPixels) }),
  });
  const timeLimitMs = argv.timeLimit === undefined ? undefined : parseDuration('time-limit', argv.timeLimit);
  const checkpointEverySeconds = parseDuration('checkpoint-every', argv.checkpointEvery ?? '30s') / 1000;
  const checkpoint = argv.checkpoint ?? `${argv.out.replace(/\.safetensors$/, '')}.checkpoint.safetensors`;
  const { metrics } = argv;
  for (const [name, file] of Object.entries({ checkpoint, metrics })) {
    if (file === undefined || path.resolve(file) !== path.resolve(argv.out)) continue;
    throw new UsageError(`--${name}: expected another file than --out, got "${file}"`);
  }
  await checkOutput(argv.out, 'model', argv.force);
  await checkOutput(checkpoint, 'checkpoint', argv.force);
  if (metrics !== undefined) await writing(metrics, () => makeFolder(path.dirname(path.resolve(metrics))));
  const lock = await FileLock.take(argv.out);
  try {
    return await trainLocked(argv, trainer, { signal, timeLimitMs, checkpointEverySeconds, checkpoint });
  } finally {
    trainer.dispose();
    await lock.release();
  }
}

/** What early stopping has seen at a step. */
interface Look {
  step: number;
  separation: number;
}

/** What to say of a run that has ended early. */
async function adviceOf(checkpoint: string): Promise<string> {
  if (await isOwnFile(checkpoint)) return `interrupted; go on with --resume ${checkpoint}`;
  return `interrupted; its checkpoint ${checkpoint} is gone, so train anew`;
}

async function trainLocked(
  argv: TrainArguments,
  trainer: Trainer,
  given: FitOptions & { checkpoint: string },
): Promise<number> {
  const { checkpoint } = given;
  const line = new ProgressLine();
  const start = performance.now();
  let last: Progress | undefined;
  let loss = Number.NaN;
  let done = 0;
  const looks: Look[] = [];
  try {
    const { dataset, resume, metrics, strictImages } = argv;
    // where no step is left, those before are all; what cannot be read is refused below
    if (resume !== undefined)
      done = await readCheckpoint(resume).then(
        ({ state }) => state.step,
        () => 0,
      );
    const options = { ...given, resume, metrics, strictImages };
    for await (const progress of trainer.fit(dataset, options)) {
      last = progress;
      if (progress.phase === 'train') {
        [loss, done] = [progress.loss, progress.step];
        const { separation } = progress;
        if (separation !== undefined) looks.push({ step: done - 1, separation });
      }
      show(line, progress);
    }
  } catch (error) {
    line.stop();
    if (last) log(await adviceOf(checkpoint)); // written before the first step, and since
    throw error;
  }
  line.stop();
  await trainer.save(argv.out);
  for (const warning of trainer.warnings) log(`warning: ${warning}`);
  const { fallback } = JSON.parse(addon().info()) as { fallback: string | null };
  if (fallback !== null) log(`device: auto was the CPU: ${fallback}`);
  log(memoryLine(trainer.memoryUsage));
  const { threshold = null, calibration = null, perProduct } = trainer.config ?? {};
  const products = Object.entries(perProduct ?? {}).map(([product, own]) => {
    const aligned = own.calibration?.aligned;
    return { product, threshold: own.threshold, calibrationImages: own.calibration?.images ?? 0, aligned };
  });
  for (const { product, aligned } of [{ product: '', aligned: calibration?.aligned }, ...products]) {
    if (aligned === undefined) continue;
    const verdict = aligned ? 'aligned: each place' : 'not aligned: no place';
    log(`${product && `${product}: `}the good images are ${verdict} of the image has statistics of its own`);
  }
  const [before, decided] = looks.slice(-2);
  if (before && decided && done > decided.step && done < decided.step * 2) {
    const at = ({ step, separation }: Look): string => `${short(separation)} at ${step} steps`;
    log(`ended by itself: AUROC of damage in held-back images was ${at(before)} and ${at(decided)}`);
  }
  if (argv.json) {
    const result = {
      model: argv.out,
      checkpoint,
      steps: done,
      loss: Number.isNaN(loss) ? null : loss,
      looks,
      aligned: calibration?.aligned ?? null,
      threshold,
      calibrationImages: products.reduce((sum, one) => sum + one.calibrationImages, calibration?.images ?? 0),
      ...(perProduct && { products }),
      elapsedMs: Math.round(performance.now() - start),
      memoryUsage: { ...trainer.memoryUsage, peak: peakMemory() },
      warnings: trainer.warnings,
    };
    print(JSON.stringify(result));
  } else {
    const took = duration(performance.now() - start);
    const limit = (value: number | null, of: number): string =>
      `threshold ${value === null ? '-' : short(value)} (${images(of)} held back)`;
    const trained = Number.isNaN(loss) ? `${done} steps trained before, calibrated` : `${done} steps`;
    const head = `${argv.out}: ${trained} in ${took}${Number.isNaN(loss) ? '' : `, loss ${short(loss)}`}`;
    print(
      perProduct ? `${head}, ${products.length} products` : `${head}, ${limit(threshold, calibration?.images ?? 0)}`,
      ...products.map((one) => `  ${one.product}: ${limit(one.threshold, one.calibrationImages)}`),
    );
  }
  return exitCodes.done;
}
