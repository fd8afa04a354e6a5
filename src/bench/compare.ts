import { DdadError } from '../base/errors.js';
import { quantileOf, roundsFor, shiftBetween, undisturbed } from './statistics.js';
import { type BenchDocument, type Measurement, moreIsBetter, type Unit } from './types.js';

/** The risk that a comparison of a build with itself calls anything at all slower, before it looks twice. */
export const familyRisk = 0.01;

/** A change as a share: 0.1 is a tenth slower (or larger), with simultaneous bounds. */
export interface Change {
  slowdown: number;
  /** Null where there are too few processes for a bound. */
  low: number | null;
  high: number | null;
}

export interface Comparison extends Change {
  suite: string;
  name: string;
  unit: Unit;
  /** Of the processes that were disturbed least. */
  base: number;
  current: number;
  /** `unknown` where there are too few processes for a bound, `not-judged` where nothing is to be concluded. */
  verdict: 'slower' | 'faster' | 'same' | 'unknown' | 'not-judged';
}

export interface CompareOptions {
  /** A slowdown up to this share is accepted. */
  maxRegression: number;
  /** Judges these alone, as `suite/name`. */
  only?: ReadonlySet<string>;
  /** Allows for what the machine itself lost since the baseline. */
  allowForMachine: boolean;
}

export interface CompareResult {
  rows: Comparison[];
  /** How much slower the machine itself is than at the baseline, by multiply-adds and copies; a share from 0 on. */
  machineSlowdown: number;
  /** Names that only one side has. */
  unmatched: string[];
  /** Processes a side that could show something. */
  roundsNeeded: number;
}

export const nameOf = ({ suite, name }: Pick<Measurement, 'suite' | 'name'>): string => `${suite}/${name}`;

/** Undisturbed as a time or a size is when it is small, and a rate when it is large. */
const undisturbedOf = ({ unit, samples }: Measurement): number =>
  moreIsBetter(unit) ? quantileOf(samples, 0.75) : undisturbed(samples);

/** The change from one set of values to another as a ratio of times; a rate is turned round. */
function changeBetween(base: Measurement, current: Measurement, risk: number): Change {
  const sign = moreIsBetter(base.unit) ? -1 : 1;
  const logs = ({ samples }: Measurement): number[] => samples.map((value) => sign * Math.log(value));
  const { estimate, low, high } = shiftBetween(logs(base), logs(current), risk);
  const share = (bound: number): number | null => (Number.isFinite(bound) ? Math.expm1(bound) : null);
  return { slowdown: Math.expm1(estimate), low: share(low), high: share(high) };
}

/** The larger slowdown of the machine's own limits. */
function machineSlowdown(base: BenchDocument, current: BenchDocument): number {
  const losses = current.machine.flatMap((limit) => {
    const before = base.machine.find(({ name }) => name === limit.name);
    return before ? [before.median / limit.median - 1] : [];
  });
  return Math.max(0, ...losses);
}

function judged({ details }: Measurement): boolean {
  return !details?.informative;
}

/**
 * Tells which measurements became slower. Each has an interval for the change between the values of whole processes,
 * at a risk that is shared out evenly (Bonferroni), so all lower bounds hold at once with a confidence of 99 %.
 * Slower is what has its whole interval above zero and lost more than `maxRegression`.
 * Throws ERR_BASELINE where the two have no measurement in common.
 */
export function compareDocuments(base: BenchDocument, current: BenchDocument, options: CompareOptions): CompareResult {
  const before = new Map(base.measurements.map((one) => [nameOf(one), one]));
  const after = new Map(current.measurements.map((one) => [nameOf(one), one]));
  const measured = (name: string): boolean => current.suites.includes(name.slice(0, name.indexOf('/')));
  const pairs = [...after].flatMap(([name, one]) => {
    const old = before.get(name);
    return old && old.unit === one.unit ? [{ name, old, one }] : [];
  });
  if (pairs.length === 0) {
    const had = base.suites.join(', ');
    throw new DdadError('ERR_BASELINE', `expected measurements of ${current.suites.join(', ')}, got those of ${had}`);
  }
  const counts = ({ name, old, one }: (typeof pairs)[number]): boolean =>
    judged(old) && judged(one) && (options.only?.has(name) ?? true);
  const risk = familyRisk / Math.max(1, pairs.filter(counts).length);
  const lost = options.allowForMachine ? machineSlowdown(base, current) : 0;
  const rows = pairs.map((pair): Comparison => {
    const { old, one } = pair;
    const change = changeBetween(old, one, risk);
    const head = {
      suite: one.suite,
      name: one.name,
      unit: one.unit,
      base: undisturbedOf(old),
      current: undisturbedOf(one),
    };
    return { ...head, ...change, verdict: counts(pair) ? verdict(change, lost, options.maxRegression) : 'not-judged' };
  });
  const unmatched = [
    ...[...after.keys()].filter((name) => !before.has(name)),
    ...[...before.keys()].filter((name) => !after.has(name) && measured(name)),
  ];
  return { rows, machineSlowdown: lost, unmatched, roundsNeeded: roundsFor(risk) };
}

function verdict({ slowdown, low, high }: Change, lost: number, maxRegression: number): Comparison['verdict'] {
  if (low === null || high === null) return 'unknown';
  const beyondMachine = (1 + low) / (1 + lost) - 1;
  if (beyondMachine > 0 && (1 + slowdown) / (1 + lost) - 1 > maxRegression) return 'slower';
  return high < 0 ? 'faster' : 'same';
}

/** What was found slower, as `suite/name`. */
export function slowerNames({ rows }: CompareResult): Set<string> {
  return new Set(rows.filter((row) => row.verdict === 'slower').map(nameOf));
}
