import { z } from 'zod';
import type { presets } from '../config/presets.js';

export const suiteNames = ['ops', 'unet', 'train', 'score', 'io', 'memory'] as const;
export type SuiteName = (typeof suiteNames)[number];

/** Presets that a processor runs in a reasonable time. */
export const benchPresets = ['nano', 'lite'] as const satisfies readonly (keyof typeof presets)[];
export type BenchPreset = (typeof benchPresets)[number];

/** Milliseconds, rates (where more is better), and 2^20 bytes. */
export const units = ['ms', 'images/s', 'GFLOP/s', 'GB/s', 'MiB'] as const;
export type Unit = (typeof units)[number];

/** Whether a larger value is a better one. */
export const moreIsBetter = (unit: Unit): boolean => unit.endsWith('/s');

const details = z.object({
  /** The kernel that was chosen. */
  kernel: z.string().optional(),
  /** How many ops of this kind and shape a pass has. */
  count: z.number().int().positive().optional(),
  /** Operations and least traffic in bytes of one. */
  flops: z.number().min(0).optional(),
  bytes: z.number().min(0).optional(),
  /** Of the pass that it is a part of: 0 to 1. */
  share: z.number().min(0).optional(),
  /** Shown, but never called a regression: tails and trifles say more of the machine than of the build. */
  informative: z.boolean().optional(),
});
export type Details = z.infer<typeof details>;

/** One value that a process measured. */
export interface Figure {
  name: string;
  unit: Unit;
  value: number;
  details?: Details;
}

const measurement = z.object({
  suite: z.string().min(1),
  name: z.string().min(1),
  unit: z.enum(units),
  median: z.number(),
  low: z.number(),
  high: z.number(),
  /** A value for each fresh process. */
  samples: z.array(z.number().positive()).min(1),
  details: details.optional(),
  /** Throughput by the operations and the traffic of the definition, and which share of the machine's best that is. */
  gflops: z.number().optional(),
  gbs: z.number().optional(),
  ceilingShare: z.number().optional(),
});

/** A figure over several processes: its median and the interval that holds it at the document's `confidence`. */
export type Measurement = z.infer<typeof measurement>;

export const benchDocument = z.object({
  kind: z.literal('ddad-native-bench'),
  formatVersion: z.literal(1),
  date: z.string().min(1),
  processor: z.string(),
  instructionSet: z.string(),
  threads: z.number().int().positive(),
  versions: z.object({ package: z.string(), node: z.string(), onednn: z.string() }),
  commit: z.string().nullable(),
  presets: z.array(z.string()).min(1),
  suites: z.array(z.string()).min(1),
  rounds: z.number().int().positive(),
  quick: z.boolean(),
  confidence: z.number(),
  /** The best that the machine reached in these processes: multiply-adds from registers, copies between buffers. */
  machine: z.array(measurement),
  measurements: z.array(measurement).min(1),
});

/** What `bench --json` writes and `--compare` reads. */
export type BenchDocument = z.infer<typeof benchDocument>;

/** What a fresh process is asked to do. */
export interface Task {
  suite: SuiteName | 'environment' | 'prepare';
  preset: BenchPreset;
  /** Of a suite that takes several processes. */
  part?: string;
  threads: number;
  quick: boolean;
  /** For files that processes share. */
  folder: string;
}

/** What a build says of itself and of the machine. */
export interface Environment {
  package: string;
  node: string;
  onednn: string;
  processor: string;
  instructionSet: string;
  threads: number;
}

/** Raised when what parent and child say to each other changes. */
export const protocol = 1;

export type Reply =
  | {
      protocol: number;
      figures: Figure[];
      machine: Figure[];
      environment?: Environment;
      /** The lower rate of multiply-adds before and after, by which a process shows that others were at work. */
      calm?: number;
    }
  | { protocol: number; error: { code: string; message: string } };
