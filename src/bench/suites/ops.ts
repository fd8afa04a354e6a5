import type { OpProfile } from '../../engine/native.js';
import type { Figure } from '../types.js';
import { budget, configOf, profile, type Suite, timeFigure, trainingBatch } from './common.js';

/** An op that takes less than this share of its pass is a trifle. */
const trifle = 0.005;

/** Each op and shape of a preset's network: forward as an image is scored, backward as a step is trained. */
export const opsSuite: Suite = async (task) => {
  const config = configOf(task);
  const figures: Figure[] = [];
  for (const what of ['forward', 'backward'] as const) {
    const batch = what === 'forward' ? config.score.scales.length : trainingBatch;
    const options = { batch, threads: task.threads, samples: 3, seconds: budget(task) };
    const { ops } = await profile<OpProfile>(what, config, options);
    const timed = ops.map(({ name, seconds, ...work }) => {
      return {
        work,
        figure: timeFigure(
          `${task.preset} ${what} ${name}`,
          seconds.map((s) => 1000 * s),
        ),
      };
    });
    const total = timed.reduce((sum, { figure, work }) => sum + work.count * figure.value, 0);
    for (const { figure, work } of timed) {
      const share = (work.count * figure.value) / total;
      figures.push({ ...figure, details: { ...work, share, ...(share < trifle && { informative: true }) } });
    }
  }
  return figures;
};
