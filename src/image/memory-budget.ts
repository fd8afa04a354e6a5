import { abortError, DdadError, throwIfAborted } from '../base/errors.js';

/** Bytes for people, in MB. */
export const inMegabytes = (bytes: number): string =>
  `${bytes < 10e6 ? Number((bytes / 1e6).toFixed(1)) : Math.ceil(bytes / 1e6)} MB`;

interface Ask {
  bytes: number;
  /** Whether it is all that the image still needs, and not a part that it holds while it waits. */
  last: boolean;
  grant: () => void;
}

/**
 * What one image may take and holds. Its bytes come in two parts: what it holds while it waits for its turn (a copy, an
 * encoded file), and all that it needs from then on, which is `admit`ted in one piece.
 */
export class Claim {
  readonly #budget: MemoryBudget;
  /** How the image is called in messages. */
  readonly name: string;
  /** How many were opened before it. */
  readonly order: number;
  held = 0;
  ask: Ask | undefined;

  constructor(budget: MemoryBudget, name: string, order: number) {
    this.#budget = budget;
    this.name = name;
    this.order = order;
  }

  /** Takes bytes that are held while the image waits. Throws ERR_BUSY where there is no room, ERR_MEMORY where never. */
  hold(bytes: number): void {
    this.#budget.hold(this, bytes);
  }

  /** The same, waiting for room. Throws ERR_MEMORY, ERR_ABORTED. */
  holdLater(bytes: number, signal?: AbortSignal): Promise<void> {
    return this.#budget.wait(this, bytes, false, signal);
  }

  /** Takes all that the image still needs; waits for its turn and for room. Throws ERR_MEMORY, ERR_ABORTED. */
  admit(bytes: number, signal?: AbortSignal): Promise<void> {
    return this.#budget.wait(this, bytes, true, signal);
  }

  /** Keeps at most so many bytes. */
  shrink(bytes: number): void {
    this.#budget.give(this, Math.min(this.held, bytes));
  }

  /** Gives everything back; for good. */
  release(): void {
    this.#budget.leave(this);
    this.#budget.give(this, 0);
  }
}

/**
 * The bytes that a detector may take for images, from the call to the result. A quarter is for those that wait, so that
 * whoever's turn it is finds the rest: nobody waits for somebody who waits for him.
 */
export class MemoryBudget {
  readonly bytes: number;
  /** What one image may take. */
  readonly most: number;
  readonly #forWaiting: number;
  /** Not admitted yet, in the order in which they were opened; and those of them that are ordered. */
  readonly #waiting = new Set<Claim>();
  readonly #ordered = new Set<Claim>();
  /** Those that ask for something, likewise in that order. */
  readonly #asking: Claim[] = [];
  #used = 0;
  /** Held by those that wait. */
  #heldWaiting = 0;
  #opened = 0;

  constructor(bytes: number) {
    this.bytes = bytes;
    this.#forWaiting = Math.floor(bytes / 4);
    this.most = bytes - this.#forWaiting;
  }

  get used(): number {
    return this.#used;
  }

  /** A claim for an image; `ordered` where its result comes after those of earlier ones. */
  open(name: string, ordered = false): Claim {
    const claim = new Claim(this, name, this.#opened++);
    this.#waiting.add(claim);
    if (ordered) this.#ordered.add(claim);
    return claim;
  }

  /** Resolves when a copy of so many bytes would have room. */
  async room(bytes: number, signal?: AbortSignal): Promise<void> {
    if (bytes === 0) return;
    const claim = this.open('');
    try {
      await claim.holdLater(Math.min(bytes, this.most), signal);
    } finally {
      claim.release();
    }
  }

  hold(claim: Claim, bytes: number): void {
    this.#checkSize(claim, bytes);
    if (!this.#hasRoom(claim, bytes)) {
      throw new DdadError(
        'ERR_BUSY',
        `expected room for a copy of ${inMegabytes(bytes)} in the memoryBudget of ${inMegabytes(this.bytes)}, of which ` +
          `images take ${inMegabytes(this.#used)}`,
      );
    }
    this.#take(claim, bytes);
  }

  async wait(claim: Claim, bytes: number, last: boolean, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    this.#checkSize(claim, bytes);
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        this.#withdraw(claim);
        reject(abortError(signal));
        this.#grant();
      };
      const grant = (): void => {
        this.#withdraw(claim);
        signal?.removeEventListener('abort', abort);
        this.#take(claim, bytes);
        if (last) this.leave(claim);
        resolve();
      };
      claim.ask = { bytes, last, grant };
      const after = this.#asking.findLastIndex(({ order }) => order < claim.order);
      this.#asking.splice(after + 1, 0, claim);
      signal?.addEventListener('abort', abort, { once: true });
      this.#grant();
    });
  }

  give(claim: Claim, left: number): void {
    const back = claim.held - left;
    if (back === 0) return;
    this.#used -= back;
    if (this.#waiting.has(claim)) this.#heldWaiting -= back;
    claim.held = left;
    this.#grant();
  }

  /** Takes a claim from those that wait. */
  leave(claim: Claim): void {
    if (!this.#waiting.delete(claim)) return;
    this.#ordered.delete(claim);
    this.#heldWaiting -= claim.held;
    this.#grant();
  }

  #take(claim: Claim, bytes: number): void {
    claim.held += bytes;
    this.#used += bytes;
    if (this.#waiting.has(claim)) this.#heldWaiting += bytes;
  }

  #withdraw(claim: Claim): void {
    claim.ask = undefined;
    const at = this.#asking.indexOf(claim);
    if (at >= 0) this.#asking.splice(at, 1);
  }

  #checkSize(claim: Claim, bytes: number): void {
    const all = claim.held + bytes;
    if (all <= this.most) return;
    throw new DdadError(
      'ERR_MEMORY',
      `${claim.name}: takes ${inMegabytes(all)} of memory, expected at most ${inMegabytes(this.most)} (three quarters of ` +
        'memoryBudget)',
    );
  }

  #isFirst(claim: Claim): boolean {
    const [first] = this.#waiting;
    return claim === first;
  }

  /** Whether a claim may hold so much more while it waits. The first of all may, whatever it is. */
  #hasRoom(claim: Claim, bytes: number): boolean {
    if (this.#used + bytes > this.bytes) return false;
    const [first] = this.#waiting;
    return claim === first || this.#heldWaiting - (first?.held ?? 0) + bytes <= this.#forWaiting;
  }

  #grant(): void {
    for (;;) {
      const next = this.#next();
      if (!next) return;
      next.grant();
    }
  }

  /** The first that asks holds up those behind it, so that it cannot starve. */
  #next(): Ask | undefined {
    const [head] = this.#ordered;
    for (const claim of this.#asking) {
      const ask = claim.ask as Ask;
      if (!ask.last) {
        if (this.#hasRoom(claim, ask.bytes)) return ask;
        if (this.#isFirst(claim)) return undefined;
      } else if (claim === head || !this.#ordered.has(claim)) {
        return this.#used + ask.bytes <= this.bytes ? ask : undefined;
      }
    }
    return undefined;
  }
}
