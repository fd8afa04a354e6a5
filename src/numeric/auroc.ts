import { sweepScores } from './threshold-sweep.js';

/**
 * Area under the ROC curve: the chance that an anomalous image scores above a good one, ties counting half. Exact. NaN
 * when one of the two is empty.
 */
export function auroc(good: readonly number[], anomalous: readonly number[]): number {
  return sweepScores(good, anomalous).auroc ?? Number.NaN;
}
