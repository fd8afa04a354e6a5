// The service as a Fastify instance: POST /score, GET /healthz, GET /metrics, and a page. The detector stays the caller's.
import multipart from '@fastify/multipart';
import type { Readable } from 'node:stream';
import fastify, {
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerOptions,
} from 'fastify';
import type { Detector } from '../scoring/detector.js';
import { prefersPng } from './accept.js';
import { answerError, answerParserError, safeHeaders, ServiceError, StartError } from './errors.js';
import { createGuard } from './guard.js';
import { addressList, Connections, type Lease, Limits } from './limits.js';
import { makeServer, watchStall } from './listener.js';
import { createMetrics, verdictOf } from './metrics.js';
import { readPage } from './page.js';
import { announced, readRequest } from './request.js';
import { collect, free } from './upload.js';

declare module 'fastify' {
  interface FastifyRequest {
    lease: Lease | null;
    watchAnswer: (() => void) | null;
  }
  interface FastifyContextConfig {
    /** Whether the route needs no token. */
    open?: boolean;
  }
}

/** What a client, and all together, may use at once. */
export interface ServiceLimits {
  /** Bytes of an image; 50 MB unless given. */
  maxUpload: number;
  /** Pixels of an image; 100 megapixels unless given. */
  maxPixels: number;
  /** Connections; 1024 unless given. */
  maxConnections: number;
  /** Connections of a client, unless it is a trusted proxy; 512 unless given. */
  maxClientConnections: number;
  /** Requests to score at once; 128 unless given. */
  maxRequests: number;
  /** Requests to score at once of one client; 64 unless given. */
  maxClientRequests: number;
  /** Bytes of images that are taken in, wait or are answered at once; 500 MB unless given, one client half of them. */
  uploadMemory: number;
  /** Time in which a request arrives; 2 minutes unless given. */
  uploadMs: number;
  /** Time after which an upload, or a client that takes its answer, is given up where it stands still; 20 s unless given. */
  stallMs: number;
  /** Time in which a request is answered, all in all; 10 minutes unless given. */
  requestMs: number;
}

/** The limits that are given; others are the usual ones. */
export type GivenLimits = { [Name in keyof ServiceLimits]?: ServiceLimits[Name] | undefined };

export interface AppOptions extends GivenLimits {
  /** What the model is called. */
  model?: string | undefined;
  /** What /healthz says of where it computes. */
  device?: unknown;
  /** The folder below which clients may name images by path; none unless given. */
  images?: string | undefined;
  /** What clients have to bring (`Authorization: Bearer …`); nothing unless given. */
  token?: string | undefined;
  /** Whether /metrics needs no token. */
  openMetrics?: boolean | undefined;
  /**
   * Names by which clients may call the service, beside those of this machine's loopback interface and the address at
   * which they reach it.
   */
  allowHosts?: readonly string[] | undefined;
  /** Addresses and networks of proxies, whose X-Forwarded-For is believed. */
  trustProxy?: readonly string[] | undefined;
  /** Fastify's; none unless given. */
  logger?: FastifyServerOptions['logger'];
}

export const defaultLimits: ServiceLimits = {
  maxUpload: 50_000_000,
  maxPixels: 100_000_000,
  maxConnections: 1024,
  maxClientConnections: 512,
  maxRequests: 128,
  maxClientRequests: 64,
  uploadMemory: 500_000_000,
  uploadMs: 120_000,
  stallMs: 20_000,
  requestMs: 600_000,
};

/** JSON bodies, and what a form has beside its image. */
const smallBytes = 65_536;

const limitNames = Object.keys(defaultLimits) as (keyof ServiceLimits)[];

function limitsOf(options: AppOptions): ServiceLimits {
  const limits = { ...defaultLimits };
  for (const name of limitNames) limits[name] = options[name] ?? defaultLimits[name];
  const { maxUpload } = limits;
  if (options.uploadMemory === undefined) limits.uploadMemory = Math.max(limits.uploadMemory, 4 * maxUpload);
  if (limits.uploadMemory < 2 * maxUpload) {
    const expected = `expected at least ${2 * maxUpload} bytes, two of the largest images`;
    throw new StartError('uploadMemory', `${expected}, got ${limits.uploadMemory}`);
  }
  return limits;
}

/** The lease of a request to score, which its first hook has taken. */
function leaseOf({ lease }: FastifyRequest): Lease {
  if (!lease) throw new Error('a request without a lease');
  return lease;
}

/** A signal that fires when the client goes away before it has its answer, or when the request has taken `ms`. */
function endOfWork({ raw }: FastifyReply, ms: number): AbortSignal {
  const controller = new AbortController();
  const timer = setTimeout(() => {
    controller.abort(new ServiceError('ERR_TIMEOUT', `the request has taken more than ${ms / 1000} s`));
    if (raw.headersSent) raw.destroy();
  }, ms);
  const end = (): void => {
    clearTimeout(timer);
    if (!raw.writableFinished) controller.abort();
  };
  if (raw.destroyed) end();
  else raw.once('close', end);
  return controller.signal;
}

