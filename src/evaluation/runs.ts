import { sortRecords, type Stride } from './keys.js';
import type { Spool } from './spool.js';

/** Sorted records of one owner: in memory, or in the spool from `position` on. */
export interface Run {
  owner: number;
  /** Words in all. */
  length: number;
  memory: Uint32Array | null;
  position: number;
}

/** Two arrays to sort in, shared by those who sort in turn. */
export interface SortSpace {
  a: Uint32Array;
  b: Uint32Array;
}

/**
 * Collects records and turns them into sorted runs. `words` and `used` are open to the loop that fills them; it says
 * with `mark` whose records they are, and makes room with `flush`.
 */
export class RunWriter {
  readonly runs: Run[] = [];
  readonly words: Uint32Array;
  readonly stride: Stride;
  used = 0;
  readonly #space: SortSpace;
  #segments: { owner: number; end: number }[] = [];

  constructor(stride: Stride, words: number, space: SortSpace) {
    this.stride = stride;
    this.words = new Uint32Array(words);
    this.#space = space;
  }

  get free(): number {
    return (this.words.length - this.used) / this.stride;
  }

  /** What has come since the last mark belongs to `owner`. */
  mark(owner: number): void {
    const last = this.#segments.at(-1);
    if (last?.owner === owner) last.end = this.used;
    else if (this.used > (last?.end ?? 0)) this.#segments.push({ owner, end: this.used });
  }

  /** Makes a run an owner of what is here, in the spool, or in memory where there is none. */
  async flush(spool: Spool | null): Promise<void> {
    for (const owner of new Set(this.#segments.map((segment) => segment.owner))) {
      const length = this.#gather(owner);
      const sorted = sortRecords(this.#space.a, this.#space.b, length, this.stride).subarray(0, length);
      const position = spool ? await spool.append(sorted) : 0;
      this.runs.push({ owner, length, memory: spool ? null : sorted.slice(), position });
    }
    this.#segments = [];
    this.used = 0;
  }

  #gather(owner: number): number {
    let length = 0;
    let start = 0;
    for (const segment of this.#segments) {
      if (segment.owner === owner) {
        this.#space.a.set(this.words.subarray(start, segment.end), length);
        length += segment.end - start;
      }
      start = segment.end;
    }
    return length;
  }
}

/** Reads a run front to back. `words[at]` is the next record's key, and so is `head`. */
export class RunReader {
  readonly owner: number;
  readonly order: number;
  words: Uint32Array;
  at = 0;
  end = 0;
  head = 0;
  readonly #run: Run;
  #read = 0;

  constructor(run: Run, order: number, bufferWords: number) {
    this.owner = run.owner;
    this.order = order;
    this.#run = run;
    this.words = run.memory ?? new Uint32Array(Math.min(bufferWords, run.length));
    if (!run.memory) return;
    this.#read = this.end = run.length;
    this.head = this.words[0] as number;
  }

  get exhausted(): boolean {
    return this.#read === this.#run.length;
  }

  async refill(spool: Spool): Promise<void> {
    const count = Math.min(this.words.length, this.#run.length - this.#read);
    await spool.read(this.#run.position + this.#read, this.words.subarray(0, count));
    this.#read += count;
    this.at = 0;
    this.end = count;
    this.head = this.words[0] as number;
  }
}

const before = (a: RunReader, b: RunReader): boolean => a.head < b.head || (a.head === b.head && a.order < b.order);

/** Sorted runs read as one: a heap whose first has the smallest key, of equal ones the run that was written first. */
export class RunMerge {
  readonly #heap: RunReader[];
  readonly #spool: Spool | null;

  private constructor(heap: RunReader[], spool: Spool | null) {
    this.#heap = heap;
    this.#spool = spool;
  }

  /** Reads through buffers that take `bytes` together. */
  static async open(runs: readonly Run[], spool: Spool | null, bytes: number): Promise<RunMerge> {
    // Even, so that a record never lies across the end; at least 64 records, below which reading would take for ever.
    const bufferWords = Math.min(2 ** 16, Math.max(128, 2 * Math.floor(bytes / 8 / Math.max(1, runs.length))));
    const readers: RunReader[] = [];
    for (const [order, run] of runs.entries()) {
      const reader = new RunReader(run, order, bufferWords);
      if (!run.memory) await reader.refill(spool as Spool);
      readers.push(reader);
    }
    // Ascending is a heap already.
    return new RunMerge(
      readers.sort((a, b) => (before(a, b) ? -1 : 1)),
      spool,
    );
  }

  get first(): RunReader | undefined {
    return this.#heap[0];
  }

  /** Puts the first run where its next key belongs. False when it has to be refilled before. */
  settle(): boolean {
    const heap = this.#heap;
    let reader = heap[0] as RunReader;
    if (reader.at < reader.end) {
      reader.head = reader.words[reader.at] as number;
    } else {
      if (!reader.exhausted) return false;
      const last = heap.pop() as RunReader;
      if (heap.length === 0) return true;
      reader = last;
    }
    const size = heap.length;
    let hole = 0;
    for (;;) {
      let child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size && before(heap[child + 1] as RunReader, heap[child] as RunReader)) child += 1;
      if (!before(heap[child] as RunReader, reader)) break;
      heap[hole] = heap[child] as RunReader;
      hole = child;
    }
    heap[hole] = reader;
    return true;
  }

  /** Reads on in the first run, and puts it where it belongs. */
  async refill(): Promise<void> {
    await (this.#heap[0] as RunReader).refill(this.#spool as Spool);
    this.settle();
  }
}
