import type * as Plots from '@observablehq/plot';
import { goodName } from '../evaluation/metrics.js';
import type { Curve, Evaluation } from '../evaluation/types.js';
import { number, rate } from './format.js';

/** A chart as SVG, null where the evaluation has no numbers for it; the note below says what to read from it. */
export interface Chart {
  title: string;
  svg: string | null;
  note: string;
}

/** What is used of an SVG element: this package is compiled without the types of the DOM. */
interface Drawing {
  querySelectorAll(selector: string): Iterable<Drawing>;
  removeAttribute(name: string): void;
  setAttribute(name: string, value: string): void;
  outerHTML: string;
}

interface Dom {
  parseHTML(html: string): { document: unknown };
}

export interface Axes extends Pick<
  Plots.PlotOptions,
  'x' | 'y' | 'fy' | 'color' | 'marks' | 'width' | 'height' | 'marginLeft' | 'marginBottom'
> {
  /** Spoken in place of the picture. */
  label: string;
}

export interface Artist {
  plot: typeof Plots;
  draw(axes: Axes): string;
}

const size = { width: 400, height: 300, marginLeft: 46, marginBottom: 42, marginRight: 14, marginTop: 26 };
const diagonal: [number, number][] = [
  [0, 0],
  [1, 1],
];
const share = (label: string, end = 1): Plots.ScaleOptions => ({ label, domain: [0, end], ticks: 5, grid: true });

/** Draws without a browser: Plot writes into a document of linkedom. */
export async function makeArtist(): Promise<Artist> {
  const [plot, { parseHTML }] = await Promise.all([
    import('@observablehq/plot'),
    import('linkedom') as unknown as Promise<Dom>,
  ]);
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const draw = ({ label, ...axes }: Axes): string => {
    // Colours are those of the page's style sheet, light or dark, on screen or on paper.
    const options = { document, ...size, style: { fontSize: '12px' }, ...axes } as Plots.PlotOptions;
    const svg = plot.plot(options) as unknown as Drawing;
    // A picture has one description; parts with their own would be a mistake in it.
    for (const part of svg.querySelectorAll('[aria-label]')) part.removeAttribute('aria-label');
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', label);
    return svg.outerHTML;
  };
  return { plot, draw };
}

const pointsOf = ({ x, y }: Curve): [number, number][] => x.map((value, i) => [value, y[i] as number]);

/**
 * Steps of the histogram: a number of even ones; or, where a few scores lie so far above the others that those would
 * share a bar, edges that are even in the logarithm.
 */
function stepsOf(values: readonly number[]): { logarithmic: boolean; thresholds: number | number[] } {
  const bins = 40;
  const sorted = [...values].sort((a, b) => a - b);
  const [low = 0, middle = 0, high = 0] = [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)];
  const logarithmic = low > 0 && high > 10 * middle;
  const edge = (_: unknown, i: number): number => low * (high / low) ** (i / bins);
  return { logarithmic, thresholds: logarithmic ? Array.from({ length: bins + 1 }, edge) : bins };
}

function histogram(
  { plot, draw }: Artist,
  { scores, threshold }: Pick<Evaluation, 'scores' | 'threshold'>,
  title = 'Image scores',
): Chart {
  const kinds = ['good', 'with defects'];
  const shown = scores
    .filter(({ score }) => Number.isFinite(score))
    .map(({ score, defect }) => ({ score, kind: kinds[Number(defect !== goodName)] as string }));
  if (shown.length === 0) return { title, svg: null, note: 'No image has a score.' };
  const values = [...shown.map(({ score }) => score), ...(threshold === null ? [] : [threshold])];
  const { logarithmic, thresholds } = stepsOf(values);
  const tip = (inside: typeof shown, { x1, x2 }: { x1: number; x2: number }): string =>
    `${inside.length} ${inside[0]?.kind}: ${number(x1)} to ${number(x2)}`;
  // Plot's types leave out what a bin's channels share with those of a bar.
  const outputs = { y: 'proportion-facet', title: { reduce: tip } } as Plots.BinOutputs;
  const inputs = {
    x: 'score',
    fy: 'kind',
    fill: 'kind',
    inset: 0.5,
    thresholds,
  } as Plots.BinXInputs<Plots.RectYOptions>;
  const bars = plot.binX(outputs, inputs);
  const names = { text: (kind: string) => kind, fy: (kind: string) => kind, frameAnchor: 'top-right' } as const;
  const counts = kinds.map((kind) => `${shown.filter((image) => image.kind === kind).length} ${kind}`).join(', ');
  const against = threshold === null ? '' : `; dashed: the threshold, ${number(threshold)}`;
  const scale = logarithmic ? '; logarithmic axis' : '';
  const svg = draw({
    x: { label: 'score', type: logarithmic ? 'log' : 'linear', ticks: 5, ...(logarithmic ? { tickFormat: '~g' } : {}) },
    y: { label: 'share of images (%)', percent: true, ticks: 4, grid: true },
    // Good above, defective below: told apart by place, not by colour alone.
    fy: { domain: kinds, axis: null, padding: 0.2 },
    color: { domain: kinds, range: ['var(--good)', 'var(--bad)'] },
    marks: [
      plot.rectY(shown, bars),
      plot.ruleY([0]),
      plot.text(kinds, { ...names, fill: 'var(--ink)', fontWeight: 600, dx: -4, dy: 2 }),
      ...(threshold === null
        ? []
        : [plot.ruleX([threshold], { stroke: 'var(--ink)', strokeWidth: 1.5, strokeDasharray: '5 3' })]),
    ],
    label: `${title}, a histogram: ${counts}${against}`,
  });
  return { title, svg, note: `${counts}${against}${scale}` };
}

