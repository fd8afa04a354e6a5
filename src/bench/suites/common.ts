import { expandConfig, type ModelConfig } from '../../config/config.js';
import { toEngineJson } from '../../config/engine-json.js';
import { DdadError } from '../../base/errors.js';
import { addon, addonPath, callNative, type ProfileKind } from '../../engine/native.js';
import { medianOf, undisturbed } from '../statistics.js';
import type { Figure, Task } from '../types.js';

/** Measures in this process, once it has warmed up. */
export type Suite = (task: Task) => Promise<Figure[]>;

/** The batch of a training step in every suite. */
export const trainingBatch = 8;

/** Whole seconds to spend on a figure. */
export const budget = ({ quick }: Task): number => (quick ? 0.3 : 1);

export const engineOptions = ({ threads }: Task): { device: 'cpu'; threads: number } => ({ device: 'cpu', threads });

/** The configuration of a preset for RGB images; `backbone` null leaves out the features. */
export function configOf({ preset }: Task, backbone?: null): ModelConfig {
  return expandConfig({
    preset,
    channels: 'rgb',
    batchSize: trainingBatch,
    ...(backbone === null ? { backbone, normalization: 'none', memoryBank: null } : {}),
  });
}

/** Calls the engine's profiler. Throws ERR_ADDON for a build that has none. */
export async function profile<T>(
  what: ProfileKind,
  config: ModelConfig | null,
  options: { batch: number; threads: number; samples: number; seconds: number },
): Promise<T> {
  const engine = addon();
  const run = engine.profile?.bind(engine);
  if (!run) throw new DdadError('ERR_ADDON', `${addonPath()}: expected a build that can profile, got an older one`);
  const text = JSON.stringify({ device: 'cpu', ...options });
  return JSON.parse(await callNative(undefined, (token) => run(what, toEngineJson(config ?? {}), text, token))) as T;
}

/** What the machine reaches at best just now, and the middle rate of multiply-adds; nothing with a build without it. */
export async function machineFigures({ threads }: Task): Promise<{ machine: Figure[]; middle?: number }> {
  if (!addon().profile) return { machine: [] };
  const options = { batch: 1, threads, samples: 3, seconds: 0 };
  const ceiling = await profile<{ flopsPerSecond: number[]; bytesPerSecond: number[] }>('ceiling', null, options);
  const machine: Figure[] = [
    { name: 'multiply-add', unit: 'GFLOP/s', value: Math.max(...ceiling.flopsPerSecond) / 1e9 },
    { name: 'copy', unit: 'GB/s', value: Math.max(...ceiling.bytesPerSecond) / 1e9 },
  ];
  return { machine, middle: medianOf(ceiling.flopsPerSecond) };
}

/** Milliseconds of `run`, again and again until the seconds are over, at least three times, after once to warm up. */
export async function timesOf(run: () => Promise<unknown>, seconds: number): Promise<number[]> {
  await run();
  const times: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (times.length < 3 || performance.now() < end) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  return times;
}

/** A time in milliseconds, from those of one process. */
export function timeFigure(name: string, times: readonly number[], details?: Figure['details']): Figure {
  return { name, unit: 'ms', value: undisturbed(times), ...(details && { details }) };
}
