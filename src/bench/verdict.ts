import { throwIfAborted } from '../base/errors.js';
import {
  compareDocuments,
  type CompareOptions,
  type Comparison,
  type CompareResult,
  nameOf,
  slowerNames,
} from './compare.js';
import type { BenchOptions } from './measure.js';
import type { BenchDocument } from './types.js';

/** The comparison of this build with a baseline, or with another build. */
export interface Verdict extends CompareResult {
  /** What it was compared with. */
  against: string;
  /** Slower at the first look and at the second. */
  regressions: Comparison[];
}

/** Gives the two documents to compare, from fresh processes. */
export type Measure = (options: BenchOptions) => Promise<[base: BenchDocument, current: BenchDocument]>;

/**
 * Compares, and where something seems slower looks again: its suites run in as many fresh processes once more, and only
 * what is slower then, too, is a regression. What disturbed the machine for a while is rarely back the second time.
 */
export async function judge(
  against: string,
  [base, current]: [BenchDocument, BenchDocument],
  options: Pick<CompareOptions, 'maxRegression' | 'allowForMachine'>,
  measured: BenchOptions,
  again: Measure,
  signal: AbortSignal,
): Promise<Verdict> {
  const first = compareDocuments(base, current, options);
  const only = slowerNames(first);
  if (only.size === 0) return { ...first, against, regressions: [] };
  throwIfAborted(signal);
  const suspects = first.rows.filter((row) => row.verdict === 'slower');
  const suites = measured.suites.filter((suite) => suspects.some((row) => row.suite === suite));
  const presets = measured.presets.filter((preset) => suspects.some((row) => row.name.startsWith(`${preset} `)));
  const second = compareDocuments(...(await again({ ...measured, suites, presets })), { ...options, only });
  const confirmed = slowerNames(second);
  const rows = first.rows.map((row): Comparison => {
    return row.verdict === 'slower' && !confirmed.has(nameOf(row)) ? { ...row, verdict: 'same' } : row;
  });
  return { ...first, rows, against, regressions: rows.filter((row) => row.verdict === 'slower') };
}
