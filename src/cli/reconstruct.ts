import { rmdir } from 'node:fs/promises';
import path from 'node:path';
import type { DeviceOptions } from '../config/options.js';
import type { DdadError } from '../base/errors.js';
import { toDdadError } from '../base/errors.js';
import { isFolder, makeFolder, writing } from '../files/write.js';
import { removeLeftovers } from '../files/leftovers.js';
import { type Reconstruction, reconstructMethods, type ReconstructProgress } from '../scoring/reconstruct.js';
import type { Command } from './command.js';
import { type Entry, listImages } from './image-list.js';
import { loadModel, trustFlag, type TrustArguments } from './load.js';
import { checkReplaceable, forceFlag, writePicture } from './outputs.js';
import { duration, images, log, memoryLine, print, ProgressLine, short } from './output.js';
import {
  checkWhole,
  deviceFlags,
  exitCodes,
  type MemoryArguments,
  memoryBudgetOf,
  memoryFlag,
  number,
  text,
} from './usage.js';

interface ChainArguments extends DeviceOptions, TrustArguments {
  model: string;
  out: string;
  respacing?: string;
  eta?: number;
  seed?: number;
  previews?: number;
  product?: string;
  force: boolean;
  json: boolean;
}

const chainFlags = {
  respacing: text('respacing', 'Steps kept of the chain: 250, 10,15,20, ddim50 or all', '250'),
  eta: number('eta', 'Noise of method ddim, 0 to 1', '0'),
  seed: number('seed', 'Of the noise', '0'),
  previews: number('previews', 'Images of the way there to write, evenly spread', '0'),
  product: text('product', 'What the images show; a unified model needs it'),
  ...forceFlag,
};

/** What the flags of both commands ask for. */
function chainOptions({ respacing, eta, seed, previews, product }: ChainArguments) {
  return {
    ...(respacing === undefined ? {} : { respacing: respacing === 'all' ? null : respacing }),
    ...(eta === undefined ? {} : { eta }),
    ...(seed === undefined ? {} : { seed }),
    ...(previews === undefined ? {} : { previews }),
    ...(product === undefined ? {} : { product }),
  };
}

interface ReconstructArguments extends ChainArguments, MemoryArguments {
  images: string[];
  method?: (typeof reconstructMethods)[number];
  step?: number;
  rounds?: number;
  gradientSteps?: number;
  stepSize?: number;
  batch?: number;
}

export const reconstructCommand: Command<ReconstructArguments> = {
  usage: 'reconstruct <model> <images..>',
  describe: 'Take images back to what the model knows of good ones',
  positionals: { model: 'A model file', images: 'Image files, or folders of them' },
  flags: {
    out: { ...text('out', 'Folder for <name>.reconstruction.png'), demandOption: true },
    method: {
      choices: reconstructMethods,
      describe: 'How; gradient needs "fit-padim" before  [default: gradient where the model can, else ddim]',
    },
    step: number('step', 'Of the chain: where ddpm and ddim begin, or the step that denoises', '50, gradient: 8'),
    rounds: number('rounds', 'Of method gradient', '100'),
    'gradient-steps': number('gradient-steps', 'Of a round', '5'),
    'step-size': number('step-size', 'Of method gradient', '0.02'),
    batch: number('batch', 'Images that go through the network together', '1'),
    ...chainFlags,
    ...trustFlag,
    ...memoryFlag,
    ...deviceFlags,
  },
  example: ['$0 reconstruct part.safetensors photos/ --out clean/ --method ddim', 'Write the photos without defects'],
  work: reconstruct,
};

interface SampleArguments extends ChainArguments {
  method: 'ddpm' | 'ddim';
  count?: number;
  batch?: number;
}

export const sampleCommand: Command<SampleArguments> = {
  usage: 'sample <model>',
  describe: 'Make images of noise, such as the model takes for good',
  positionals: { model: 'A model file' },
  flags: {
    out: { ...text('out', 'Folder for sample-<number>.png'), demandOption: true },
    count: number('count', 'How many', '1'),
    method: { choices: ['ddpm', 'ddim'], default: 'ddpm', describe: 'How' },
    batch: number('batch', 'Images that go through the network together', '4'),
    ...chainFlags,
    ...trustFlag,
    ...deviceFlags,
  },
  example: ['$0 sample part.safetensors --out samples/ --count 4', 'See what a model has learned'],
  work: sample,
};

/** Shows how far a batch is, within all of them. */
function reporter(progress: ProgressLine, title: string, before: number, size: number, all: number) {
  return ({ step, steps, done, distance, remainingMs }: ReconstructProgress): void => {
    const distanceText = distance === null ? '' : `  distance ${short(distance)}`;
    progress.update(
      title,
      (before + size * done) / all,
      `${before}/${all} images, step ${step}/${steps}${distanceText}  ${duration(remainingMs)} left of these`,
    );
  };
}

const sampleName = (number: number): string => `sample-${String(number).padStart(3, '0')}`;

/**
 * Makes the folder of the output, and refuses to replace what is not ours before there is any work. Resolves to what
 * removes the folder again where it is new and nothing came of it.
 */
