import { DdadError } from '../base/errors.js';
import { parse } from '../config/options.js';
import { readTextFile } from '../files/read.js';
import { medianInterval, medianOf } from './statistics.js';
import { benchDocument, type BenchDocument, type Measurement } from './types.js';

/**
 * The runs of a history file, a JSON document a line, oldest first; none where there is no file. A last line that was
 * cut off is left out. Throws ERR_BASELINE for any other that is damaged, ERR_FILE_READ.
 */
export async function readHistory(file: string): Promise<BenchDocument[]> {
  let text: string;
  try {
    text = await readTextFile(file);
  } catch (cause) {
    if (((cause as Error).cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw cause;
  }
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return lines.flatMap((line, i) => {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      if (i === lines.length - 1 && !text.endsWith('\n')) return [];
      throw new DdadError('ERR_BASELINE', `${file}: line ${i + 1} is not JSON`, { cause });
    }
    return [parse(benchDocument, value, 'ERR_BASELINE', `${file}: line ${i + 1}: `)];
  });
}

type Machine = Pick<BenchDocument, 'processor' | 'instructionSet' | 'threads'>;

const machineOf = ({ processor, instructionSet, threads }: Machine): string =>
  JSON.stringify([processor, instructionSet, threads]);

/** The runs that a run can be compared with: of the same processor, instruction set and number of threads. */
export function sameMachine(history: readonly BenchDocument[], as: Machine): BenchDocument[] {
  return history.filter((one) => machineOf(one) === machineOf(as));
}

function pool(measured: readonly (readonly Measurement[])[]): Measurement[] {
  const known = new Map<string, Measurement>();
  for (const one of measured.flat()) {
    const before = known.get(`${one.suite}/${one.name}`);
    const samples = [...(before?.samples ?? []), ...one.samples];
    const { low, high } = medianInterval(samples);
    known.set(`${one.suite}/${one.name}`, { ...one, median: medianOf(samples), low, high, samples });
  }
  return [...known.values()];
}

/**
 * The last `count` runs as one baseline that holds the processes of them all, and with them what changes from one
 * night to another. Undefined where there is no run.
 */
export function poolHistory(history: readonly BenchDocument[], count: number): BenchDocument | undefined {
  const runs = history.slice(-count);
  const last = runs.at(-1);
  if (!last) return undefined;
  const union = (of: (run: BenchDocument) => string[]): string[] => [...new Set(runs.flatMap(of))];
  return {
    ...last,
    presets: union(({ presets }) => presets),
    suites: union(({ suites }) => suites),
    rounds: runs.reduce((sum, { rounds }) => sum + rounds, 0),
    machine: pool(runs.map(({ machine }) => machine)),
    measurements: pool(runs.map(({ measurements }) => measurements)),
  };
}
