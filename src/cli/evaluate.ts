import path from 'node:path';
import type { DeviceOptions } from '../config/options.js';
import type { Detector } from '../scoring/detector.js';
import { evaluate, type EvaluateProgress, type ScoredImage } from '../evaluation/evaluate.js';
import { goodName } from '../evaluation/metrics.js';
import type { EvaluatedImage, Evaluation, Metrics, ProductEvaluation } from '../evaluation/types.js';
import type { Reconstruction } from '../scoring/reconstruct.js';
import { ReportWriter } from '../report/report.js';
import type { Command } from './command.js';
import { writeWhole } from '../files/write.js';
import { checkOutput, forceFlag } from './outputs.js';
import { loadModel, trustFlag, type TrustArguments } from './load.js';
import { duration, images, log, memoryLine, print, ProgressLine, short } from './output.js';
import { type ScoringArguments, scoringFlags, scoringOf } from './scoring-flags.js';
import {
  deviceFlags,
  exitCodes,
  type MemoryArguments,
  memoryBudgetOf,
  memoryFlag,
  number,
  text,
  UsageError,
} from './usage.js';

interface EvaluateArguments extends DeviceOptions, ScoringArguments, MemoryArguments, TrustArguments {
  model: string;
  dataset: string;
  json: boolean;
  out?: string;
  threshold?: number;
  product?: string;
  limitReport?: number;
  reconstructions?: number;
  force: boolean;
}

export const evaluateCommand: Command<EvaluateArguments> = {
  usage: 'evaluate <model> <dataset>',
  describe: 'Measure a model on test images whose defects are known',
  positionals: {
    model: 'A model file',
    dataset:
      'A folder in the MVTec AD layout: test/good, test/<defect>, ground_truth/<defect>; or one of such products',
  },
  flags: {
    out: text('out', 'Folder for metrics.json and report.html'),
    threshold: number('threshold', 'Scores above it are anomalous', "the model's"),
    product: text('product', 'What the images show, for a unified model and a dataset of one product'),
    'limit-report': number('limit-report', 'Images of each test folder in the report', 'all'),
    reconstructions: number('reconstructions', 'Images of each test folder to reconstruct for the report', '0'),
    ...scoringFlags,
    ...memoryFlag,
    ...forceFlag,
    ...trustFlag,
    ...deviceFlags,
  },
  example: ['$0 evaluate part.safetensors parts/ --out evaluation/', 'Write the figures and a report with pictures'],
  work: run,
};

async function run(argv: EvaluateArguments, signal: AbortSignal): Promise<number> {
  const { model, dataset, out, device, precision, threads, threshold, product } = argv;
  const limit = countOf('limit-report', argv.limitReport);
  const rebuilt = new Shown(countOf('reconstructions', argv.reconstructions) ?? 0);
  const file = out === undefined ? undefined : path.join(out, 'metrics.json');
  if (file !== undefined) await checkOutput(file, 'metrics', argv.force);
  if (out !== undefined) await checkOutput(path.join(out, 'report.html'), 'report', argv.force);
  await using detector = await loadModel(model, {
    device,
    precision,
    threads,
    threshold,
    trustedKey: argv.trustedKey,
    scoring: scoringOf(argv),
    memoryBudget: memoryBudgetOf(argv),
    signal,
  });
  const progress = new ProgressLine();
  const report = out === undefined ? undefined : await ReportWriter.create(out);
  let written: string | undefined;
  let evaluation: Evaluation;
  try {
    const shown = new Shown(limit ?? Infinity);
    const onImage = async (scored: ScoredImage): Promise<void> => {
      const { product: own, defect } = scored.image;
      const folder = `${own ?? ''}/${defect}`;
      if (!report || !shown.takes(folder)) return;
      const isRebuilt = rebuilt.takes(folder);
      const reconstruction = isRebuilt ? await rebuild(detector, scored.input, own ?? product, signal) : undefined;
      await report.add({ ...scored, reconstruction });
    };
    const onProgress = (now: EvaluateProgress): void => show(progress, now);
    const options = { model, product, onImage, onProgress, signal, skipUnreadable: true };
    evaluation = await evaluate(detector, dataset, options);
    written = await report?.finish(evaluation);
  } catch (error) {
    await report?.abort();
    throw error;
  } finally {
    progress.stop();
  }
  if (file !== undefined) await writeWhole(file, metricsFile(evaluation));
  print(...(argv.json ? [JSON.stringify(evaluation)] : table(evaluation)));
  const { skipped } = evaluation;
  for (const { error } of skipped) log(`ddad-native: ${error.code}: ${error.message}`);
  for (const warning of evaluation.warnings) log(`warning: ${warning}`);
  log(memoryLine(detector.memoryUsage));
  if (file !== undefined) log(`written to ${file} and ${written}`);
  return skipped.length > 0 ? exitCodes.failed : exitCodes.done;
}

function countOf(name: string, given: number | undefined): number | undefined {
  if (given === undefined || (Number.isInteger(given) && given >= 0)) return given;
  throw new UsageError(`--${name}: expected a number of images, got "${given}"`);
}

