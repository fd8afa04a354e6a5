import os from 'node:os';
import sharp from 'sharp';
import { addon, addonPath } from '../engine/native.js';
import { checkModel } from '../model/signature.js';
import type { DeviceOptions } from '../config/options.js';
import { type PresetName, presetNames, presets } from '../config/presets.js';
import { trainingMemory } from '../training/training-memory.js';
import { packageVersion } from '../base/package.js';
import type { Command } from './command.js';
import { loadModel, readKey, trustFlag, type TrustArguments } from './load.js';
import { megabytes, peakMemory, print, short } from './output.js';
import { deviceFlags, exitCodes, number, UsageError } from './usage.js';

interface InfoArguments extends DeviceOptions, TrustArguments {
  model?: string;
  preset?: PresetName;
  batchSize?: number;
  check: boolean;
  json: boolean;
}

export const infoCommand: Command<InfoArguments> = {
  usage: 'info [model]',
  describe: 'Devices, instruction sets, library versions, memory; what a model file holds, or what training takes',
  positionals: { model: 'A model file' },
  flags: {
    preset: { choices: [...presetNames], describe: 'Say how much memory training with this preset takes' },
    check: { type: 'boolean', default: false, describe: 'Compare the file with its digest, and do nothing else' },
    ...trustFlag,
    'batch-size': number('batch-size', 'Images in a batch of that training', "the preset's"),
    ...deviceFlags,
  },
  work: async (argv, signal) => {
    const { model, preset, json } = argv;
    if (model !== undefined && preset !== undefined) throw new UsageError('--preset: expected it without a model file');
    if (preset === undefined && argv.batchSize !== undefined) throw new UsageError('--batch-size: needs a --preset');
    if (argv.check && model === undefined) throw new UsageError('--check: needs a model file');
    const info =
      preset !== undefined
        ? await describeTraining(preset, argv, signal)
        : model === undefined
          ? engine()
          : argv.check
            ? await check(model, argv, signal)
            : await describeModel(model, argv, signal);
    print(...(json ? [JSON.stringify(info)] : lines(info)));
    return exitCodes.done;
  },
};

async function describeTraining(preset: PresetName, argv: InfoArguments, signal: AbortSignal): Promise<object> {
  const { batchSize, device, precision, threads } = argv;
  const { largestBatch, ...bytes } = await trainingMemory({ preset, batchSize, device, precision, threads }, signal);
  const memory = argv.json ? bytes : mapValues(bytes, megabytes);
  return { preset, batchSize: batchSize ?? presets[preset].batchSize, trainingMemory: memory, largestBatch };
}

const mapValues = <T>(values: Record<string, number>, by: (value: number) => T): Record<string, T> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, by(value)]));

function engine(): Record<string, unknown> {
  return {
    version: packageVersion(),
    node: process.version,
    sharp: sharp.versions.sharp,
    libvips: sharp.versions.vips,
    addon: addonPath(),
    engine: JSON.parse(addon().info()) as unknown,
    memory: { total: megabytes(os.totalmem()), free: megabytes(os.freemem()), process: megabytes(peakMemory()) },
  };
}

async function check(model: string, { trustedKey }: InfoArguments, signal: AbortSignal): Promise<object> {
  const key = trustedKey === undefined ? {} : { trustedKey: await readKey(trustedKey) };
  return checkModel(model, { ...key, signal });
}

async function describeModel(
  model: string,
  { trustedKey }: InfoArguments,
  signal: AbortSignal,
): Promise<Record<string, unknown>> {
  await using detector = await loadModel(model, { trustedKey, signal });
  return { model, ...detector.config, memoryUsage: mapValues(detector.memoryUsage, megabytes) };
}

/** More values than this are told by their number and range; `--json` has them all. */
const mostListed = 16;

function listed(values: readonly unknown[]): string {
  if (values.length <= mostListed) return values.join(', ') || 'none';
  if (!values.every((value) => typeof value === 'number')) return `${values.length} values`;
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) [least, most] = [Math.min(least, value), Math.max(most, value)];
  return `${values.length} values from ${short(least)} to ${short(most)}`;
}

/** Nested values as indented `name: value` lines. */
function lines(value: object, indent = ''): string[] {
  return Object.entries(value).flatMap(([name, inner]: [string, unknown]) => {
    if (inner !== null && typeof inner === 'object' && !Array.isArray(inner)) {
      return [`${indent}${name}:`, ...lines(inner, `${indent}  `)];
    }
    if (Array.isArray(inner) && inner.some((item) => item !== null && typeof item === 'object')) {
      return [`${indent}${name}:`, ...inner.flatMap((item) => lines(item as object, `${indent}  `))];
    }
    return [`${indent}${name}: ${Array.isArray(inner) ? listed(inner) : String(inner)}`];
  });
}
