import { DdadError } from '../base/errors.js';
import { parse } from '../config/options.js';
import { readTextFile } from '../files/read.js';
import { benchDocument, type BenchDocument, type Environment } from './types.js';

/** A document that `bench --json` wrote. Throws ERR_FILE_READ, ERR_BASELINE. */
export async function readBaseline(file: string): Promise<BenchDocument> {
  const text = await readTextFile(file);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const why = `expected measurements written by "bench --json", got ${text === '' ? 'an empty file' : 'no JSON'}`;
    throw new DdadError('ERR_BASELINE', `${file}: ${why}`, { cause });
  }
  const { kind, formatVersion } = (value ?? {}) as { kind?: unknown; formatVersion?: unknown };
  if (kind === 'ddad-native-bench' && formatVersion !== 1) {
    const got = JSON.stringify(formatVersion);
    throw new DdadError('ERR_BASELINE', `${file}: expected measurements of format version 1, got ${got}`);
  }
  return parse(benchDocument, value, 'ERR_BASELINE', `${file}: not measurements of "bench --json": `);
}

/** Refuses a baseline whose figures mean something else. Throws ERR_BASELINE. */
export function checkBaseline(
  baseline: BenchDocument,
  now: Environment & { presets: readonly string[]; suites: readonly string[] },
  file: string,
): void {
  const differences: string[] = [];
  const differs = (what: string, was: string | number, is: string | number): void => {
    if (was !== is) differences.push(`${what} "${is}", got "${was}"`);
  };
  differs('processor', baseline.processor, now.processor);
  differs('instruction set', baseline.instructionSet, now.instructionSet);
  differs('threads', baseline.threads, now.threads);
  const missing = now.presets.filter((preset) => !baseline.presets.includes(preset));
  if (missing.length > 0) differences.push(`preset "${missing.join('", "')}", got "${baseline.presets.join('", "')}"`);
  if (!now.suites.some((suite) => baseline.suites.includes(suite))) {
    differences.push(`suite "${now.suites.join('", "')}", got "${baseline.suites.join('", "')}"`);
  }
  if (differences.length > 0) {
    const why = `was measured elsewhere: expected ${differences.join('; ')} (--force compares nevertheless)`;
    throw new DdadError('ERR_BASELINE', `${file}: ${why}`);
  }
}
