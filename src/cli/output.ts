import { SingleBar } from 'cli-progress';
import { printable } from '../base/printable.js';
import { stderr, stdout } from './streams.js';

/**
 * Progress and logs go to stderr, a line each; stdout is for results. What cannot be written there is lost: it is no
 * reason to stop.
 */
export function log(line: string): void {
  stderr.write(`${printable(line)}\n`);
}

/** Prints lines of a result. Throws ERR_FILE_WRITE where they, or those before them, cannot be written. */
export function print(...lines: string[]): void {
  stdout.write(`${lines.map(printable).join('\n')}\n`);
  if (stdout.failure) throw stdout.failure;
}

/** `1 h 05 min`, `4 min 10 s`, `12 s`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms)) return '-';
  const s = Math.round(ms / 1000);
  const two = (n: number): string => String(n).padStart(2, '0');
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${s} s`;
}

export function megabytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MB`;
}

/** What the engine holds and the most that the process has taken, in one line; nothing of what would read 0.0 MB. */
export function memoryLine(memory: Record<string, number>): string {
  const held = Object.entries(memory).map(([name, bytes]): [string, string] => [name, megabytes(bytes)]);
  const parts = held.filter(([, size]) => size !== megabytes(0)).map(([name, size]) => `${name} ${size}`);
  return `memory: ${[...parts, `peak of the process ${megabytes(peakMemory())}`].join(', ')}`;
}

/** Largest resident size of this process so far, in bytes. */
export function peakMemory(): number {
  return process.resourceUsage().maxRSS * 1024;
}

/** `1 image`, `2 images`. */
export function images(count: number): string {
  return `${count} image${count === 1 ? '' : 's'}`;
}

/** Significant digits for people. */
export function short(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : String(value);
}

/** A bar where stderr is a terminal, else a line every ten seconds. */
export class ProgressLine {
  #bar: SingleBar | undefined;
  #title = '';
  #last = performance.now();

  /** Shows a share of 0 to 1 of what `title` names; a new title starts a new bar. */
  update(title: string, done: number, text: string): void {
    if (stderr.failure) return this.stop();
    if (!process.stderr.isTTY) {
      if (performance.now() - this.#last < 10_000) return;
      this.#last = performance.now();
      log(`${title} ${Math.floor(100 * done)} %  ${text}`);
      return;
    }
    if (!this.#bar || title !== this.#title) {
      this.stop();
      this.#title = title;
      const format = `${title.padEnd(9)} [{bar}] {percentage} %  {text}`;
      this.#bar = new SingleBar({ format, stream: process.stderr, barsize: 24, hideCursor: true, fps: 8 });
      this.#bar.start(1000, 0, { text });
    }
    this.#bar.update(Math.floor(1000 * done), { text: printable(text) });
  }

  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
