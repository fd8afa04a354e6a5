/** The value below which a share `p` of the values lies, between two of them where needed. */
export function quantileOf(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * p;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

export const medianOf = (values: readonly number[]): number => quantileOf(values, 0.5);

/**
 * What a process reports of the times that it took: the quarter that was disturbed least ends here. Other work on the
 * machine only ever adds to a time, so this moves less than the median does.
 */
export const undisturbed = (values: readonly number[]): number => quantileOf(values, 0.25);

export interface Interval {
  low: number;
  high: number;
  /** Probability that such an interval holds the median of what the values were drawn from. */
  confidence: number;
}

/**
 * The interval between two of the values that holds the median with at least `confidence`, whatever the distribution;
 * with too few values from the least to the largest, whose confidence is then lower.
 */
export function medianInterval(values: readonly number[], confidence = 0.95): Interval {
  const sorted = [...values].sort((a, b) => a - b);
  const n = sorted.length;
  // P(fewer than k values lie below the median) = sum of the first k binomial terms / 2^n
  let tail = 2 ** -n;
  let term = tail;
  let k = 0;
  while (k + 1 < n / 2) {
    term *= (n - k) / (k + 1);
    if (2 * (tail + term) > 1 - confidence) break;
    tail += term;
    k += 1;
  }
  return { low: sorted[k] as number, high: sorted[n - 1 - k] as number, confidence: 1 - 2 * tail };
}

/** Ways to choose k of n. */
function choose(n: number, k: number): number {
  let ways = 1;
  for (let i = 1; i <= k; i++) ways *= (n - k + i) / i;
  return ways;
}

/** P(the s-th smallest of m values lies above the r-th smallest of n), all from one distribution, whichever it is. */
export function precedence(n: number, r: number, m: number, s: number): number {
  let ways = 0;
  for (let j = 0; j < s; j++) ways += choose(r - 1 + j, j) * choose(n - r + m - j, m - j);
  return ways / choose(n + m, m);
}

type Ranks = { r: number; s: number } | null;
const knownRanks = new Map<string, Ranks>();

/** Which order statistics make a bound that fails with a probability of at most `risk`; null where none do. */
function ranksFor(n: number, m: number, risk: number): Ranks {
  const key = `${n} ${m} ${risk}`;
  const known = knownRanks.get(key);
  if (known !== undefined) return known;
  let best: Ranks = null;
  // One odd small value in a dozen spoils nothing, where there are enough.
  for (let s = 1 + Math.floor(m / 12); s >= 1 && !best; s--) {
    for (let r = 1; r <= n && !best; r++) if (precedence(n, r, m, s) <= risk) best = { r, s };
  }
  knownRanks.set(key, best);
  return best;
}

/**
 * A lower bound for how far `b` lies above `a`, both in ascending order, that fails with a probability of at most
 * `risk`: the distance from one of the larger values of `a` to one of the smallest of `b`.
 */
function lowerBound(a: readonly number[], b: readonly number[], risk: number): number {
  const ranks = ranksFor(a.length, b.length, risk);
  return ranks ? (b[ranks.s - 1] as number) - (a[ranks.r - 1] as number) : -Infinity;
}

export interface Shift {
  estimate: number;
  /** Bounds that each fail with a probability of at most `risk`; infinite where there are too few values to tell. */
  low: number;
  high: number;
}

/**
 * By how much the values of `b` lie above those of `a`, judged by the small ones of both. The bounds are order
 * statistics (the precedence test turned into an interval): they assume nothing about the distribution, and a third of
 * either side may be as large as it likes without moving them, as processes are that other work disturbed.
 */
export function shiftBetween(a: readonly number[], b: readonly number[], risk: number): Shift {
  const [from, to] = [a, b].map((values) => [...values].sort((x, y) => x - y)) as [number[], number[]];
  const estimate = undisturbed(to) - undisturbed(from);
  return { estimate, low: lowerBound(from, to, risk), high: -lowerBound(to, from, risk) };
}

/** The least number of processes a side that can show anything at a risk of `alpha`. */
export function roundsFor(alpha: number): number {
  let [n, ways] = [1, 2];
  while (1 / ways > alpha) {
    n += 1;
    ways *= (4 * n - 2) / n; // of 2n values, n
  }
  return n;
}
