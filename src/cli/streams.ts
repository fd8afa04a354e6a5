import { closeSync, fstatSync, openSync, writeSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { isatty } from 'node:tty';
import { messageOf } from '../base/errors.js';
import { writeError } from '../files/write.js';

/** The reader of stdout has left, as `head` or a terminal does: the command ends without a word. */
export class ReaderGone extends Error {}

/**
 * Standard output or standard error. Node's own streams lose what a file takes only a part of, and end the process when
 * nobody listens for what goes wrong.
 */
class Output {
  readonly #name: string;
  readonly #fd: number;
  readonly #stream: Writable;
  /** Whether it is a file (or a device that is no terminal), which is written here. */
  #file: boolean | undefined;
  #failure: Error | undefined;
  readonly #listeners = new Set<(error: Error) => void>();

  constructor(name: string, fd: number, stream: Writable) {
    this.#name = name;
    this.#fd = fd;
    this.#stream = stream;
    // An error that nobody listens for would end the process.
    stream.on('error', (error: NodeJS.ErrnoException) => this.#fail(error));
  }

  /** What went wrong first: ERR_FILE_WRITE, or {@link ReaderGone}. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Is told once of a failure that shows only later. */
  onFailure(listener: (error: Error) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  write(text: string): void {
    if (this.#failure) return;
    this.#file ??= !(this.#stream as { isTTY?: boolean }).isTTY && isFile(this.#fd);
    if (!this.#file) {
      this.#stream.write(text);
      return;
    }
    try {
      const bytes = Buffer.from(text);
      for (let done = 0; done < bytes.length;) done += writeSync(this.#fd, bytes, done);
    } catch (error) {
      this.#fail(error as NodeJS.ErrnoException);
    }
  }

  /** Waits until everything has been taken, or something went wrong. */
  async flush(): Promise<void> {
    if (this.#failure || this.#file !== false) return;
    await new Promise<void>((resolve) => this.#stream.write('', () => resolve()));
    await new Promise((resolve) => setImmediate(resolve)); // the error comes after the callback
  }

  #fail(error: NodeJS.ErrnoException): void {
    if (this.#failure) return;
    const lostTerminal = error.code === 'EIO' && (this.#stream as { isTTY?: boolean }).isTTY;
    const gone = lostTerminal || error.code === 'EPIPE' || error.code === 'ECONNRESET';
    this.#failure = gone
      ? new ReaderGone(this.#name, { cause: error })
      : writeError(this.#name, messageOf(error), error);
    for (const listener of this.#listeners) listener(this.#failure);
  }
}

function isFile(fd: number): boolean {
  try {
    const at = fstatSync(fd);
    return at.isFile() || at.isCharacterDevice() || at.isBlockDevice();
  } catch {
    return false;
  }
}

export const stdout = new Output('standard output', 1, process.stdout);
export const stderr = new Output('standard error', 2, process.stderr);

/**
 * Node.js sets terminals back to how they were when it ends, and aborts where one has gone meanwhile. It leaves alone what is
 * another file by then.
 */
export function outliveTerminals(): void {
  const terminals = [0, 1, 2].filter((fd) => isatty(fd));
  process.once('exit', () => {
    for (const fd of terminals) {
      if (isatty(fd)) continue;
      try {
        closeSync(fd);
        openSync('/dev/null', 'r+'); // takes the number that has become free
      } catch {
        return; // there is nothing more to do
      }
    }
  });
}
