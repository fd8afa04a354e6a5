// The figures of a run as one table of Markdown:
//   node bench/accuracy/suite/table.mjs REPORT.json [--into docs/accuracy.md]
// With --into the table takes the place of what stands between the two marks of that file, else it goes to stdout.
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { halfNames } from './halves.mjs';
import { gainsOf, verdictOf } from './verdict.mjs';

const figure = (value) => (value === null || value === undefined ? '-' : value.toFixed(3));
const percent = (value) => `${Math.round(100 * value)}`;

function rate({ count, rate: share, low, high }) {
  return count === 0 ? '-' : `${percent(share)} % of ${count} (${percent(low)}-${percent(high)})`;
}

/** The groups that a result has, as `[group, labels]`: those with halves have one for each. */
function groupsOf(results) {
  const labels = new Set(results.flatMap(({ rows }) => rows.flatMap((row) => Object.keys(row.groups))));
  return ['real', 'synthetic'].flatMap((group) => {
    const halves = halfNames.map((half) => `${group}/${half}`).filter((label) => labels.has(label));
    const all = labels.has(`${group}/all`) ? [[group, [`${group}/all`]]] : [];
    return [...(halves.length > 0 ? [[group, halves]] : []), ...all];
  });
}

const line = (cells) => `| ${cells.join(' | ')} |`;

function setRows(set, results) {
  return groupsOf(results).flatMap(([group, labels]) =>
    results.flatMap((result) =>
      result.rows.map((row) => {
        const found = labels.map((label) => row.groups[label]);
        const each = (of) => found.map((one) => (one ? of(one) : '-')).join(' / ');
        const cells = [
          each((f) => figure(f.imageAuroc)),
          each((f) => figure(f.pixelAuroc)),
          each((f) => figure(f.aupro)),
        ];
        const rates = [each((f) => rate(f.recall)), rate(row.falseAlarms)];
        return line([set, group, result.titles[row.row], ...cells, ...rates, result.msPerImage.toFixed(0)]);
      }),
    ),
  );
}

function candidates({ results }) {
  const names = [...new Set(results.map(({ candidate }) => candidate).filter(Boolean))];
  if (names.length === 0) return [];
  const rows = names.flatMap((name) => {
    const gains = gainsOf(results, name);
    const { halves, accepted } = verdictOf(gains);
    return halves.map(({ half, chosen, leftOut, gaining }) => {
      const by = Object.entries(gains).map(([set, gain]) => `${set} ${gain[leftOut]?.toFixed(3) ?? '-'}`);
      return line([name, half, chosen ? 'yes' : 'no', by.join(', '), gaining.length, accepted ? 'yes' : 'no']);
    });
  });
  const head = [
    'candidate',
    'half',
    'it chooses',
    'change of image AUROC on the other half',
    'sets that gain',
    'accepted',
  ];
  return ['', '## Candidates', '', line(head), line(head.map(() => '---')), ...rows];
}

/** The report of `run.mjs` as Markdown. */
export function markdown(report) {
  const head = ['set', 'defects', 'method', 'image AUROC', 'pixel AUROC', 'AUPRO', 'recall', 'false alarms', 'ms'];
  const sets = [...new Set(report.results.map(({ set }) => set))];
  const limit = report.limit.steps ? `${report.limit.steps} steps` : `${report.limit.timeLimitMs / 60_000} minutes`;
  return [
    `Training: ${limit}${report.short ? ', a short run over some of the images' : ''}; seed ${report.seed}; ${report.machine.cores} x ${report.machine.cpu}.`,
    '',
    'Two figures: half A / half B of the kinds of defects. One figure: defects without kinds, which only report.',
    '',
    '<!-- prettier-ignore-start -->',
    '',
    line(head),
    line(head.map(() => '---')),
    ...sets.flatMap((set) =>
      setRows(
        set,
        report.results.filter((result) => result.set === set),
      ),
    ),
    ...candidates(report),
    ...(report.failed.length > 0
      ? ['', ...report.failed.map((one) => `- ${one.set}, ${one.method}: failed: ${one.error}`)]
      : []),
    '',
    '<!-- prettier-ignore-end -->',
    '',
  ].join('\n');
}

/** The text with the table between the marks of its kind of run: what was there is replaced. */
export function inserted(text, table, { short }) {
  const [begin, end] = ['begin', 'end'].map((which) => `<!-- ${which} ${short ? 'short' : 'whole'} run -->`);
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`expected the marks ${begin} and ${end}`);
  return `${text.slice(0, from + begin.length)}\n\n${table}\n${text.slice(to)}`;
}

async function main() {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { into: { type: 'string' } } });
  if (positionals.length !== 1) {
    process.stderr.write('usage: table.mjs REPORT.json [--into FILE.md]\n');
    process.exitCode = 2;
    return;
  }
  const report = JSON.parse(await readFile(positionals[0], 'utf8'));
  const table = markdown(report);
  if (values.into === undefined) process.stdout.write(table);
  else await writeFile(values.into, inserted(await readFile(values.into, 'utf8'), table, report));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