/** With the way there: by rounds where the model has a Gaussian of good features, else by the reverse process. */
function rebuild(
  detector: Detector,
  image: string,
  product: string | undefined,
  signal: AbortSignal,
): Promise<Reconstruction> {
  const method = detector.config.padim ? 'gradient' : 'ddim';
  return detector.reconstruct(image, { method, previews: 6, ...(product === undefined ? {} : { product }), signal });
}

/** The first images of each folder. */
class Shown {
  readonly #counts = new Map<string, number>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  takes(folder: string): boolean {
    const count = (this.#counts.get(folder) ?? 0) + 1;
    this.#counts.set(folder, count);
    return count <= this.#limit;
  }
}

function show(line: ProgressLine, { phase, step, steps, done, remainingMs }: EvaluateProgress): void {
  const left = `${duration(remainingMs)} left`;
  line.update(phase, done, phase === 'score' ? `${step}/${steps} images  ${left}` : left);
}

/** JSON for people too: indented, but with the points of a curve in one line. */
function metricsFile(evaluation: Evaluation): string {
  const inOneLine = (list: string): string => list.replace(/\s+/g, ' ').replace('[ ', '[').replace(' ]', ']');
  return `${JSON.stringify(evaluation, null, 2).replace(/\[\n[-+.\deE,\s]+\]/g, inOneLine)}\n`;
}

/** No title is wider than the figures below it, so that a row fits into 80 columns. */
const columns: [title: string, figure: (metrics: Metrics) => number | null | undefined][] = [
  ['AUROC', ({ imageAuroc }) => imageAuroc],
  ['AP', ({ imageAp }) => imageAp],
  ['F1', ({ imageBestF1 }) => imageBestF1?.f1],
  ['AUROC', ({ pixelAuroc }) => pixelAuroc],
  ['AP', ({ pixelAp }) => pixelAp],
  ['F1', ({ pixelBestF1 }) => pixelBestF1?.f1],
  ['AUPRO', ({ aupro }) => aupro],
  ['at .05', ({ aupro05 }) => aupro05],
];

/** How many good images, and how many with defects. */
function counts(images: readonly EvaluatedImage[]): { good: number; bad: number } {
  const good = images.filter(({ defect }) => defect === goodName).length;
  return { good, bad: images.length - good };
}

function table(evaluation: Evaluation): string[] {
  const { perDefect, perProduct, scores, skipped } = evaluation;
  const count = (defect: string): number => scores.filter((image) => image.defect === defect).length;
  const of = (product: string) => counts(scores.filter((image) => image.product === product));
  const line = (name: string, of: number, metrics: Metrics): string[] => [
    name,
    String(of),
    ...columns.map(([, figure]) => figure(metrics)?.toFixed(4) ?? '-'),
  ];
  const rows = [
    ['', '', ...columns.map((_, i) => (i === 0 ? 'image' : i === 3 ? 'pixel' : ''))],
    [perProduct ? 'product' : 'defect', 'images', ...columns.map(([title]) => title)],
    ...Object.entries(perProduct ?? perDefect).map(([name, metrics]) =>
      line(name, perProduct ? of(name).bad : count(name), metrics),
    ),
    line(perProduct ? 'mean' : 'all', counts(scores).bad, evaluation),
  ];
  const widths = rows[1]?.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0))) ?? [];
  const pad = (cell: string, i: number): string =>
    i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0);
  const good = counts(scores).good;
  const against = perProduct ? 'its own good images' : `${good} good ${good === 1 ? 'image' : 'images'}`;
  return [
    ...rows.map((row) => row.map(pad).join('  ').trimEnd()),
    '',
    `each against ${against}; - where there is nothing to measure`,
    'F1: the best of all thresholds; AUPRO: up to 0.3 false positives, and up to 0.05',
    ...(skipped.length > 0 ? [`without ${images(skipped.length)} that cannot be read`] : []),
    ...(perProduct
      ? Object.entries(perProduct).flatMap(([product, own]) => {
          const shown = scores.filter((image) => image.product === product);
          return verdicts(own, shown).map((text) => `${product}: ${text}`);
        })
      : verdicts(evaluation, scores)),
  ];
}

/** What the threshold makes of the images. */
function verdicts(
  { threshold, falseAlarmRate, expectedFalseAlarmRate }: ProductEvaluation,
  scores: readonly EvaluatedImage[],
): string[] {
  if (threshold === null) return ['no threshold: no verdicts'];
  const count = (outcome: string): number => scores.filter((image) => image.outcome === outcome).length;
  const percent = (rate: number): string => `${(100 * rate).toFixed(1)} %`;
  const [caught, missed] = [count('caught'), count('missed')];
  const expected = expectedFalseAlarmRate === null ? '' : `, calibration expected ${percent(expectedFalseAlarmRate)}`;
  return [
    `above the threshold ${short(threshold)}: ${caught} of ${images(caught + missed)} with defects` +
      (falseAlarmRate === null
        ? ''
        : `, ${count('false-alarm')} of ${count('false-alarm') + count('passed')} good ones ` +
          `(${percent(falseAlarmRate)}${expected})`),
  ];
}
