import { abortError, throwIfAborted } from './errors.js';

/**
 * Applies `run` to the items of an iterable and yields the results in order. Work runs ahead of the consumer by at most
 * `ahead` items, and takes the next one when `ready` has resolved; a slow source never holds back a result that is ready.
 * Leaving the loop, or the signal, aborts what is in flight.
 */
export async function* mapAhead<T, R>(
  items: Iterable<T> | AsyncIterable<T>,
  run: (item: T, signal: AbortSignal) => Promise<R>,
  options: {
    ahead: number;
    signal?: AbortSignal | undefined;
    ready?: ((signal: AbortSignal) => Promise<void>) | undefined;
  },
): AsyncGenerator<R, void, undefined> {
  const { ahead, signal, ready } = options;
  throwIfAborted(signal);
  const source = Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
  const queue: Promise<R>[] = [];
  const stop = new AbortController();
  let finished = false;
  let failure: { error: unknown } | undefined; // of the source; comes after the results before it
  let pulling = false;
  let wakeReader = (): void => undefined;
  let wakePump = (): void => undefined;

  const enqueue = (result: Promise<R>): void => {
    result.catch(() => undefined); // reported when its turn comes
    queue.push(result);
    wakeReader();
  };
  const pump = async (): Promise<void> => {
    try {
      while (!stop.signal.aborted) {
        if (queue.length > ahead) {
          await new Promise<void>((resolve) => (wakePump = resolve));
          continue;
        }
        if (ready) await ready(stop.signal);
        pulling = true;
        const next = await source.next();
        pulling = false;
        if (next.done || stop.signal.aborted) break;
        enqueue(run(next.value, stop.signal));
      }
    } catch (error) {
      failure = { error };
      pulling = false;
    }
    finished = true;
    wakeReader();
  };
  const abort = (): void => {
    stop.abort(signal?.reason);
    wakeReader();
  };
  signal?.addEventListener('abort', abort, { once: true });
  void pump();
  try {
    for (;;) {
      if (signal?.aborted) throw abortError(signal);
      const first = queue[0];
      if (first) {
        const result = await first;
        void queue.shift();
        wakePump();
        yield result;
      } else if (finished) {
        if (failure) throw failure.error;
        return;
      } else {
        await new Promise<void>((resolve) => (wakeReader = resolve));
      }
    }
  } finally {
    signal?.removeEventListener('abort', abort);
    stop.abort();
    wakePump();
    // A source that is being waited for answers when it can; it must not hold up the caller.
    const closing = finished ? undefined : Promise.resolve(source.return?.());
    if (pulling) closing?.catch(() => undefined);
    else await closing;
  }
}
