import { type Comparison, familyRisk } from './compare.js';
import type { BenchDocument, Measurement } from './types.js';
import type { Verdict } from './verdict.js';

const eighths = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/** A bar of `width` characters for a share of 0 to 1. */
export function bar(share: number, width: number): string {
  const filled = Math.round(8 * width * Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0)));
  return ('█'.repeat(Math.floor(filled / 8)) + (eighths[filled % 8] ?? '')).padEnd(width);
}

/** Rows as aligned columns: the first and the last to the left, the others to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) => {
    const cells = row.map((cell, i) => {
      const width = widths[i] ?? 0;
      return i === 0 || i === row.length - 1 ? cell.padEnd(width) : cell.padStart(width);
    });
    return `  ${cells.join('  ')}`.trimEnd();
  });
}

/** Three significant digits, or all before the point. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return '-';
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

const percent = (share: number | null | undefined): string =>
  share === null || share === undefined ? '?' : `${share >= 0 ? '+' : ''}${(100 * share).toFixed(1)} %`;

function opsTable(measured: readonly Measurement[]): string[] {
  const byShare = [...measured].sort((a, b) => (b.details?.share ?? 0) - (a.details?.share ?? 0));
  const head = ['', 'ms', 'interval', 'times', '% of pass', 'GFLOP/s', 'GB/s', 'kernel', 'of the ceiling'];
  const rows = byShare.map(({ name, median, low, high, details, gflops, gbs, ceilingShare = 0 }) => [
    name,
    digits(median),
    `${digits(low)} - ${digits(high)}`,
    String(details?.count ?? 1),
    (100 * (details?.share ?? 0)).toFixed(1),
    gflops ? digits(gflops) : '-',
    digits(gbs ?? Number.NaN),
    details?.kernel ?? '',
    `${bar(ceilingShare, 16)} ${(100 * ceilingShare).toFixed(0)} %`,
  ]);
  return table([head, ...rows]);
}

function plainTable(measured: readonly Measurement[]): string[] {
  const largest = (unit: string): number =>
    Math.max(...measured.filter((one) => one.unit === unit).map(({ median }) => median));
  const rows = measured.map(({ name, unit, median, low, high, gflops }) => [
    name,
    `${digits(median)} ${unit}`,
    `${digits(low)} - ${digits(high)}`,
    gflops ? `${digits(gflops)} GFLOP/s` : '',
    bar(median / largest(unit), 24),
  ]);
  return table([['', 'median', 'interval', '', ''], ...rows]);
}

/** The document for people. */
export function describeDocument(document: BenchDocument): string[] {
  const { processor, instructionSet, threads, versions, commit, rounds, confidence, machine, suites } = document;
  const at = commit === null ? '' : `, commit ${commit.slice(0, 10)}${commit.endsWith('+') ? '+' : ''}`;
  const limits = machine.map(({ name, median, unit }) => `${name} ${digits(median)} ${unit}`).join(', ');
  const spread =
    rounds === 1
      ? 'of one process: how far others would lie from it is not known'
      : `medians of ${rounds} processes, with intervals of ${(100 * confidence).toFixed(1)} % confidence`;
  return [
    `${processor}, ${instructionSet}, ${threads} thread${threads === 1 ? '' : 's'}; the machine's best: ${limits}`,
    `ddad-native ${versions.package}${at}, oneDNN ${versions.onednn}, Node.js ${versions.node}`,
    spread,
    ...suites.flatMap((suite) => {
      const measured = document.measurements.filter((one) => one.suite === suite);
      return ['', suite, ...(suite === 'ops' ? opsTable(measured) : plainTable(measured))];
    }),
  ];
}

const marks: Record<Comparison['verdict'], string> = {
  slower: 'SLOWER',
  faster: 'faster',
  same: '',
  unknown: 'too few processes',
  'not-judged': 'not judged',
};

/** The comparison for people: everything that changed, and what of it is a regression. */
export function describeVerdict(verdict: Verdict, maxRegression: number): string[] {
  const { rows, against, regressions, machineSlowdown, unmatched, roundsNeeded } = verdict;
  const shown = [...rows].sort((a, b) => b.slowdown - a.slowdown);
  const cells = shown.map((row) => [
    `${row.suite} ${row.name}`,
    `${digits(row.base)} ${row.unit}`,
    `${digits(row.current)} ${row.unit}`,
    percent(row.slowdown),
    `${percent(row.low)} to ${percent(row.high)}`,
    bar(Math.abs(row.slowdown) / 0.2, 10),
    marks[row.verdict],
  ]);
  const lines = [
    '',
    `compared with ${against} (slowdown, and intervals that all hold at once with ${100 * (1 - familyRisk)} %)`,
    ...table([['', 'before', 'now', 'slower by', 'interval', '', ''], ...cells]),
  ];
  if (machineSlowdown >= 0.01) {
    const advice = machineSlowdown > maxRegression / 2 ? '; --against tells more than a baseline does now' : '';
    lines.push(`the machine itself is ${percent(machineSlowdown)} slower than then, which is allowed for${advice}`);
  }
  if (unmatched.length > 0) lines.push(`${unmatched.length} measurements have no counterpart`);
  if (rows.some((row) => row.verdict === 'unknown')) {
    lines.push(`too few processes for a verdict: give --rounds ${roundsNeeded} or more, here and for the baseline`);
  }
  const limit = `${Number((100 * maxRegression).toPrecision(3))} %`;
  lines.push(
    regressions.length === 0
      ? `nothing is more than ${limit} slower beyond noise`
      : `${regressions.length} measurement${regressions.length === 1 ? ' is' : 's are'} more than ${limit} slower ` +
          'beyond noise, in two looks',
  );
  return lines;
}
