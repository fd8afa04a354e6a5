// An image on its way in: kept in memory that grows with what has come, and that is given back at once when it does not end well.
import { ServiceError } from './errors.js';
import type { Lease } from './limits.js';
import type { Readable } from 'node:stream';

const step = 65_536;

/**
 * Reads a stream to its end into one piece of memory, which counts in the lease. `max` is how many bytes there may be,
 * `announced` how many there will be at most, where that is known.
 */
export async function collect(
  stream: Readable & { truncated?: boolean },
  lease: Lease,
  max: number,
  announced = max,
): Promise<Buffer> {
  const tooLarge = new ServiceError('ERR_TOO_LARGE', `expected at most ${max} bytes`);
  // Address space for all of it, memory for what is there: no copies while it grows, and none left to the collector.
  const memory = new ArrayBuffer(0, { maxByteLength: Math.min(max, announced) });
  const release = lease.hold();
  let length = 0;
  try {
    // What is left of a request that is refused must not close its connection before the answer is out.
    for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      const at = length;
      if (at + chunk.length > memory.maxByteLength) throw tooLarge;
      lease.grow(chunk.length);
      length += chunk.length;
      if (length > memory.byteLength) memory.resize(Math.min(memory.maxByteLength, Math.ceil(length / step) * step));
      new Uint8Array(memory, at, chunk.length).set(chunk);
    }
    if (stream.truncated) throw tooLarge; // by the parser of forms
    memory.resize(length);
    return Buffer.from(memory, 0, length);
  } catch (error) {
    memory.resize(0);
    lease.shrink(length);
    const { code } = error as NodeJS.ErrnoException;
    throw code === 'ECONNRESET' ? new ServiceError('ERR_ABORTED', 'the client has gone') : error;
  } finally {
    release();
  }
}

/** Gives the memory of an image back that nobody reads any more. */
export function free({ buffer }: Buffer): void {
  if (!(buffer instanceof ArrayBuffer)) return;
  if (buffer.resizable && buffer.byteLength > 0) buffer.resize(0); // it may be another's by now
}
