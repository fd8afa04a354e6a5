// Listens until a signal comes, finishes what is in flight, and ends the process.
import closeWithGrace from 'close-with-grace';
import { createApp } from './app.mjs';

/**
 * Takes over the detector: disposes it in the end. Resolves to the address. `closeMs` is how long requests in flight may
 * take after a signal; those that take longer are cut off.
 */
export async function startService(detector, options = {}) {
  const { host = '127.0.0.1', port = 8080, closeMs = 10_000, ...rest } = options;
  const app = await createApp(detector, rest);
  const address = await app.listen({ host, port });
  closeWithGrace({ delay: closeMs + 5_000 }, async ({ err }) => {
    if (err) app.log.fatal(err);
    const timer = setTimeout(() => app.server.closeAllConnections(), closeMs);
    await app.close();
    clearTimeout(timer);
    await detector[Symbol.asyncDispose]();
  });
  return address;
}
