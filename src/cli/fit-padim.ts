import type { DeviceOptions } from '../config/options.js';
import type { Command } from './command.js';
import { loadModel, trustFlag, type TrustArguments } from './load.js';
import { checkOutput, forceFlag } from './outputs.js';
import { duration, log, memoryLine, print, ProgressLine } from './output.js';
import { deviceFlags, exitCodes, number, text } from './usage.js';

interface FitPadimArguments extends DeviceOptions, TrustArguments {
  model: string;
  dataset: string;
  out: string;
  channels?: number;
  seed?: number;
  places?: boolean;
  force: boolean;
  json: boolean;
}

export const fitPadimCommand: Command<FitPadimArguments> = {
  usage: 'fit-padim <model> <dataset>',
  describe: 'Add the Gaussian of good features to a model, for "reconstruct --method gradient" and "--score padim"',
  positionals: { model: 'A model file', dataset: 'Its good images: a folder, or one with train/good' },
  flags: {
    out: { ...text('out', 'Model file to write'), demandOption: true },
    channels: number('channels', 'Channels of the features that it is over', '100'),
    seed: number('seed', 'Which channels', '0'),
    places: { type: 'boolean', describe: 'A Gaussian for each place  [default: where the model takes images whole]' },
    ...forceFlag,
    ...trustFlag,
    ...deviceFlags,
  },
  example: ['$0 fit-padim part.safetensors parts/ --out part-padim.safetensors', 'Then reconstruct images with it'],
  work: fit,
};

async function fit(argv: FitPadimArguments, signal: AbortSignal): Promise<number> {
  const { model, dataset, out, channels, seed, places, device, precision, threads } = argv;
  await checkOutput(out, 'model', argv.force);
  await using detector = await loadModel(model, { device, precision, threads, trustedKey: argv.trustedKey, signal });
  const progress = new ProgressLine();
  try {
    await detector.fitPadim(dataset, {
      ...(channels === undefined ? {} : { channels }),
      ...(seed === undefined ? {} : { seed }),
      ...(places === undefined ? {} : { places }),
      onProgress: ({ step, steps, done, remainingMs }) =>
        progress.update('fit', done, `${step}/${steps} images  ${duration(remainingMs)} left`),
      signal,
    });
  } finally {
    progress.stop();
  }
  const known = detector.warnings.length;
  await detector.save(out);
  for (const warning of detector.warnings.slice(known)) log(`warning: ${warning}`);
  const { padim } = detector.config;
  if (argv.json) print(JSON.stringify({ model: out, padim }));
  log(`fitted on ${padim?.images} images, ${padim?.channels.length} channels`);
  log(memoryLine(detector.memoryUsage));
  log(`written to ${out}`);
  return exitCodes.done;
}
