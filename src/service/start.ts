// Listens until a signal comes, finishes what is in flight, and ends the process.
import { lookup } from 'node:dns/promises';
import type { AddressInfo } from 'node:net';
import closeWithGrace from 'close-with-grace';
import type { Detector } from '../scoring/detector.js';
import { type AppOptions, createApp } from './app.js';
import { StartError } from './errors.js';
import { urlHost } from './guard.js';
import { addressList } from './limits.js';
import { readToken } from './token.js';

// A crash in native code must end the process: a handler in JavaScript would return to where it happened, for ever.
const crashes = ['SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV', 'SIGTRAP'] as const;

const isLoopback = addressList(['127.0.0.0/8', '::1'], 'host');

export interface ServiceOptions extends AppOptions {
  /** The address to listen on; 127.0.0.1 unless given. */
  host?: string | undefined;
  /** The port to listen on, 0 for any that is free; 8080 unless given. */
  port?: number | undefined;
  /** Milliseconds that requests in flight may take after a signal before they are cut off; 10 s unless given. */
  closeMs?: number | undefined;
  /** A file with the token that clients have to bring. */
  tokenFile?: string | undefined;
  /** Whether other machines may reach it without a token. */
  insecure?: boolean | undefined;
  /** Is told what an operator should know; stderr unless given. */
  warn?: ((message: string) => void) | undefined;
}

/**
 * Takes over the detector and disposes it in the end. Resolves to the address that is listened on. Without a token only
 * this machine is listened to, unless `insecure` is set. Throws StartError for an option with which it cannot start.
 */
export async function startService(detector: Detector, options: ServiceOptions = {}): Promise<string> {
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
  closeWithGrace({ delay: closeMs + 5_000, skip: [...crashes] }, async ({ err }) => {
    if (err) app.log.fatal(err);
    const timer = setTimeout(() => app.server.closeAllConnections(), closeMs);
    await app.close();
    clearTimeout(timer);
    await detector[Symbol.asyncDispose]();
  });
  const bound = app.server.address() as AddressInfo;
  return `http://${urlHost(bound.address)}:${bound.port}`;
}
