// The HTTP server under the application: what may be slow, large or many before there is a request.
import http, { type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { answerRaw } from './errors.js';
import type { Connections } from './limits.js';

/** The head of a request comes within this time. */
const headMs = 10_000;

/** For Fastify's `serverFactory`. */
export const makeServer =
  ({ connections, uploadMs }: { connections: Connections; uploadMs: number }) =>
  (handler: (request: IncomingMessage, response: ServerResponse) => void): Server => {
    const options = {
      headersTimeout: Math.min(headMs, uploadMs),
      requestTimeout: uploadMs,
      keepAliveTimeout: 72_000, // longer than nginx keeps a connection that waits
      connectionsCheckingInterval: Math.min(1000, uploadMs),
      requireHostHeader: false, // the guard does it, with a code
    };
    const server = http.createServer(options, handler);
    server.prependListener('connection', (socket: Socket) => connections.admit(socket));
    server.on('checkExpectation', ({ socket }: IncomingMessage) => {
      answerRaw(socket, 417, 'ERR_REQUEST', 'expect: only 100-continue is understood');
    });
    return server;
  };

/** Gives up a request whose body, or a client that takes its answer, stands still for so long. */
export function watchStall(request: IncomingMessage, response: ServerResponse, ms: number): () => void {
  const { socket, headers } = request;
  if (headers['transfer-encoding'] !== undefined || Number(headers['content-length']) > 0) {
    socket.setTimeout(ms);
    request.once('timeout', () => {
      if (response.headersSent) socket.destroy();
      else answerRaw(socket, 408, 'ERR_TIMEOUT', `nothing of the request has come for ${ms / 1000} s`);
    });
    request.once('end', () => socket.setTimeout(0)); // the work takes the time it takes
  }
  return () => void socket.setTimeout(ms); // for the answer: without a listener, Node closes the connection
}
