// A model's accuracy on a dataset in MVTec layout by each of its scores, as a table of Markdown:
//   node bench/accuracy/table.mjs MODEL DATASET [--scores default,ensemble,feature,pixel,rgb] [--alpha 0.1,0.2]
// Image AUROC / pixel AUROC / AUPRO up to 0.3; each defect against the good test images.
import { parseArgs } from 'node:util';
import { Detector, evaluate } from '../../dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    scores: { type: 'string', default: 'default,ensemble,feature,pixel,rgb' },
    alpha: { type: 'string', default: '' },
  },
});
const [model, dataset] = positionals;
if (!dataset) {
  console.error('usage: table.mjs MODEL DATASET [--scores KIND,…] [--alpha NUMBER,…]');
  process.exit(2);
}
const list = (text) => text.split(',').filter(Boolean);
const ways = [
  ...list(values.scores).map((kind) => [kind, kind === 'default' ? undefined : { kind }]),
  ...list(values.alpha).map((alpha) => [`ensemble, alpha ${alpha}`, { alpha: Number(alpha) }]),
];

const figure = (value) => (value === null ? '-' : value.toFixed(3));
const figures = ({ imageAuroc, pixelAuroc, aupro }) => [imageAuroc, pixelAuroc, aupro].map(figure).join(' / ');
const mean = (all, of) => figure(all.reduce((sum, metrics) => sum + of(metrics), 0) / all.length);
for (const [i, [name, scoring]] of ways.entries()) {
  const detector = await Detector.load(model, { scoring });
  const found = await evaluate(detector, dataset);
  detector.dispose();
  const defects = Object.keys(found.perDefect);
  if (i === 0) {
    const head = ['score', ...defects, 'all', 'mean image', 'mean pixel'];
    console.log(`| ${head.join(' | ')} |\n| ${head.map(() => '---').join(' | ')} |`);
  }
  const each = Object.values(found.perDefect);
  const means = [mean(each, ({ imageAuroc }) => imageAuroc), mean(each, ({ pixelAuroc }) => pixelAuroc)];
  console.log(`| ${[name, ...each.map(figures), figures(found), ...means].join(' | ')} |`);
}
