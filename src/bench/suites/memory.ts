import type { Figure } from '../types.js';
import type { Suite } from './common.js';
import { openDetector } from './score.js';
import { openTrainer } from './train.js';

/** What takes a process of its own. */
export const memoryParts = ['train', 'score'] as const;

/** The most resident memory of a process that does nothing else. */
export const memorySuite: Suite = async (task): Promise<Figure[]> => {
  if (task.part === 'train') {
    const { native, step } = await openTrainer(task);
    for (let i = 0; i < 2; i++) await step();
    native.dispose();
  } else {
    const { detector, next } = await openDetector(task);
    for (let i = 0; i < 3; i++) await detector.score(next());
    detector.dispose();
  }
  const value = process.resourceUsage().maxRSS / 1024;
  return [{ name: `${task.preset} ${task.part}, peak`, unit: 'MiB', value }];
};
