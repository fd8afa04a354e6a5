import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { Eta } from 'eta';
import type * as Plots from '@observablehq/plot';
import { type Artist, makeArtist } from '../report/charts.js';
import { digits } from './report.js';
import type { BenchDocument, Measurement } from './types.js';

const templates = new Eta({ views: __dirname, cache: true });
/** Of the ops, those that take the most; the others' curves would hide them. */
const shownOps = 24;

interface Point {
  date: Date;
  median: number;
  low: number;
  high: number;
  commit: string;
}

interface Curve {
  suite: string;
  name: string;
  unit: Measurement['unit'];
  share: number;
  points: Point[];
}

function curvesOf(history: readonly BenchDocument[]): Curve[] {
  const curves = new Map<string, Curve>();
  for (const { date, commit, measurements } of history) {
    for (const { suite, name, unit, median, low, high, details } of measurements) {
      const key = `${suite}/${name}`;
      const curve: Curve = curves.get(key) ?? { suite, name, unit, share: 0, points: [] };
      curve.share = details?.share ?? 0;
      curve.points.push({ date: new Date(date), median, low, high, commit: commit?.slice(0, 10) ?? 'unknown commit' });
      curves.set(key, curve);
    }
  }
  return [...curves.values()];
}

function draw({ plot, draw: toSvg }: Artist, { name, unit, points }: Curve): string {
  const last = points.at(-1) as Point;
  const tip = ({ date, median, commit }: Point): string =>
    `${date.toISOString().slice(0, 16)}, ${commit}: ${digits(median)} ${unit}`;
  const at = { x: 'date', y: 'median' } as const;
  const marks: Plots.Markish[] = [
    plot.ruleY([0]),
    plot.areaY(points, { x: 'date', y1: 'low', y2: 'high', fill: 'var(--accent)', fillOpacity: 0.18 }),
    plot.line(points, { ...at, stroke: 'var(--accent)', strokeWidth: 1.5 }),
    plot.dot(points, { ...at, r: 2.5, fill: 'var(--accent)', title: tip }),
  ];
  return toSvg({
    ...{ width: 320, height: 170, marginLeft: 52, marginBottom: 30 },
    x: { type: 'utc', label: null, ticks: 3 },
    y: { label: unit, ticks: 4, grid: true, zero: true },
    marks,
    label: `${name}: ${points.length} runs, at last ${digits(last.median)} ${unit}`,
  });
}

/**
 * A page that needs no network: how every measurement went from run to run, with the intervals of the medians. The
 * history must hold a run.
 */
export async function historyPage(history: readonly BenchDocument[]): Promise<string> {
  const last = history.at(-1) as BenchDocument;
  const artist = await makeArtist();
  const curves = curvesOf(history);
  const suites = [...new Set(curves.map(({ suite }) => suite))].map((suite) => {
    const all = curves.filter((curve) => curve.suite === suite).sort((a, b) => b.share - a.share);
    const shown = suite === 'ops' ? all.slice(0, shownOps) : all;
    const charts = shown.map((curve) => {
      const { median } = curve.points.at(-1) as Point;
      return { title: curve.name, svg: draw(artist, curve), note: `${digits(median)} ${curve.unit}` };
    });
    return { suite, charts, hidden: all.length - shown.length };
  });
  return templates.render('history', {
    suites,
    runs: history.length,
    machine: `${last.processor}, ${last.instructionSet}, ${last.threads} thread${last.threads === 1 ? '' : 's'}`,
    date: last.date.slice(0, 16).replace('T', ' '),
    commit: last.commit?.slice(0, 10) ?? null,
    version: last.versions.package,
    styles: await readFile(path.join(__dirname, '..', 'report', 'report.css'), 'utf8'),
  });
}
