import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { folderPrefix, removeLeftovers } from '../files/leftovers.js';
import { type Build, commitOf } from './builds.js';
import { runTask } from './children.js';
import { medianInterval, medianOf } from './statistics.js';
import { memoryParts } from './suites/memory.js';
import type { BenchDocument, BenchPreset, Environment, Figure, Measurement, SuiteName, Task } from './types.js';

export interface BenchOptions {
  suites: readonly SuiteName[];
  presets: readonly BenchPreset[];
  /** 0: all processors. */
  threads: number;
  /** Fresh processes for each suite. */
  rounds: number;
  /** A third of the time in each process. */
  quick: boolean;
}

/** Told after every process: a share of 0 to 1, and what it did. */
export type OnProgress = (done: number, what: string) => void;

const key = (suite: string, name: string): string => `${suite}/${name}`;

/** The values of one build, a process after the other. */
class Collection {
  readonly #figures = new Map<string, { suite: string; figure: Figure; samples: number[] }>();

  add(suite: string, figures: readonly Figure[]): void {
    for (const figure of figures) {
      const at = key(suite, figure.name);
      const known = this.#figures.get(at);
      if (known) known.samples.push(figure.value);
      else this.#figures.set(at, { suite, figure, samples: [figure.value] });
    }
  }

  measurements(): Measurement[] {
    return [...this.#figures.values()].map(({ suite, figure: { name, unit, details }, samples }) => {
      const { low, high } = medianInterval(samples);
      return { suite, name, unit, median: medianOf(samples), low, high, samples, ...(details && { details }) };
    });
  }
}

/** What throughput a time stands for, and how near it comes to the better of the machine's two limits. */
function withThroughput(one: Measurement, machine: readonly Measurement[]): Measurement {
  const { flops, bytes } = one.details ?? {};
  if (one.unit !== 'ms' || flops === undefined) return one;
  const best = (name: string): number => machine.find((limit) => limit.name === name)?.median ?? Number.NaN;
  const gflops = flops / one.median / 1e6;
  if (bytes === undefined) return { ...one, gflops, ceilingShare: gflops / best('multiply-add') };
  const gbs = bytes / one.median / 1e6;
  return { ...one, gflops, gbs, ceilingShare: Math.max(gflops / best('multiply-add'), gbs / best('copy')) };
}

function tasksOf({ suites, presets, threads, quick }: BenchOptions, folder: string): Task[] {
  return presets.flatMap((preset) =>
    suites.flatMap((suite) => {
      const task: Task = { suite, preset, threads, quick, folder };
      return suite === 'memory' ? memoryParts.map((part) => ({ ...task, part })) : [task];
    }),
  );
}

/** A process is measured again where its multiply-adds ran at less than this share of the best rate so far. */
const calmShare = 0.9;
const repeats = 2;

/** Measures builds side by side; holds the files that their processes share until it is disposed of. */
export class Bench {
  readonly builds: readonly Build[];
  readonly #folder: string;
  readonly #environments = new Map<Build, Environment>();
  readonly #prepared = new Set<string>();
  /** The best rate of multiply-adds that a process has shown. */
  #best = 0;

  private constructor(builds: readonly Build[], folder: string) {
    this.builds = builds;
    this.#folder = folder;
  }

  /** Asks every build what it is. Throws what a build's process throws: ERR_ADDON, ERR_OPTION, ERR_ABORTED, … */
  static async open(builds: readonly Build[], threads: number, signal: AbortSignal): Promise<Bench> {
    await removeLeftovers(os.tmpdir(), { folders: true });
    const bench = new Bench(builds, await mkdtemp(path.join(os.tmpdir(), folderPrefix())));
    try {
      for (const build of builds) {
        const task: Task = { suite: 'environment', preset: 'nano', threads, quick: true, folder: bench.#folder };
        const { environment } = await runTask(build, task, signal);
        bench.#environments.set(build, environment as Environment);
      }
      return bench;
    } catch (error) {
      await bench.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  environment(build: Build): Environment {
    return this.#environments.get(build) as Environment;
  }

  /**
   * Runs every suite in `rounds` fresh processes of each build in turn, in alternating order, and returns a document a
   * build. What else happens on the machine thus strikes all of them alike.
   */
  async run(options: BenchOptions, signal: AbortSignal, onProgress: OnProgress): Promise<BenchDocument[]> {
    const tasks = tasksOf(options, this.#folder);
    const total = options.rounds * tasks.length * this.builds.length;
    const collections = this.builds.map((build) => ({ build, own: new Collection(), machine: new Collection() }));
    await this.#prepare(options, signal);
    let done = 0;
    for (let round = 0; round < options.rounds; round++) {
      for (const [t, task] of tasks.entries()) {
        const order = (round + t) % 2 === 0 ? collections : [...collections].reverse();
        for (const { build, own, machine } of order) {
          const answer = await this.#runCalmly(build, task, signal);
          own.add(task.suite, answer.figures);
          machine.add('machine', answer.machine);
          done += 1;
          onProgress(done / total, `${task.preset} ${task.suite}, process ${round + 1} of ${options.rounds}`);
        }
      }
    }
    return Promise.all(collections.map(({ build, own, machine }) => this.#document(build, options, own, machine)));
  }

  /** Runs a task, once or twice again where other work took the processors meanwhile. */
  async #runCalmly(build: Build, task: Task, signal: AbortSignal): ReturnType<typeof runTask> {
    for (let left = repeats; ; left--) {
      const answer = await runTask(build, task, signal);
      const { calm = Infinity } = answer;
      if (calm >= calmShare * this.#best || left === 0) {
        if (Number.isFinite(calm)) this.#best = Math.max(this.#best, calm);
        return answer;
      }
    }
  }

  /** Makes the model files of suites that need some, with the first build. */
  async #prepare({ suites, presets, threads, quick }: BenchOptions, signal: AbortSignal): Promise<void> {
    if (!suites.some((suite) => suite === 'score' || suite === 'io' || suite === 'memory')) return;
    for (const preset of presets) {
      if (this.#prepared.has(preset)) continue;
      const task: Task = { suite: 'prepare', preset, threads, quick, folder: this.#folder };
      await runTask(this.builds[0] as Build, task, signal);
      this.#prepared.add(preset);
    }
  }

  async #document(build: Build, options: BenchOptions, own: Collection, machine: Collection): Promise<BenchDocument> {
    const { processor, instructionSet, threads, ...versions } = this.environment(build);
    const limits = machine.measurements();
    return {
      kind: 'ddad-native-bench',
      formatVersion: 1,
      date: new Date().toISOString(),
      processor,
      instructionSet,
      threads,
      versions,
      commit: build.addon === undefined ? await commitOf(build.root) : null,
      presets: [...options.presets],
      suites: [...options.suites],
      rounds: options.rounds,
      quick: options.quick,
      confidence: medianInterval(Array.from({ length: options.rounds }, (_, i) => i)).confidence,
      machine: limits,
      measurements: own.measurements().map((one) => withThroughput(one, limits)),
    };
  }
}