/** Throws StartError for an option with which it cannot start. */
export async function createApp(detector: Detector, options: AppOptions = {}): Promise<FastifyInstance> {
  const { model = 'model', device = null, images, logger = false, token, openMetrics = false } = options;
  const { allowHosts = [], trustProxy = [] } = options;
  const { maxUpload, maxPixels, uploadMs, stallMs, requestMs, ...counts } = limitsOf(options);
  const page = await readPage();
  const isProxy = addressList(trustProxy, 'trustProxy');
  const limits = new Limits(counts);
  const connections = new Connections(counts, isProxy);
  const guard = createGuard({ hosts: allowHosts, token });
  const metrics = createMetrics(detector, { connections, limits });
  let closing = false;

  const app = fastify({
    ...(logger !== undefined && { logger }),
    bodyLimit: smallBytes,
    trustProxy: isProxy,
    return503OnClosing: false, // done below, in the words of the other errors
    serverFactory: makeServer({ connections, uploadMs: Math.min(uploadMs, requestMs) }),
    clientErrorHandler: answerParserError,
    frameworkErrors: answerError,
  });
  app.setErrorHandler(answerError);
  app.setNotFoundHandler(() => undefined); // the hook has thrown
  app.decorateRequest('lease', null);
  app.decorateRequest('watchAnswer', null);
  app.addHook('preClose', (done) => {
    closing = true;
    done();
  });
  app.addHook('onRequest', (request, reply, done) => {
    const leave = connections.enter(request.raw.socket);
    reply.raw.once('close', () => {
      leave();
      metrics.countRequest(request, reply);
    });
    request.watchAnswer = watchStall(request.raw, reply.raw, stallMs);
    void reply.headers(safeHeaders);
    guard.checkSender(request);
    if (closing) throw new ServiceError('ERR_CLOSING', 'the service is shutting down');
    guard.checkToken(request);
    if (request.is404) {
      throw new ServiceError('ERR_NOT_FOUND', `there is no ${request.method} ${request.url.split('?')[0]}`);
    }
    done();
  });
  app.addHook('onSend', (request, reply, _payload, done) => {
    request.watchAnswer?.();
    // A connection that is kept open would keep the process alive.
    if (closing) void reply.header('connection', 'close');
    done();
  });
  void app.register(multipart, {
    limits: { fileSize: maxUpload, files: 1, fields: 8, fieldSize: 1024, headerPairs: 64 },
  });
  app.removeContentTypeParser('text/plain');
  app.addContentTypeParser(/^image\//, (request: FastifyRequest, body: Readable) =>
    collect(body, leaseOf(request), maxUpload, announced(request)),
  );

  app.post('/score', {
    // What announces its size is refused before it is read.
    onRequest: (request, reply, done) => {
      const bytes = announced(request);
      if (bytes !== undefined && bytes > maxUpload + smallBytes) {
        throw new ServiceError('ERR_TOO_LARGE', `expected at most ${maxUpload} bytes, got ${bytes}`);
      }
      request.lease = limits.lease(request.ip);
      reply.raw.once('close', request.lease.hold());
      done();
    },
    handler: async (request, reply) => {
      const lease = leaseOf(request);
      if (lease.over) throw new ServiceError('ERR_ABORTED', 'the client has gone');
      // Work that goes on for a client that has gone holds its place until it has ended.
      const release = lease.hold();
      const signal = endOfWork(reply, requestMs);
      let read: (() => void) | undefined;
      try {
        const { image, ...given } = await readRequest(request, { images, maxUpload, lease });
        read = () => free(image);
        const start = performance.now();
        const result = await detector.score(image, { ...given, limitInputPixels: maxPixels, signal, transfer: true });
        const overlay = prefersPng(request.headers.accept) ? await result.heatmap({ signal }) : undefined;
        metrics.countScore(result, given.product, performance.now() - start);
        const { score, scores, threshold, anomalous, map } = result;
        if (overlay === undefined) return { score, threshold, anomalous, scores, width: map.width, height: map.height };
        lease.grow(overlay.length); // until it is taken
        void reply.headers({
          'content-type': 'image/png',
          'ddad-score': String(score),
          ...(threshold !== null && { 'ddad-threshold': String(threshold) }),
          'ddad-verdict': verdictOf(result),
        });
        return overlay;
      } catch (error) {
        // Work that was given up may still read the image; one that is refused has been read.
        if ((error as { code?: string }).code !== 'ERR_IMAGE') read = undefined;
        throw signal.reason instanceof ServiceError ? signal.reason : error;
      } finally {
        read?.();
        release();
      }
    },
  });

  // Without the token it says that the service is there, which probes of containers need, and nothing of the model.
  app.get('/healthz', { config: { open: true } }, (request) => ({
    status: 'ready',
    ...(guard.hasToken(request) && {
      model,
      device,
      products: detector.products,
      limits: { bytes: maxUpload, pixels: maxPixels },
    }),
  }));

  app.get('/metrics', { config: { open: openMetrics } }, (_request, reply) => {
    void reply.type(metrics.contentType);
    return metrics.text();
  });

  app.get('/', { config: { open: true } }, (_request, reply) => {
    void reply.headers({ 'content-type': 'text/html; charset=utf-8', ...page.headers });
    return page.html;
  });

  return app;
}
