import { Detector } from '../../scoring/detector.js';
import { quantileOf } from '../statistics.js';
import { imageSizes, modelFile, syntheticPng } from '../synthetic.js';
import type { Task } from '../types.js';
import { budget, engineOptions, type Suite, timesOf } from './common.js';

/** A detector, and encoded images without end. */
export async function openDetector(task: Task): Promise<{ detector: Detector; next: () => Buffer }> {
  const detector = await Detector.load(modelFile(task.folder, task.preset), engineOptions(task));
  const size = imageSizes[task.preset];
  const images = await Promise.all([1, 2, 3, 4].map((number) => syntheticPng(size, number)));
  let count = 0;
  return { detector, next: () => images[count++ % images.length] as Buffer };
}

/** Whole images from encoded bytes to the verdict: one by one for the latency, decoded ahead for the rate. */
export const scoreSuite: Suite = async (task) => {
  const { detector, next } = await openDetector(task);
  const times = await timesOf(() => detector.score(next()), 2 * budget(task));
  const count = Math.max(4, Math.min(64, Math.round((1500 * budget(task)) / quantileOf(times, 0.5))));
  const start = performance.now();
  for await (const { score } of detector.scoreAll(Array.from({ length: count }, next))) void score;
  const rate = (1000 * count) / (performance.now() - start);
  detector.dispose();
  const latency = (percent: number, informative: boolean) => {
    const value = quantileOf(times, percent / 100);
    return { name: `${task.preset} latency p${percent}`, unit: 'ms', value, details: { informative } } as const;
  };
  return [
    { name: `${task.preset} images`, unit: 'images/s', value: rate },
    latency(50, false),
    latency(90, true),
    latency(99, true),
  ];
};
