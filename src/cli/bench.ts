import { checkBaseline, readBaseline } from '../bench/baseline.js';
import { otherBuild, ownBuild } from '../bench/builds.js';
import { Bench, type BenchOptions, type OnProgress } from '../bench/measure.js';
import { describeDocument, describeVerdict } from '../bench/report.js';
import { type BenchDocument, type BenchPreset, benchPresets, type SuiteName, suiteNames } from '../bench/types.js';
import { judge, type Verdict } from '../bench/verdict.js';
import { writeWhole } from '../files/write.js';
import { checkOutput } from './outputs.js';
import { didYouMean } from '../base/suggest.js';
import type { Command } from './command.js';
import { log, print, ProgressLine } from './output.js';
import { checkWhole, exitCodes, number, text, UsageError } from './usage.js';

interface BenchArguments {
  suites?: string[];
  json?: string;
  compare?: string;
  maxRegression?: string;
  against?: string;
  preset?: string;
  threads?: number;
  rounds?: number;
  quick: boolean;
  force: boolean;
}

export const benchCommand: Command<BenchArguments> = {
  usage: 'bench [suites..]',
  describe: 'Measure speed and memory; compare with a baseline or another build',
  positionals: { suites: `Of ${suiteNames.join(', ')}; all unless named` },
  flags: {
    json: {
      ...text('json', 'Write the measurements to a file; without a name, or as -, to stdout'),
      requiresArg: false,
      coerce: (value: unknown) => {
        if (Array.isArray(value)) throw new UsageError('--json: given twice');
        return value;
      },
    },
    compare: text('compare', 'Measurements of --json; exit with status 1 when something became slower'),
    against: text('against', 'Another built package, or its ddad.node, to run in turn and compare with'),
    'max-regression': text('max-regression', 'Slowdown to accept', '5%'),
    preset: text('preset', `Networks: ${benchPresets.join(', ')}`, benchPresets.join(',')),
    threads: number('threads', 'CPU threads', 'all'),
    rounds: number('rounds', 'Fresh processes of each suite', '15'),
    quick: { type: 'boolean', default: false, describe: 'nano alone, with a third of the time in each process' },
    force: {
      type: 'boolean',
      default: false,
      describe: 'Compare with a baseline of another machine, and replace a file of any kind',
    },
  },
  example: ['$0 bench ops --compare baseline.json', 'Find kernels that became slower'],
  work: run,
};
/** `5%` or `5` as 0.05. */
function parsePercent(name: string, given: string): number {
  const value = Number(/^(\d+(?:\.\d+)?)\s*%?$/.exec(given)?.[1] ?? Number.NaN) / 100;
  if (!(value >= 0)) throw new UsageError(`--${name}: expected a percentage such as 5%, got "${given}"`);
  return value;
}

function chosen<T extends string>(what: string, given: readonly string[], known: readonly T[]): T[] {
  for (const word of given) {
    if (known.includes(word as T)) continue;
    const meant = didYouMean(word, known);
    throw new UsageError(`${what}: expected ${known.join(', ')}, got "${word}"${meant}`);
  }
  return known.filter((name) => given.includes(name));
}

function optionsOf(argv: BenchArguments): BenchOptions {
  const { suites = [], quick, threads = 0, rounds = 15 } = argv;
  checkWhole('threads', threads, 0, 1024);
  checkWhole('rounds', rounds, 1, 200);
  const presets: readonly BenchPreset[] = quick ? ['nano'] : benchPresets;
  return {
    suites: suites.length === 0 ? suiteNames : chosen<SuiteName>('suite', suites.map(String), suiteNames),
    presets: argv.preset === undefined ? presets : chosen('--preset', argv.preset.split(','), benchPresets),
    threads,
    rounds,
    quick,
  };
}

async function run(argv: BenchArguments, signal: AbortSignal): Promise<number> {
  const options = optionsOf(argv);
  const maxRegression = parsePercent('max-regression', argv.maxRegression ?? '5%');
  const { json, compare, against } = argv;
  const toStdout = json === '' || json === '-';
  const thisBuild = ownBuild();
  const builds = against === undefined ? [thisBuild] : [thisBuild, await otherBuild(against)];
  const baseline = compare === undefined ? undefined : await readBaseline(compare);
  if (json !== undefined && !toStdout) await checkOutput(json, 'measurements', argv.force);

  await using bench = await Bench.open(builds, options.threads, signal);
  if (baseline && !argv.force) {
    checkBaseline(baseline, { ...options, ...bench.environment(thisBuild) }, compare as string);
  }
  const line = new ProgressLine();
  const onProgress: OnProgress = (done, what) => line.update('bench', done, what);
  const measure = (given: BenchOptions): Promise<BenchDocument[]> =>
    bench.run(given, signal, onProgress).finally(() => line.stop());
  const [document, other] = (await measure(options)) as [BenchDocument, BenchDocument | undefined];

  const verdicts: Verdict[] = [];
  const look = async (name: string, base: BenchDocument, again: (of: BenchDocument[]) => BenchDocument) => {
    const allowForMachine = base === baseline;
    const repeat = async (given: BenchOptions): Promise<[BenchDocument, BenchDocument]> => {
      log(`something seems slower than ${name}; looking again at ${given.suites.join(', ')}`);
      const measurement = await measure(given);
      return [again(measurement), measurement[0] as BenchDocument];
    };
    const bounds = { maxRegression, allowForMachine };
    verdicts.push(await judge(name, [base, document], bounds, options, repeat, signal));
  };
  if (baseline) await look(compare as string, baseline, () => baseline);
  if (other) await look(against as string, other, (found) => found[1] as BenchDocument);

  const result = {
    ...document,
    ...(other && { against: other }),
    ...(verdicts.length > 0 && { comparisons: verdicts }),
  };
  if (json !== undefined && !toStdout) await writeWhole(json, `${JSON.stringify(result)}\n`);
  const lines = [...describeDocument(document), ...verdicts.flatMap((one) => describeVerdict(one, maxRegression))];
  print(...(toStdout ? [JSON.stringify(result)] : lines));
  if (json !== undefined && !toStdout) log(`written to ${json}`);
  return verdicts.some(({ regressions }) => regressions.length > 0) ? exitCodes.failed : exitCodes.done;
}
