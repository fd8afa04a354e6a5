// Listens until a signal comes, finishes what is in flight, and ends the process.
import { lookup } from 'node:dns/promises';
import closeWithGrace from 'close-with-grace';
import { createApp } from './app.mjs';
import { StartError } from './errors.mjs';
import { urlHost } from './guard.mjs';
import { addressList } from './limits.mjs';
import { readToken } from './token.mjs';

// A crash in native code must end the process: a handler in JavaScript would return to where it happened, for ever.
const crashes = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'];

const isLoopback = addressList(['127.0.0.0/8', '::1']);

/**
 * Takes over the detector: disposes it in the end. Resolves to the address that is listened on. `closeMs` is how long
 * requests in flight may take after a signal; those that take longer are cut off. `tokenFile` holds the token that clients
 * have to bring; without one, only this machine is listened to unless `insecure` is set. `warn` is told what an operator
 * should know. The other options are those of createApp.
 */
export async function startService(detector, options = {}) {
  const { host = '127.0.0.1', port = 8080, closeMs = 10_000, tokenFile, insecure = false, ...rest } = options;
  const { warn = (message) => console.error(`warning: ${message}`), allowHosts = [], ...others } = rest;
  const token = tokenFile === undefined ? others.token : await readToken(tokenFile, warn);
  const { address } = await lookup(host);
  if (!isLoopback(address) && token === undefined) {
    if (!insecure) {
      const needed = 'needs a token (--token-file), or --insecure where something else keeps strangers away';
      throw new StartError('host', `${host} can be reached from other machines, which ${needed}`);
    }
    warn(`whoever reaches ${host} can use the service`);
  }
  const app = await createApp(detector, { ...others, token, allowHosts: [host, ...allowHosts] });
  await app.listen({ host: address, port });
  closeWithGrace({ delay: closeMs + 5_000, skip: crashes }, async ({ err }) => {
    if (err) app.log.fatal(err);
    const timer = setTimeout(() => app.server.closeAllConnections(), closeMs);
    await app.close();
    clearTimeout(timer);
    await detector[Symbol.asyncDispose]();
  });
  const bound = app.server.address();
  return `http://${urlHost(bound.address)}:${bound.port}`;
}
