import { goodName } from '../evaluation/metrics.js';
import type { EvaluatedImage, Evaluation, Metrics, Outcome } from '../evaluation/types.js';
import { dateTime, none, number, percent, rate } from './format.js';
import type { Thumbnail } from './thumbnails.js';

/** How each outcome is called. */
export const outcomes: Record<Outcome, string> = {
  caught: 'caught',
  missed: 'missed',
  'false-alarm': 'false alarm',
  passed: 'passed',
};

interface Fact {
  name: string;
  value: string;
  detail?: string;
  /** Whether it needs a line of its own where there is little room. */
  long?: boolean;
}

type Figure = Required<Pick<Fact, 'name' | 'value' | 'detail'>>;

export interface Verdict {
  outcome: Outcome;
  label: string;
  count: number;
  detail: string;
}

export interface Facet {
  key: string;
  legend: string;
  options: { value: string; label: string; count: number }[];
}

interface Cell {
  label: string;
  value: string;
  sort: string;
}

/** Everything of the page but its charts and rows, as text. */
export interface Summary {
  title: string;
  warnings: string[];
  facts: Fact[];
  verdicts: Verdict[];
  /** Those of whole images, and those of pixels. */
  figures: Figure[][];
  metricColumns: { name: string; text: boolean }[];
  perDefect: { name: string; cells: Cell[] }[];
  /** What the figures of a defect are measured against. */
  against: string;
  facets: Facet[];
  total: string;
  /** Says so when the page does not have all images. */
  left: string;
}

/** "1 image", "2 images". */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

const isGood = ({ defect }: EvaluatedImage): boolean => defect === goodName;
const isJudged = (images: readonly EvaluatedImage[]): boolean => images.some(({ outcome }) => outcome !== null);
const sortable = (value: number | null): string => (value === null || !Number.isFinite(value) ? '' : String(value));

/** The last part of a path, of this system or another. */
function baseName(file: string): string {
  return file.split(/[\\/]/).findLast((part) => part !== '') ?? file;
}

function thresholdText({ perProduct }: Evaluation, threshold: number | null): string {
  if (perProduct) return Object.values(perProduct).some((own) => own.threshold !== null) ? 'one a product' : 'none';
  return threshold === null ? 'none' : number(threshold);
}

function factsOf(evaluation: Evaluation, date: Date): Fact[] {
  const { scores, skipped, threshold, falseAlarmRate, expectedFalseAlarmRate } = evaluation;
  const good = scores.filter(isGood);
  const alarms = good.filter(({ anomalous }) => anomalous).length;
  const bad = scores.length - good.length;
  const expected = expectedFalseAlarmRate === null ? '' : `expected ${percent(expectedFalseAlarmRate)}`;
  const measured = falseAlarmRate === null ? [] : [`${alarms} of ${counted(good.length, 'good image')}`];
  return [
    { name: 'Model', value: evaluation.model, long: true },
    { name: 'Dataset', value: evaluation.dataset, long: true },
    { name: 'Date', value: dateTime(date) },
    {
      name: 'Images',
      value: String(scores.length),
      detail:
        `${good.length} good, ${bad} with defects; ${evaluation.maskedImages} in the pixel figures` +
        (skipped.length > 0 ? `; ${skipped.length} skipped` : ''),
    },
    { name: 'Threshold', value: thresholdText(evaluation, threshold) },
    {
      name: 'False alarms',
      value: percent(falseAlarmRate),
      detail: [...measured, ...(expected ? [expected] : [])].join('; '),
    },
  ];
}

function verdictsOf(scores: readonly EvaluatedImage[]): Verdict[] {
  if (!isJudged(scores)) return [];
  const good = scores.filter(isGood).length;
  const of: Record<Outcome, [number, string]> = {
    caught: [scores.length - good, 'with defects'],
    missed: [scores.length - good, 'with defects'],
    'false-alarm': [good, 'good'],
    passed: [good, 'good'],
  };
  return (Object.keys(outcomes) as Outcome[]).map((outcome) => {
    const count = scores.filter((image) => image.outcome === outcome).length;
    const [all, kind] = of[outcome];
    const detail = all === 0 ? `no images ${kind}` : `${percent(count / all)} of ${all} ${kind}`;
    return { outcome, label: outcomes[outcome], count, detail };
  });
}