interface CurveChart {
  title: string;
  curve: Curve | null;
  x: string;
  y: string;
  note: string;
  /** End of the x axis. */
  end?: number;
  /** A line that stands for guessing. */
  chance?: boolean;
  missing: string;
}

function curveChart({ plot, draw }: Artist, given: CurveChart): Chart {
  const { title, curve, end = 1, note, missing } = given;
  if (!curve || curve.x.length === 0) return { title, svg: null, note: missing };
  const points = pointsOf(curve);
  const svg = draw({
    x: share(given.x, end),
    y: share(given.y),
    marks: [
      plot.ruleY([0]),
      plot.areaY(points, { x: '0', y1: 0, y2: '1', fill: 'var(--accent)', fillOpacity: 0.12, clip: true }),
      ...(given.chance ? [plot.line(diagonal, { stroke: 'var(--muted)', strokeDasharray: '4 4' })] : []),
      plot.line(points, { stroke: 'var(--accent)', strokeWidth: 2, clip: true }),
    ],
    label: `${title}: ${given.y} against ${given.x}; ${note}`,
  });
  return { title, svg, note };
}

/** The charts of a report, in its order. */
export async function drawCharts(evaluation: Evaluation): Promise<Chart[]> {
  const tools = await makeArtist();
  const { curves, perProduct, scores } = evaluation;
  const [fpr, tpr] = ['false-positive rate', 'true-positive rate'];
  if (perProduct) {
    // Scores compare within a product only, and a curve belongs to one.
    return Object.entries(perProduct).map(([product, { threshold }]) => {
      const productScores = scores.filter((image) => image.product === product);
      return histogram(tools, { scores: productScores, threshold }, `Image scores of ${product}`);
    });
  }
  const both = 'Needs good images and images with defects.';
  const masks = 'Needs masks of the defects.';
  const pr = { x: 'recall', y: 'precision' };
  const roc = { x: fpr, y: tpr, chance: true };
  const overlap = { x: `${fpr} of pixels`, y: 'mean overlap', end: 0.3 };
  const auroc = (value: number | null): string => `AUROC ${rate(value)}`;
  const ap = (value: number | null): string => `AP ${rate(value)}`;
  const pro = `AUPRO ${rate(evaluation.aupro)} to 0.3, ${rate(evaluation.aupro05)} to 0.05`;
  const [image, pixel] = ['Image precision and recall', 'Pixel precision and recall'];
  const charts: CurveChart[] = [
    { title: 'Image ROC', curve: curves.imageRoc, ...roc, note: auroc(evaluation.imageAuroc), missing: both },
    { title: image, curve: curves.imagePr, ...pr, note: ap(evaluation.imageAp), missing: both },
    { title: 'Pixel ROC', curve: curves.pixelRoc, ...roc, note: auroc(evaluation.pixelAuroc), missing: masks },
    { title: pixel, curve: curves.pixelPr, ...pr, note: ap(evaluation.pixelAp), missing: masks },
    { title: 'Per-region overlap', curve: curves.pro, ...overlap, note: pro, missing: masks },
  ];
  return [histogram(tools, evaluation), ...charts.map((chart) => curveChart(tools, chart))];
}
