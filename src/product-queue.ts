import { abortError, throwIfAborted, toDdadError } from './errors.js';

interface Waiting<K> {
  key: K;
  admit: () => void;
  refuse: (error: Error) => void;
}

/** Calls of one product that may go ahead of those that wait for another. */
const longestRow = 16;

/**
 * Runs work that needs a shared thing to be set to its key (a detector to a product). Work of the current key runs at
 * once and side by side; other work waits until that has ended and the thing has been changed. As a change is dear, work
 * of the current key goes ahead of what waits, up to a limit that keeps anything from waiting for ever.
 */
export class ProductQueue<K> {
  readonly #change: (key: K) => Promise<void>;
  #waiting: Waiting<K>[] = [];
  #current: { key: K } | undefined;
  #running = 0;
  #row = 0;
  #changing = false;

  constructor(change: (key: K) => Promise<void>) {
    this.#change = change;
  }

  /** Throws ERR_ABORTED while it waits, and what a change to its key throws; the next one tries again. */
  async run<T>(key: K, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    await this.#enter(key, signal);
    try {
      throwIfAborted(signal);
      return await work();
    } finally {
      this.#running -= 1;
      this.#advance();
    }
  }

  #enter(key: K, signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal);
    return new Promise<void>((resolve, reject) => {
      const settle = (): void => {
        this.#waiting = this.#waiting.filter((entry) => entry !== waiting);
        signal?.removeEventListener('abort', onAbort);
      };
      const waiting: Waiting<K> = {
        key,
        admit: () => {
          settle();
          this.#running += 1;
          resolve();
        },
        refuse: (error) => {
          settle();
          reject(error);
        },
      };
      const onAbort = (): void => {
        waiting.refuse(abortError(signal));
        this.#advance(); // others may have waited for this one
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.push(waiting);
      this.#advance();
    });
  }

  #isCurrent(key: K): boolean {
    return this.#current?.key === key;
  }

  #advance(): void {
    if (this.#changing) return;
    const others = this.#waiting.filter(({ key }) => !this.#isCurrent(key));
    for (const waiting of this.#waiting.filter(({ key }) => this.#isCurrent(key))) {
      this.#row = others.length > 0 ? this.#row + 1 : 0;
      if (this.#row > longestRow) break;
      waiting.admit();
    }
    const first = others[0];
    if (first && this.#running === 0) void this.#changeTo(first);
  }

  async #changeTo(first: Waiting<K>): Promise<void> {
    this.#changing = true;
    this.#current = undefined;
    this.#row = 0;
    try {
      await this.#change(first.key);
      this.#current = { key: first.key };
    } catch (error) {
      first.refuse(toDdadError(error));
    } finally {
      this.#changing = false;
      this.#advance();
    }
  }
}