function figuresOf(evaluation: Evaluation): Figure[][] {
  const { imageBestF1: image, pixelBestF1: pixel, perProduct } = evaluation;
  if (perProduct) {
    const detail = `mean of ${counted(Object.keys(perProduct).length, 'product')}`;
    const figure = (name: string, value: number | null): Figure => ({ name, value: rate(value), detail });
    return [
      [figure('Image AUROC', evaluation.imageAuroc), figure('Image AP', evaluation.imageAp)],
      [
        figure('Pixel AUROC', evaluation.pixelAuroc),
        figure('Pixel AP', evaluation.pixelAp),
        figure('AUPRO', evaluation.aupro),
        figure('AUPRO 0.05', evaluation.aupro05),
      ],
    ];
  }
  const f1 = (best: typeof image): string =>
    best === null
      ? ''
      : `precision ${rate(best.precision)}, recall ${rate(best.recall)}, from ${number(best.threshold)} on`;
  return [
    [
      { name: 'Image AUROC', value: rate(evaluation.imageAuroc), detail: 'area under the ROC curve' },
      { name: 'Image AP', value: rate(evaluation.imageAp), detail: 'average precision' },
      { name: 'Image F1, best', value: rate(image?.f1 ?? null), detail: f1(image) },
    ],
    [
      { name: 'Pixel AUROC', value: rate(evaluation.pixelAuroc), detail: 'area under the ROC curve' },
      { name: 'Pixel AP', value: rate(evaluation.pixelAp), detail: 'average precision' },
      { name: 'Pixel F1, best', value: rate(pixel?.f1 ?? null), detail: f1(pixel) },
      {
        name: 'AUPRO',
        value: rate(evaluation.aupro),
        detail: 'overlap of each region, to a false-positive rate of 0.3',
      },
      { name: 'AUPRO 0.05', value: rate(evaluation.aupro05), detail: 'the same, to 0.05' },
    ],
  ];
}

/** The columns of the table of defects, of the figures and of the images with that defect. */
type MetricColumn = [
  name: string,
  read: (metrics: Metrics, own: readonly EvaluatedImage[]) => number | null,
  write: (value: number | null) => string,
];

const metricColumns: MetricColumn[] = [
  ['Images', (_, own) => own.length, String],
  ['Caught', (_, own) => own.filter(({ outcome }) => outcome === 'caught').length / own.length, percent],
  ['Image AUROC', ({ imageAuroc }) => imageAuroc, rate],
  ['Image AP', ({ imageAp }) => imageAp, rate],
  ['Image F1', ({ imageBestF1 }) => imageBestF1?.f1 ?? null, rate],
  ['Pixel AUROC', ({ pixelAuroc }) => pixelAuroc, rate],
  ['Pixel AP', ({ pixelAp }) => pixelAp, rate],
  ['Pixel F1', ({ pixelBestF1 }) => pixelBestF1?.f1 ?? null, rate],
  ['AUPRO', ({ aupro }) => aupro, rate],
  ['AUPRO 0.05', ({ aupro05 }) => aupro05, rate],
];

/** What the table of defects has rows for: defects, or products and below each its defects. */
function rowsOf({ perDefect, perProduct, scores }: Evaluation): [string, Metrics, EvaluatedImage[]][] {
  const anomalousWhere = (wanted: (image: EvaluatedImage) => boolean) =>
    scores.filter((image) => !isGood(image) && wanted(image));
  if (!perProduct) {
    return Object.entries(perDefect).map(([name, of]) => [name, of, anomalousWhere(({ defect }) => defect === name)]);
  }
  return Object.entries(perProduct).flatMap(([name, of]) => {
    const inside = (image: EvaluatedImage): boolean => image.product === name;
    const defects = Object.entries(of.perDefect).map(([defect, figures]): [string, Metrics, EvaluatedImage[]] => {
      return [`${name}/${defect}`, figures, anomalousWhere((image) => inside(image) && image.defect === defect)];
    });
    return [[name, of, anomalousWhere(inside)] as [string, Metrics, EvaluatedImage[]], ...defects];
  });
}

function defectsOf(evaluation: Evaluation): Pick<Summary, 'metricColumns' | 'perDefect'> {
  const { scores, perProduct } = evaluation;
  const columns = metricColumns.filter(([name]) => name !== 'Caught' || isJudged(scores));
  return {
    metricColumns: [
      { name: perProduct ? 'Product' : 'Defect', text: true },
      ...columns.map(([name]) => ({ name, text: false })),
    ],
    perDefect: rowsOf(evaluation).map(([name, metrics, own]) => {
      const cells = columns.map(([label, read, write]) => {
        const value = read(metrics, own);
        return { label, value: write(value), sort: sortable(value) };
      });
      return { name, cells };
    }),
  };
}

