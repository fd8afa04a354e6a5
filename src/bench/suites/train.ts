import { pixelSize } from '../../config/config.js';
import { toEngineJson } from '../../config/engine-json.js';
import { defaultBackbone } from '../../config/backbones.js';
import { addon, callNative, type NativeTrainer } from '../../engine/native.js';
import { syntheticPixels } from '../synthetic.js';
import type { Task } from '../types.js';
import { budget, configOf, engineOptions, type Suite, timeFigure, timesOf, trainingBatch } from './common.js';

/** A trainer that is ready for its first step, and the step. */
export async function openTrainer(task: Task): Promise<{ native: NativeTrainer; step: () => Promise<unknown> }> {
  const config = configOf(task);
  const options = JSON.stringify({ ...engineOptions(task), backbone: defaultBackbone });
  const native = new (addon().NativeTrainer)(toEngineJson(config), options);
  await callNative(undefined, (token) => native.open(token));
  const size = pixelSize(config);
  const pixels = Float32Array.from(syntheticPixels(size, size * trainingBatch, 1), (value) => value / 127.5 - 1);
  await callNative(undefined, (token) => native.observe(pixels, token));
  return { native, step: () => callNative(undefined, (token) => native.step(pixels, null, 1e-4, token)) };
}

/** Training steps, features and optimiser included. */
export const trainSuite: Suite = async (task) => {
  const { native, step } = await openTrainer(task);
  const times = await timesOf(step, budget(task));
  native.dispose();
  return [timeFigure(`${task.preset} step, batch ${trainingBatch}`, times)];
};