async function prepare({ out, force }: ChainArguments, names: readonly string[]): Promise<() => Promise<void>> {
  const isNew = !(await isFolder(out));
  await writing(out, () => makeFolder(path.resolve(out)));
  await removeLeftovers(out);
  for (const name of names) await checkReplaceable(path.join(out, name), 'picture', force);
  return async () => {
    if (isNew) await rmdir(out).catch(() => undefined); // something is in it, then
  };
}

/** Writes an image and those of the way there; returns what the command says of it. */
async function write(
  { out, force }: ChainArguments,
  name: string,
  found: Reconstruction,
): Promise<{ file: string; previews: string[] }> {
  const put = async (file: string, png: Buffer): Promise<string> => {
    await checkReplaceable(file, 'picture', force);
    await writePicture(file, png);
    return file;
  };
  const file = await put(path.join(out, `${name}.png`), await found.png());
  const previews: string[] = [];
  for (const { step, image } of found.trajectory) {
    previews.push(await put(path.join(out, `${name}.${String(step).padStart(4, '0')}.png`), await found.png(image)));
  }
  return { file, previews };
}

/** Reconstructions and images of the way there. */
const ownName = /\.reconstruction(\.\d{4,})?\.png$/;

async function reconstruct(argv: ReconstructArguments, signal: AbortSignal): Promise<number> {
  const { model, out, method, step, rounds, gradientSteps, stepSize, device, precision, threads } = argv;
  const size = checkWhole('batch', argv.batch ?? 1, 1, 64);
  await using detector = await loadModel(model, {
    ...{ device, precision, threads, trustedKey: argv.trustedKey },
    memoryBudget: memoryBudgetOf(argv),
    signal,
  });
  const folder = path.resolve(out) + path.sep;
  const isOutput = (file: string): boolean => path.resolve(file).startsWith(folder) && ownName.test(file);
  const entries = await listImages(argv.images.map(String), isOutput);
  const undo = await prepare(
    argv,
    entries.map(({ name }) => `${name}.reconstruction.png`),
  );
  const progress = new ProgressLine();
  const options = {
    ...(method === undefined ? {} : { method }),
    ...chainOptions(argv),
    ...(step === undefined ? {} : { step }),
    ...(rounds === undefined ? {} : { rounds }),
    ...(gradientSteps === undefined ? {} : { gradientSteps }),
    ...(stepSize === undefined ? {} : { stepSize }),
  };
  let failed = 0;
  const some = async (group: readonly Entry[], before: number): Promise<void> => {
    const onProgress = reporter(progress, 'reconstruct', before, group.length, entries.length);
    const paths = group.map(({ image }) => image);
    try {
      const reconstructions = await detector.reconstructAll(paths, { ...options, onProgress, signal });
      for (const [i, entry] of group.entries()) await tell(entry, reconstructions[i] as Reconstruction);
    } catch (thrown) {
      const error = toDdadError(thrown);
      // of one image, or of several that are not of one size: each alone then
      if (error.code !== 'ERR_IMAGE' && !(error.code === 'ERR_ARGUMENT' && group.length > 1)) throw error;
      if (group.length > 1) for (const [i, entry] of group.entries()) await some([entry], before + i);
      else refused(paths[0] as string, error);
    }
  };
  const tell = async (entry: Entry, found: Reconstruction): Promise<void> => {
    const { file, previews } = await write(argv, `${entry.name}.reconstruction`, found);
    const { image } = entry;
    if (argv.json) print(JSON.stringify({ image, reconstruction: file, previews, distances: found.distances }));
    else print(`${file}  ${image}`);
  };
  const refused = (image: string, error: DdadError): void => {
    failed += 1;
    log(`ddad-native: ${error.code}: ${error.message}`);
    if (argv.json) print(JSON.stringify({ image, error: { code: error.code, message: error.message } }));
  };
  try {
    for (let at = 0; at < entries.length; at += size) await some(entries.slice(at, at + size), at);
  } finally {
    progress.stop();
    await undo();
  }
  log(`${images(entries.length)}, ${failed} failed, written to ${out}`);
  log(memoryLine(detector.memoryUsage));
  return failed > 0 ? exitCodes.failed : exitCodes.done;
}

async function sample(argv: SampleArguments, signal: AbortSignal): Promise<number> {
  const { model, out, method, device, precision, threads } = argv;
  const all = checkWhole('count', argv.count ?? 1, 1, 100_000);
  const size = Math.min(all, checkWhole('batch', argv.batch ?? 4, 1, 64));
  await using detector = await loadModel(model, { device, precision, threads, trustedKey: argv.trustedKey, signal });
  const undo = await prepare(
    argv,
    Array.from({ length: all }, (_, i) => `${sampleName(i)}.png`),
  );
  const progress = new ProgressLine();
  try {
    for (let first = 0; first < all; first += size) {
      const count = Math.min(size, all - first);
      const onProgress = reporter(progress, 'sample', first, count, all);
      const samples = await detector.sample({ method, ...chainOptions(argv), count, first, onProgress, signal });
      for (const [i, one] of samples.entries()) {
        const { file, previews } = await write(argv, sampleName(first + i), one);
        print(argv.json ? JSON.stringify({ sample: file, previews }) : file);
      }
    }
  } finally {
    progress.stop();
    await undo();
  }
  log(`${images(all)} written to ${out}`);
  log(memoryLine(detector.memoryUsage));
  return exitCodes.done;
}
