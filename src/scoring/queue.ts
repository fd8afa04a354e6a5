import { setMaxListeners } from 'node:events';
import { availableParallelism } from 'node:os';
import { createHistogram } from 'node:perf_hooks';
import type { MemoryBudget } from '../image/memory-budget.js';
import { type Claim } from '../image/memory-budget.js';
import { abortError, DdadError, throwIfAborted, toDdadError } from '../base/errors.js';
import { addon, type CancelToken, type NativeDetector, type NativeImage, type NativeScore } from '../engine/native.js';

export interface QueueOptions {
  /** Images that go to the engine at once. */
  maxBatch: number;
  /** How long a batch that is not full waits for more images. */
  maxDelayMs: number;
  /** Calls that may wait. */
  maxQueue: number;
  /** What becomes of further calls: they fail with ERR_BUSY, or wait for room. */
  whenFull: 'reject' | 'wait';
}

/** What a detector has done since it was loaded, and does now. */
export interface DetectorStats {
  /** Calls that wait, among them those whose image is being decoded. */
  queued: number;
  /** Images that are being decoded, also of calls that have been aborted: decoding cannot be interrupted. */
  decoding: number;
  /** Images that the engine works on. */
  running: number;
  scored: number;
  failed: number;
  aborted: number;
  /** Calls that failed with ERR_BUSY. */
  refused: number;
  /** Bytes that images take now, and may take (memoryBudget). */
  imageMemory: { used: number; budget: number };
  batches: number;
  /** How many batches had 1, 2, … images. */
  batchSizes: number[];
  /** From the call to its result, over all that were scored. */
  latencyMs: { count: number; mean: number; p50: number; p95: number; p99: number; max: number };
}

/** A call's image. */
export interface Job {
  /** How it is called in messages. */
  name: string;
  /** Makes it the detector's own; is called at once. */
  take: (claim: Claim) => void;
  /** Decodes it, and ends only when its work has ended; the claim keeps what the image and its maps take. */
  prepare: (signal: AbortSignal, claim: Claim) => Promise<NativeImage>;
}

interface Entry {
  state: 'waiting' | 'preparing' | 'ready' | 'running' | 'settled';
  prepare: Job['prepare'];
  claim: Claim;
  /** Ends its decoding. */
  stop: AbortController;
  image?: NativeImage;
  readyAt: number;
  token?: CancelToken;
  settle: (outcome: NativeScore | DdadError) => void;
}

/** Images decoded at once: as many as libuv has threads by default, but no more than processors, to spare JavaScript's. */
const decoders = Math.min(4, availableParallelism());
/** Memory of decoded images that wait, within the budget; one may always. */
const mostDecodedBytes = 256 * 2 ** 20;
/** Batches at the engine: one that it works on, and a full one, so that it never waits for JavaScript. */
const mostBatches = 2;

/** An error for one more caller, whose stack it will show. */
const copyOf = ({ code, message, cause }: DdadError): DdadError => new DdadError(code, message, { cause });

/**
 * Brings the calls of a detector to its engine: first come, first served; decoded ahead while the engine works, in
 * batches of what is ready. Detectors take turns at the engine, batch by batch.
 */
export class ScoreQueue {
  readonly #native: Pick<NativeDetector, 'scoreBatch'>;
  readonly #options: QueueOptions;
  readonly #budget: MemoryBudget;
  /** In the order of the calls: running ones have left. */
  readonly #entries: Entry[] = [];
  /** Those whose image is being decoded; that goes on for a while where the call has been aborted. */
  readonly #decoding = new Map<Entry, Promise<void>>();
  readonly #running = new Set<Entry>();
  readonly #batches = new Set<Promise<void>>(); // at the engine
  #closed: DdadError | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #counts = { scored: 0, failed: 0, aborted: 0, refused: 0, batches: 0 };
  readonly #batchSizes: number[] = [];
  // Of microseconds, up to an hour; with the defaults it would take a third of a megabyte.
  readonly #latency = createHistogram({ lowest: 1, highest: 3_600_000_000, figures: 2 });

