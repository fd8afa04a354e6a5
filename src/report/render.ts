import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { Eta } from 'eta';
import { packageRoot } from '../base/package.js';
import type { EvaluatedImage, Evaluation } from '../evaluation/types.js';
import { drawCharts } from './charts.js';
import { gradient } from './thumbnails.js';
import { type Columns, headerOf, rowOf, type Shots, summarize } from './view.js';

const marker = '<!--rows-->';
// The templates lie beside this file. Whatever they print is escaped, unless they say otherwise.
const templates = new Eta({ views: __dirname, cache: true });

/** What the colours of the maps stand for. */
export interface Legend {
  name: string;
  low: string;
  high: string;
}

export interface PageOptions {
  /** The images that the page has rows for. */
  shown: readonly EvaluatedImage[];
  date: Date;
  columns: Columns;
  legends: Legend[];
}

/** The script that sorts tables, and the page's own. */
async function scriptText(): Promise<string> {
  const files = [require.resolve('sortable-tablesort/dist/sortable.min.js'), path.join(__dirname, 'client', 'page.js')];
  const [sorter, page] = await Promise.all(files.map((file) => readFile(file, 'utf8')));
  return `/* sortable-tablesort, public domain */\n${sorter}\n${page}`;
}

/** The style sheets; what they say for narrow pages and paper overrides the rest. */
async function styleText(): Promise<string> {
  const files = ['report.css', 'images.css', 'media.css'].map((name) => path.join(__dirname, name));
  return (await Promise.all(files.map((file) => readFile(file, 'utf8')))).join('\n');
}

/** Browsers then load nothing from anywhere, and run no script but this one, whatever a file name tries. */
function policyFor(script: string): string {
  const hash = createHash('sha256').update(script).digest('base64');
  return `default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-${hash}'`;
}

async function version(): Promise<string> {
  const text = await readFile(path.join(packageRoot, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** The page before and after the rows of its images. */
export async function renderPage(evaluation: Evaluation, options: PageOptions): Promise<[string, string]> {
  const { shown, columns, date, legends } = options;
  const script = await scriptText();
  const page = templates.render('page', {
    ...summarize(evaluation, shown, date),
    charts: await drawCharts(evaluation),
    header: headerOf(columns),
    shots: columns.shots.length,
    cells: headerOf(columns).length - columns.shots.length - 1,
    colours: await gradient(),
    legends,
    script,
    policy: policyFor(script),
    styles: await styleText(),
    version: await version(),
  });
  const at = page.lastIndexOf(marker);
  return [page.slice(0, at), page.slice(at + marker.length)];
}

/** The row of an image. */
export function renderRow(image: EvaluatedImage, pictures: Shots, columns: Columns): string {
  return templates.render('row', rowOf(image, pictures, columns));
}
