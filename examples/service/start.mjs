// Listens until a signal comes, finishes what is in flight, and ends the process.
import closeWithGrace from 'close-with-grace';
import { createApp } from './app.mjs';

// A crash in native code must end the process: a handler in JavaScript would return to where it happened, for ever.
const crashes = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'];

/**
 * Takes over the detector: disposes it in the end. Resolves to the address. `closeMs` is how long requests in flight may
 * take after a signal; those that take longer are cut off.
 */
export async function startService(detector, options = {}) {
  const { host = '127.0.0.1', port = 8080, closeMs = 10_000, ...rest } = options;
  const app = await createApp(detector, rest);
  const address = await app.listen({ host, port });
  closeWithGrace({ delay: closeMs + 5_000, skip: crashes }, async ({ err }) => {
    if (err) app.log.fatal(err);
    const timer = setTimeout(() => app.server.closeAllConnections(), closeMs);
    await app.close();
    clearTimeout(timer);
    await detector[Symbol.asyncDispose]();
  });
  return address;
}
