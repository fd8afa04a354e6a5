/** False-positive rates up to which the area under the per-region overlap is taken. */
const overlapLimits = [0.3, 0.05] as const;

export interface BestF1 {
  f1: number;
  /** The smallest value called anomalous; of several with the same F1 the highest. */
  threshold: number;
  precision: number;
  recall: number;
}

/** Points of a curve, thinned for drawing; the figures are computed from all of them. */
export interface Curve {
  x: number[];
  y: number[];
}

export interface Figures {
  auroc: number | null;
  ap: number | null;
  bestF1: BestF1 | null;
  aupro: number | null;
  aupro05: number | null;
  curves: { roc: Curve | null; pr: Curve | null; pro: Curve | null };
}

/** Collects the points of a curve that differ visibly from the last one kept; holds at most `most` of them. */
export class CurveTrace {
  static readonly most = 1500;
  #x: number[] = [];
  #y: number[] = [];
  #skipped: [number, number] | undefined;
  #spacing = 1 / 400;
  readonly #width: number;

  /** The curve runs from 0 to `width` in x and from 0 to 1 in y. */
  constructor(width = 1) {
    this.#width = width;
  }

  add(x: number, y: number): void {
    const last = this.#x.length - 1;
    const near = (from: number, to: number, range: number): boolean => Math.abs(to - from) < this.#spacing * range;
    if (last >= 0 && near(this.#x[last] as number, x, this.#width) && near(this.#y[last] as number, y, 1)) {
      this.#skipped = [x, y];
      return;
    }
    // Before a jump the point that it starts from, or the line would leave from the wrong place.
    if (this.#skipped) this.#push(...this.#skipped);
    this.#push(x, y);
    if (this.#x.length > CurveTrace.most - 4) this.#thin();
  }

  end(): Curve {
    if (this.#skipped) this.#push(...this.#skipped);
    return { x: this.#x, y: this.#y };
  }

  #push(x: number, y: number): void {
    this.#skipped = undefined;
    this.#x.push(x);
    this.#y.push(y);
  }

  #thin(): void {
    const kept = (_: number, i: number): boolean => i % 2 === 0 || i === this.#x.length - 1;
    [this.#x, this.#y] = [this.#x.filter(kept), this.#y.filter(kept)];
    this.#spacing *= 2;
  }
}

/**
 * Figures of one curve, from the thresholds at which there are positives, highest first. Between two of them there are
 * only negatives: ROC and overlap run level there, recall stands still and F1 only falls, so nothing is missed.
 */
export class Sweep {
  readonly #positives: number;
  readonly #negatives: number;
  readonly #regions: number;
  readonly #overlapAreas = overlapLimits.map(() => 0);
  readonly #traces: { roc: CurveTrace; pr: CurveTrace; pro: CurveTrace } | undefined;
  #found = 0;
  #falsePositives = 0;
  #overlap = 0;
  #rocArea = 0;
  #ap = 0;
  #best: BestF1 = { f1: -1, threshold: Number.NaN, precision: 0, recall: 0 };

  constructor(totals: { positives: number; negatives: number; regions: number }, traced: boolean) {
    this.#positives = totals.positives;
    this.#negatives = totals.negatives;
    this.#regions = totals.regions;
    if (!traced) return;
    this.#traces = { roc: new CurveTrace(), pr: new CurveTrace(), pro: new CurveTrace(overlapLimits[0]) };
    this.#traces.roc.add(0, 0);
    this.#traces.pr.add(0, 1);
    this.#traces.pro.add(0, 0);
  }

  /**
   * The threshold goes down to `value`: negatives above it and at or above it, positives at it, and the sum over those
   * of 1 / (area of their region).
   */
  step(value: number, above: number, atOrAbove: number, positives: number, overlap: number): void {
    if (this.#negatives === 0) return;
    const before = this.#found;
    const truePositives = before + positives;
    this.#rocArea += (above - this.#falsePositives) * before + (atOrAbove - above) * (before + positives / 2);
    const precision = truePositives / (truePositives + atOrAbove);
    this.#ap += (positives / this.#positives) * precision;
    const f1 = (2 * truePositives) / (truePositives + atOrAbove + this.#positives);
    if (f1 > this.#best.f1) this.#best = { f1, threshold: value, precision, recall: truePositives / this.#positives };

    const mid = above / this.#negatives;
    const right = atOrAbove / this.#negatives;
    const raised = this.#regions > 0 ? Math.min(1, this.#overlap + overlap / this.#regions) : 0;
    this.#addOverlap(this.#falsePositives / this.#negatives, mid, this.#overlap, this.#overlap);
    this.#addOverlap(mid, right, this.#overlap, raised);
    if (this.#traces) {
      const { roc, pr } = this.#traces;
      roc.add(mid, before / this.#positives);
      roc.add(right, truePositives / this.#positives);
      if (before > 0) pr.add(before / this.#positives, before / (before + above));
      pr.add(truePositives / this.#positives, precision);
    }
    this.#found = truePositives;
    this.#falsePositives = atOrAbove;
    this.#overlap = raised;
  }

  /** After the last threshold: what is left are negatives. */
  figures(): Figures {
    const none = { auroc: null, ap: null, bestF1: null, aupro: null, aupro05: null };
    if (this.#positives === 0 || this.#negatives === 0) return { ...none, curves: { roc: null, pr: null, pro: null } };
    const rocArea = this.#rocArea + (this.#negatives - this.#falsePositives) * this.#positives;
    this.#addOverlap(this.#falsePositives / this.#negatives, 1, this.#overlap, this.#overlap);
    this.#traces?.roc.add(1, 1);
    const [aupro, aupro05] = overlapLimits.map((limit, i) => (this.#overlapAreas[i] as number) / limit);
    return {
      auroc: rocArea / (this.#positives * this.#negatives),
      ap: this.#ap,
      bestF1: this.#best,
      aupro: this.#regions > 0 ? (aupro ?? null) : null,
      aupro05: this.#regions > 0 ? (aupro05 ?? null) : null,
      curves: {
        roc: this.#traces?.roc.end() ?? null,
        pr: this.#traces?.pr.end() ?? null,
        pro: this.#regions > 0 ? (this.#traces?.pro.end() ?? null) : null,
      },
    };
  }

  /** A straight piece of the overlap curve; where it crosses a limit, the part before that counts. */
  #addOverlap(x0: number, x1: number, y0: number, y1: number): void {
    if (x0 > overlapLimits[0]) return;
    for (let i = 0; i < overlapLimits.length; i++) {
      const limit = overlapLimits[i] as number;
      if (x0 >= limit) continue;
      const x = Math.min(x1, limit);
      const y = x1 > limit ? y0 + ((y1 - y0) * (limit - x0)) / (x1 - x0) : y1;
      this.#overlapAreas[i] = (this.#overlapAreas[i] as number) + ((x - x0) * (y0 + y)) / 2;
      if (i === 0) this.#traces?.pro.add(x, y);
    }
  }
}

/** Figures of scored images: those of the good ones against those of the anomalous ones. */
export function sweepScores(good: readonly number[], anomalous: readonly number[], traced = false): Figures {
  const descending = (a: number, b: number): number => b - a;
  const negatives = [...good].sort(descending);
  const positives = [...anomalous].sort(descending);
  const sweep = new Sweep({ positives: positives.length, negatives: negatives.length, regions: 0 }, traced);
  let at = 0;
  for (let i = 0; i < positives.length;) {
    const value = positives[i] as number;
    const first = i;
    do i += 1;
    while (i < positives.length && positives[i] === value);
    while (at < negatives.length && (negatives[at] as number) > value) at += 1;
    const above = at;
    while (at < negatives.length && negatives[at] === value) at += 1;
    sweep.step(value, above, at, i - first, 0);
  }
  return sweep.figures();
}
