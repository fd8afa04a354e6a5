import type { Options } from 'yargs';
import { toDdadError } from '../base/errors.js';

/** A command line that cannot be run as it stands: exit status 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

export const exitCodes = { done: 0, failed: 1, usage: 2, anomalies: 3, interrupted: 130, readerGone: 141 } as const;

/** Which exit status an error ends with. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return exitCodes.usage;
  const { code } = toDdadError(error);
  if (code === 'ERR_OPTION') return exitCodes.usage;
  return code === 'ERR_ABORTED' ? exitCodes.interrupted : exitCodes.failed;
}

const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** `90`, `90s`, `1.5m`, `1h30m` in milliseconds; a bare number is seconds. */
export function parseDuration(name: string, text: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  const plain = /^\d+(\.\d+)?$/.test(text);
  const total = plain
    ? Number(text) * 1000
    : parts.reduce((sum, [, value, unit]) => sum + Number(value) * (units[unit as string] as number), 0);
  if ((!plain && parts.map(([part]) => part).join('') !== text) || !(total > 0)) {
    throw new UsageError(`--${name}: expected a duration such as 30s, 5m or 1h30m, got "${text}"`);
  }
  return total;
}

const sizes: Record<string, number> = { '': 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9 };

/** `50MB`, `500 kB`, `1000000` in bytes. */
export function parseSize(name: string, text: string): number {
  const [, value, unit = ''] = /^(\d+(?:\.\d+)?)\s*([kMG]?B)?$/i.exec(text) ?? [];
  const bytes = Math.round(Number(value) * (sizes[unit.toUpperCase()] as number));
  if (!(bytes > 0)) throw new UsageError(`--${name}: expected a size in B, kB, MB or GB such as 50MB, got "${text}"`);
  return bytes;
}

/** `64` (pixels) or `50%` (of the pixels). */
export function parseTopPixels(text: string): { count: number } | { share: number } {
  const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(text);
  const value = Number(match?.[1]);
  if (!match || !(value > 0) || (match[2] === '%' ? value > 100 : !Number.isInteger(value))) {
    throw new UsageError(`--top-pixels: expected a number such as 64 or a share such as 50%, got "${text}"`);
  }
  return match[2] === '%' ? { share: value / 100 } : { count: value };
}

/** `5,50,100` as numbers. */
export function parseNumbers(name: string, text: string): number[] {
  const numbers = text.split(',').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (numbers.some(Number.isNaN)) throw new UsageError(`--${name}: expected numbers such as 5,50,100, got "${text}"`);
  return numbers;
}

/** An option with one text value. */
export function text(name: string, describe: string, shown?: string): Options {
  return {
    type: 'string',
    requiresArg: true,
    describe: `${describe}${shown === undefined ? '' : `  [default: ${shown}]`}`,
    coerce: (value: unknown) => {
      if (Array.isArray(value)) throw new UsageError(`--${name}: given twice`);
      if (value === '') throw new UsageError(`--${name}: expected a value, got nothing`);
      return value;
    },
  };
}

/** An option that takes one number; yargs itself would turn anything else into NaN. */
export function number(name: string, describe: string, shown?: string): Options {
  const option = text(name, describe, shown);
  const coerce = option.coerce as (value: unknown) => unknown;
  return {
    ...option,
    coerce: (value: unknown) => {
      if (value === false) return 0; // --no-<name>
      const raw = coerce(value);
      if (raw === undefined) return undefined;
      const text = `${raw as string | number}`; // a default is a number
      const result = text.trim() === '' ? Number.NaN : Number(text);
      if (!Number.isFinite(result)) throw new UsageError(`--${name}: expected a number, got "${text}"`);
      return result;
    },
  };
}

/** Refuses a value that is given and is no whole number between two. */
export function checkWhole<T extends number | undefined>(name: string, value: T, least: number, most: number): T {
  if (value === undefined || (Number.isInteger(value) && value >= least && value <= most)) return value;
  throw new UsageError(`--${name}: expected a whole number from ${least} to ${most}, got "${value}"`);
}

/** An option with several values, given together with commas or one by one. */
export function list(name: string, describe: string, shown?: string): Options {
  return {
    ...text(name, describe, shown),
    array: true,
    nargs: 1,
    coerce: (value: string[] | undefined) => {
      const values = value?.flatMap((part) => part.split(',')).map((part) => part.trim());
      if (values?.includes('')) throw new UsageError(`--${name}: expected a value, got nothing`);
      return values;
    },
  };
}

export const jsonFlag = {
  json: { type: 'boolean', default: false, describe: 'Print the result as JSON on stdout' },
} satisfies Record<string, Options>;

/** Of commands that score images. */
export const memoryFlag = {
  'memory-budget': text('memory-budget', 'Memory that images may take: 2GB', "half of the machine's"),
} satisfies Record<string, Options>;

export interface MemoryArguments {
  memoryBudget?: string;
}

/** What that option asks for. */
export function memoryBudgetOf({ memoryBudget }: MemoryArguments): number | undefined {
  return memoryBudget === undefined ? undefined : parseSize('memory-budget', memoryBudget);
}

/** Options that every computing command has. */
export const deviceFlags = {
  device: text('device', 'Where to compute: auto, cpu, cuda or cuda:N', 'auto'),
  precision: { choices: ['float32', 'tf32', 'bf16'], default: 'float32', describe: 'Of products, on a GPU' },
  threads: number('threads', 'CPU threads', 'all'),
  ...jsonFlag,
} satisfies Record<string, Options>;
