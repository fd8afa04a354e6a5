import { setImmediate } from 'node:timers/promises';
import { throwIfAborted } from './errors.js';

/** How long a loop may hold JavaScript's thread, in milliseconds. */
const sliceMs = 1;

/** Items between two looks at the clock; few enough also for code that has just begun and is not compiled yet. */
const itemsPerLook = 2048;

let last: Promise<unknown> = Promise.resolve();

/** The turn after everybody else's, so that only one slice runs in a round of the event loop, however many loops there are. */
function nextTurn(): Promise<unknown> {
  return (last = last.then(() => setImmediate()));
}

/** Runs a loop over `count` items in slices of about a millisecond, between which everything else goes on. */
export async function inSlices(
  count: number,
  work: (from: number, to: number) => void,
  signal?: AbortSignal,
): Promise<void> {
  let until = -Infinity;
  for (let from = 0; from < count; from += itemsPerLook) {
    if (count > itemsPerLook && performance.now() >= until) {
      await nextTurn();
      throwIfAborted(signal);
      until = performance.now() + sliceMs;
    }
    work(from, Math.min(count, from + itemsPerLook));
  }
}