function facet(
  key: string,
  legend: string,
  values: readonly string[],
  label = (value: string): string => value,
): Facet {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return { key, legend, options: [...counts].map(([value, count]) => ({ value, label: label(value), count })) };
}

function facetsOf(scores: readonly EvaluatedImage[]): Facet[] {
  const products = scores.flatMap(({ product }) => (product === null ? [] : [product]));
  // In the order of the outcomes, not of their first image.
  const judged = (Object.keys(outcomes) as Outcome[]).flatMap((outcome) =>
    scores.flatMap((image) => (image.outcome === outcome ? [outcome] : [])),
  );
  return [
    facet('product', 'Product', products),
    facet(
      'defect',
      'Defect',
      scores.map(({ defect }) => defect),
    ),
    facet('outcome', 'Outcome', judged, (outcome) => outcomes[outcome as Outcome]),
  ].filter(({ options }) => options.length > 0);
}

/** `shown`: the images that the page has rows for. */
export function summarize(evaluation: Evaluation, shown: readonly EvaluatedImage[], date: Date): Summary {
  const { model, scores, warnings } = evaluation;
  const all = shown.length === scores.length;
  return {
    title: model === '' ? 'Evaluation' : `Evaluation of ${baseName(model)}`,
    warnings,
    facts: factsOf(evaluation, date),
    verdicts: verdictsOf(scores),
    figures: figuresOf(evaluation),
    ...defectsOf(evaluation),
    against: `Each defect against all good images${evaluation.perProduct ? ' of its product' : ''}.`,
    facets: facetsOf(shown),
    total: counted(shown.length, 'image'),
    left: all ? '' : `The table has ${shown.length} of the ${scores.length} images.`,
  };
}

type ShotKey = 'original' | 'mask' | 'reconstruction' | 'difference' | 'overlay' | 'pixelMap' | 'featureMap' | 'rounds';

/** What the page shows of all images, or of none. */
export interface Columns {
  shots: { key: ShotKey; name: string }[];
  product: boolean;
  judged: boolean;
}

/** The columns of a page with these images. */
export function columnsOf(images: readonly EvaluatedImage[], shots: Columns['shots']): Columns {
  return { shots, product: images.some(({ product }) => product !== null), judged: isJudged(images) };
}

export type Shots = Record<ShotKey, Thumbnail | null>;

/** The header of the table of images. */
export function headerOf({ shots, product, judged }: Columns): { key: string; name: string; sortable: boolean }[] {
  const cell = (key: string, name: string) => ({ key, name, sortable: true });
  return [
    cell('name', 'Image'),
    ...shots.map(({ key, name }) => ({ key, name, sortable: false })),
    ...(product ? [cell('product', 'Product')] : []),
    cell('defect', 'Defect'),
    cell('score', 'Score'),
    ...(judged ? [cell('threshold', 'Threshold'), cell('outcome', 'Outcome')] : []),
  ];
}

/** A row of the table of images, as its template wants it. */
export function rowOf(image: EvaluatedImage, pictures: Shots, columns: Columns): object {
  const { defect, product, score, threshold, outcome } = image;
  const text = (key: string, name: string, value: string) => ({ key, name, value, sort: value });
  const figure = (key: string, name: string, value: number | null) => {
    return { key, name, value: number(value), sort: sortable(value) };
  };
  return {
    image: image.image,
    parts: image.image.split(/(?<=[\\/])/), // lines break after slashes
    defect,
    product,
    outcome,
    shots: columns.shots.map(({ key, name }) => ({
      name,
      picture: pictures[key],
      alt: `${name}: ${image.image}`,
      missing: key === 'mask' && isGood(image) ? 'no defect' : none,
    })),
    cells: [
      ...(columns.product ? [text('product', 'Product', product ?? none)] : []),
      text('defect', 'Defect', defect),
      figure('score', 'Score', score),
      ...(columns.judged
        ? [
            figure('threshold', 'Threshold', threshold),
            { ...text('outcome', 'Outcome', outcome === null ? none : outcomes[outcome]), badge: outcome },
          ]
        : []),
    ],
  };
}