  constructor(native: Pick<NativeDetector, 'scoreBatch'>, options: QueueOptions, budget: MemoryBudget) {
    this.#native = native;
    this.#options = options;
    this.#budget = budget;
  }

  /**
   * Scores an image that is taken at once and decoded when its turn comes. Calls that succeed settle in the order in
   * which they were made. Throws ERR_BUSY, ERR_ABORTED (at once, whatever state the call is in) and what the job and the
   * engine throw.
   */
  async add({ name, take, prepare }: Job, signal?: AbortSignal): Promise<NativeScore> {
    if (this.#closed) throw copyOf(this.#closed);
    throwIfAborted(signal);
    if (signal) setMaxListeners(0, signal); // one signal may stop any number of calls
    const { maxQueue, whenFull } = this.#options;
    if (whenFull === 'reject' && this.#places() >= maxQueue) {
      this.#counts.refused += 1;
      throw new DdadError('ERR_BUSY', `expected at most ${maxQueue} calls waiting (maxQueue), got one more`);
    }
    const claim = this.#budget.open(name, true);
    try {
      take(claim);
    } catch (error) {
      claim.release();
      this.#counts[toDdadError(error).code === 'ERR_BUSY' ? 'refused' : 'failed'] += 1;
      throw error;
    }
    const start = performance.now();
    const outcome = await new Promise<NativeScore | DdadError>((resolve) => {
      const stop = new AbortController();
      const entry: Entry = { state: 'waiting', prepare, claim, stop, readyAt: 0, settle: resolve };
      const abort = (): void => this.#drop(entry, abortError(signal));
      signal?.addEventListener('abort', abort, { once: true });
      entry.settle = (result) => {
        if (entry.state === 'settled') return;
        entry.state = 'settled';
        signal?.removeEventListener('abort', abort);
        resolve(result);
      };
      this.#entries.push(entry);
      this.#pump();
    });
    if (outcome instanceof DdadError) {
      this.#counts[outcome.code === 'ERR_ABORTED' ? 'aborted' : 'failed'] += 1;
      throw outcome;
    }
    this.#counts.scored += 1;
    this.#latency.record(Math.min(3_600_000_000, Math.max(1, Math.round(1000 * (performance.now() - start)))));
    return outcome;
  }

  /** Calls in flight and later ones fail with `error`. */
  close(error: DdadError): void {
    this.#closed ??= error;
    clearTimeout(this.#timer);
    for (const entry of [...this.#entries, ...this.#running]) this.#drop(entry, copyOf(this.#closed));
  }

  /** Resolves when nothing is at the engine or being decoded any more. */
  async idle(): Promise<void> {
    while (this.#batches.size + this.#decoding.size > 0)
      await Promise.all([...this.#batches, ...this.#decoding.values()]);
  }

  stats(): DetectorStats {
    const { count, mean, max } = this.#latency;
    const ms = (us: number): number => (count === 0 ? 0 : us / 1000);
    const at = (percentile: number): number => ms(this.#latency.percentile(percentile));
    return {
      queued: this.#entries.length,
      decoding: this.#decoding.size,
      running: this.#running.size,
      ...this.#counts,
      imageMemory: { used: this.#budget.used, budget: this.#budget.bytes },
      batchSizes: Array.from(this.#batchSizes, (times) => times ?? 0),
      latencyMs: { count, mean: ms(mean), p50: at(50), p95: at(95), p99: at(99), max: ms(max) },
    };
  }

  /** Places that are taken: an aborted call has left, but its place is free only when its decoding has ended. */
  #places(): number {
    let aborted = 0;
    for (const { state } of this.#decoding.keys()) if (state === 'settled') aborted += 1;
    return this.#entries.length + aborted;
  }

  #drop(entry: Entry, error: DdadError): void {
    const idle = entry.state === 'waiting' || entry.state === 'ready';
    entry.stop.abort(error);
    entry.token?.cancel();
    entry.settle(error);
    this.#leave(entry);
    if (!idle) return; // whoever works on it gives its memory back
    if (entry.image) addon().release(entry.image.data);
    delete entry.image;
    entry.claim.release();
  }

  #leave(entry: Entry): void {
    const at = this.#entries.indexOf(entry);
    if (at < 0) return;
    this.#entries.splice(at, 1);
    this.#pump();
  }

  #pump(): void {
    if (this.#closed) return;
    this.#decode();
    this.#submit();
  }

  #decode(): void {
    const { maxBatch, maxQueue } = this.#options;
    const ahead = this.#entries.slice(0, Math.min(maxQueue, (mostBatches + 1) * maxBatch));
    const bytes = ahead.reduce((sum, { image }) => sum + (image?.data.byteLength ?? 0), 0);
    for (const entry of ahead) {
      if (this.#decoding.size >= decoders || bytes > mostDecodedBytes) return;
      if (entry.state !== 'waiting') continue;
      entry.state = 'preparing';
      this.#decoding.set(entry, this.#prepare(entry));
    }
  }

  async #prepare(entry: Entry): Promise<void> {
    const image = await entry.prepare(entry.stop.signal, entry.claim).catch((error: unknown) => {
      entry.settle(toDdadError(error));
      this.#leave(entry);
    });
    this.#decoding.delete(entry);
    if (image && entry.state === 'preparing') {
      entry.image = image;
      entry.state = 'ready';
      entry.readyAt = performance.now();
    } else {
      if (image) addon().release(image.data);
      entry.claim.release();
    }
    this.#pump();
  }

  /** Sends what is ready, in order, when the engine has room. */
  #submit(): void {
    const { maxBatch, maxDelayMs } = this.#options;
    for (;;) {
      const first = this.#entries.findIndex(({ state }) => state !== 'ready');
      const batch = this.#entries.slice(0, Math.min(maxBatch, first < 0 ? this.#entries.length : first));
      const [head] = batch;
      if (!head || this.#batches.size >= mostBatches) return;
      if (batch.length < maxBatch) {
        if (this.#batches.size > 0) return; // it may still become larger
        const wait = head.readyAt + maxDelayMs - performance.now();
        if (wait > 0) {
          clearTimeout(this.#timer);
          this.#timer = setTimeout(() => this.#pump(), Math.ceil(wait));
          return;
        }
      }
      this.#entries.splice(0, batch.length);
      const work = this.#run(batch).then(() => {
        this.#batches.delete(work);
        this.#pump();
      });
      this.#batches.add(work);
    }
  }

  async #run(batch: readonly Entry[]): Promise<void> {
    this.#counts.batches += 1;
    this.#batchSizes[batch.length - 1] = (this.#batchSizes[batch.length - 1] ?? 0) + 1;
    const { CancelToken } = addon();
    for (const entry of batch) {
      entry.state = 'running';
      entry.token = new CancelToken();
      this.#running.add(entry);
    }
    const images = batch.map(({ image }) => image as NativeImage);
    const tokens = batch.map(({ token }) => token as CancelToken);
    for (const entry of batch) delete entry.image;
    try {
      const scored = this.#native.scoreBatch(images, tokens);
      for (const { data } of images) if (ArrayBuffer.isView(data)) addon().release(data); // the engine has its own copy
      const results = await scored;
      for (const [i, entry] of batch.entries()) {
        const result = results[i] as NativeScore | Error;
        entry.settle(result instanceof Error ? toDdadError(result) : result);
      }
    } catch (error) {
      for (const entry of batch) entry.settle(copyOf(this.#closed ?? toDdadError(error)));
    }
    for (const entry of batch) {
      this.#running.delete(entry);
      entry.claim.release();
    }
  }
}
