import { type FileHandle, open } from 'node:fs/promises';
import { DdadError, messageOf } from '../base/errors.js';
import { checkRegular, writeError, writing } from '../files/write.js';

/** What is told of a step; each is a field of its line. */
export interface StepMetrics {
  /** Optimiser steps done, those before a resume included. */
  step: number;
  loss: number;
  mse: number;
  /** The variational term in bits. */
  vb: number;
  /** The feature loss; null without a feature head. */
  feature: number | null;
  /** Norm of the gradient of all parameters. */
  gradNorm: number;
  lr: number;
  samplesPerSecond: number;
  elapsedMs: number;
}

/** A line never stays in memory for longer. */
const flushEveryMs = 1000;

/** How a line begins that was cut off when its process ended. */
const head = '{"step":';

/** The step of a line, undefined when it is none of this log's. */
function stepOf(line: string): number | undefined {
  try {
    const { step, vb, gradNorm } = JSON.parse(line) as Partial<Record<string, unknown>>;
    // Infinity is null in JSON.
    return typeof step === 'number' && vb !== undefined && gradNorm !== undefined ? step : undefined;
  } catch {
    return undefined;
  }
}

/** Bytes of the lines up to a step, which a run that goes on from there keeps. Throws where the file holds other things. */
async function keptBytes(file: string, handle: FileHandle, size: number, until: number): Promise<number> {
  let [at, kept] = [0, 0];
  let later = false;
  // All of it is looked at: what is dropped must be this log's as well.
  for await (const line of handle.readLines({ start: 0, autoClose: false })) {
    at += Buffer.byteLength(line) + 1;
    const step = stepOf(line);
    if (at > size && (step !== undefined || line.startsWith(head) || head.startsWith(line))) break; // cut off
    if (step === undefined) throw writeError(file, 'it exists, and holds no metrics of a training run');
    later ||= step > until;
    if (!later) kept = at;
  }
  return kept;
}

/**
 * Metrics of a training run as JSON lines, one a step, in the file within a second. What fails when nobody waits for it is
 * thrown by the next call.
 */
export class MetricsLog {
  readonly #file: string;
  readonly #handle: FileHandle;
  /** Bytes of whole lines in the file. */
  #size: number;
  #lines: string[] = [];
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #failure: DdadError | undefined;
  #closed = false;

  private constructor(file: string, handle: FileHandle, size: number) {
    this.#file = file;
    this.#handle = handle;
    this.#size = size;
  }

  /**
   * Opens the file for a run that goes on after `step`: lines of later steps, which it will write again, are dropped; for
   * a new run (0) all of them. Throws ERR_FILE_WRITE, also for a file that holds something else.
   */
  static async open(file: string, step: number): Promise<MetricsLog> {
    await checkRegular(file);
    const handle = await writing(file, () => open(file, 'a+'));
    try {
      const at = await handle.stat();
      const kept = await keptBytes(file, handle, at.size, step);
      if (kept < at.size) await handle.truncate(kept);
      return new MetricsLog(file, handle, kept);
    } catch (error) {
      await handle.close();
      throw error instanceof DdadError ? error : writeError(file, messageOf(error), error);
    }
  }

  /** Adds a step's line. Throws ERR_FILE_WRITE when an earlier one could not be written. */
  add(metrics: StepMetrics): void {
    if (this.#failure) throw this.#failure;
    const { step, loss, mse, vb, feature, gradNorm, lr } = metrics;
    const samplesPerSecond = Number(metrics.samplesPerSecond.toPrecision(6));
    const elapsedMs = Math.round(metrics.elapsedMs);
    this.#lines.push(
      `${JSON.stringify({ step, loss, mse, vb, feature, gradNorm, lr, samplesPerSecond, elapsedMs })}\n`,
    );
    this.#timer ??= setTimeout(() => void this.flush().catch(() => undefined), flushEveryMs).unref();
  }

  /** Writes what is there. Throws ERR_FILE_WRITE. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
    if (this.#failure) throw this.#failure;
  }

  /** Writes what is there and closes the file; does nothing the second time. Throws ERR_FILE_WRITE. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.flush();
    } finally {
      await this.#handle.close().catch(() => undefined);
    }
  }

  async #write(): Promise<void> {
    if (this.#failure || this.#lines.length === 0) return;
    const text = this.#lines.join('');
    this.#lines = [];
    try {
      await this.#handle.appendFile(text);
      this.#size += Buffer.byteLength(text);
    } catch (cause) {
      this.#failure = writeError(this.#file, messageOf(cause), cause);
      // No half line stays behind; where even that fails, the next run drops it.
      await this.#handle.truncate(this.#size).catch(() => undefined);
    }
  }
}
