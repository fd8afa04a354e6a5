import type { PassProfile } from '../../engine/native.js';
import type { Figure } from '../types.js';
import { budget, configOf, profile, type Suite, timeFigure } from './common.js';

/** Scoring passes over the network alone: all noise scales of one image and of four. */
export const unetSuite: Suite = async (task) => {
  const config = configOf(task, null);
  const figures: Figure[] = [];
  for (const images of [1, 4]) {
    const options = { batch: images, threads: task.threads, samples: task.quick ? 3 : 5, seconds: budget(task) };
    const { flops, seconds } = await profile<PassProfile>('pass', config, options);
    const name = `${task.preset} pass, ${images} image${images > 1 ? 's' : ''}`;
    figures.push(
      timeFigure(
        name,
        seconds.map((s) => 1000 * s),
        { flops },
      ),
    );
  }
  return figures;
};
