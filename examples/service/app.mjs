// The service as a Fastify instance: POST /score, GET /healthz, GET /metrics, and a page. The detector stays the caller's.
import multipart from '@fastify/multipart';
import fastify from 'fastify';
import { prefersPng } from './accept.mjs';
import { answerError, answerParserError, safeHeaders, ServiceError, StartError } from './errors.mjs';
import { createGuard } from './guard.mjs';
import { addressList, Connections, Limits } from './limits.mjs';
import { makeServer, watchStall } from './listener.mjs';
import { createMetrics, verdictOf } from './metrics.mjs';
import { readPage } from './page.mjs';
import { announced, readRequest } from './request.mjs';
import { collect, free } from './upload.mjs';

export const defaultLimits = {
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

function limitsOf(given) {
  const limits = Object.fromEntries(Object.entries(defaultLimits).map(([name, usual]) => [name, given[name] ?? usual]));
  const { maxUpload } = limits;
  if (given.uploadMemory === undefined) limits.uploadMemory = Math.max(limits.uploadMemory, 4 * maxUpload);
  if (limits.uploadMemory < 2 * maxUpload) {
    const expected = `expected at least ${2 * maxUpload} bytes, two of the largest images`;
    throw new StartError('uploadMemory', `${expected}, got ${limits.uploadMemory}`);
  }
  return limits;
}

/** A signal that fires when the client goes away before it has its answer, or when the request has taken `ms`. */
function endOfWork({ raw }, ms) {
  const controller = new AbortController();
  const timer = setTimeout(() => {
    controller.abort(new ServiceError('ERR_TIMEOUT', `the request has taken more than ${ms / 1000} s`));
    if (raw.headersSent) raw.destroy();
  }, ms);
  const end = () => {
    clearTimeout(timer);
    if (!raw.writableFinished) controller.abort();
  };
  if (raw.destroyed) end();
  else raw.once('close', end);
  return controller.signal;
}

/**
 * @param {import('ddad-native').Detector} detector
 * @param {object} [options]
 * @param {string} [options.model] how the model is called
 * @param {unknown} [options.device] what /healthz says of where it computes
 * @param {string} [options.images] folder below which clients may name images by path; none unless given
 * @param {string} [options.token] what clients have to bring (`Authorization: Bearer …`); nothing unless given
 * @param {boolean} [options.openMetrics] whether /metrics needs no token
 * @param {string[]} [options.allowHosts] names by which clients may call the service, beside those of this machine's loopback
 * interface and the address at which they reach it
 * @param {string[]} [options.trustProxy] addresses and networks of proxies, whose X-Forwarded-For is believed
 * @param {number} [options.maxUpload] bytes of an image (50 MB)
 * @param {number} [options.maxPixels] pixels of an image (100 megapixels)
 * @param {number} [options.uploadMemory] bytes of images that are taken in, wait or are answered at once (500 MB), one client
 * half of them
 * @param {number} [options.maxConnections] connections (1024)
 * @param {number} [options.maxClientConnections] connections of a client, unless it is a trusted proxy (512)
 * @param {number} [options.maxRequests] requests to score at once (128)
 * @param {number} [options.maxClientRequests] requests to score at once of a client (64)
 * @param {number} [options.uploadMs] time in which a request arrives (2 minutes)
 * @param {number} [options.stallMs] time after which a request, or a client that takes its answer, that stands still is given up
 * (20 s)
 * @param {number} [options.requestMs] time in which it is answered, all in all (10 minutes)
 * @param {import('fastify').FastifyServerOptions['logger']} [options.logger]
 */
export async function createApp(detector, options = {}) {
  const { model = 'model', device = null, images, logger = false, token, openMetrics = false } = options;
  const { allowHosts = [], trustProxy = [], ...given } = options;
  const { maxUpload, maxPixels, uploadMs, stallMs, requestMs, ...counts } = limitsOf(given);
  const page = await readPage();
  const isProxy = addressList(trustProxy, 'trustProxy');
  const limits = new Limits(counts);
  const connections = new Connections(counts, isProxy);
  const guard = createGuard({ hosts: allowHosts, token });
  const metrics = createMetrics(detector, { connections, limits });
  let closing = false;

  const app = fastify({
    logger,
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
  app.addHook('preClose', async () => {
    closing = true;
  });
  app.addHook('onRequest', async (request, reply) => {
    const leave = connections.enter(request.raw.socket);
    reply.raw.once('close', () => {
      leave();
      metrics.countRequest(request, reply);
    });
    request.watchAnswer = watchStall(request.raw, reply.raw, stallMs);
    reply.headers(safeHeaders);
    guard.checkSender(request);
    if (closing) throw new ServiceError('ERR_CLOSING', 'the service is shutting down');
    guard.checkToken(request);
    if (request.is404) {
      throw new ServiceError('ERR_NOT_FOUND', `there is no ${request.method} ${request.url.split('?')[0]}`);
    }
  });
  app.addHook('onSend', async (request, reply) => {
    request.watchAnswer?.();
    // A connection that is kept open would keep the process alive.
    if (closing) reply.header('connection', 'close');
  });
  app.register(multipart, { limits: { fileSize: maxUpload, files: 1, fields: 8, fieldSize: 1024, headerPairs: 64 } });
  app.removeContentTypeParser('text/plain');
  app.addContentTypeParser(/^image\//, (request, body) => collect(body, request.lease, maxUpload, announced(request)));

  app.post('/score', {
    // What announces its size is refused before it is read.
    onRequest: async (request, reply) => {
      const bytes = announced(request);
      if (bytes > maxUpload + smallBytes) {
        throw new ServiceError('ERR_TOO_LARGE', `expected at most ${maxUpload} bytes, got ${bytes}`);
      }
      request.lease = limits.lease(request.ip);
      reply.raw.once('close', request.lease.hold());
    },
    handler: async (request, reply) => {
      const { lease } = request;
      if (lease.over) throw new ServiceError('ERR_ABORTED', 'the client has gone');
      // Work that goes on for a client that has gone holds its place until it has ended.
      const release = lease.hold();
      const signal = endOfWork(reply, requestMs);
      let read;
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
        reply.headers({
          'content-type': 'image/png',
          'ddad-score': String(score),
          ...(threshold !== null && { 'ddad-threshold': String(threshold) }),
          'ddad-verdict': verdictOf(result),
        });
        return overlay;
      } catch (error) {
        // Work that was given up may still read the image; one that is refused has been read.
        if (error.code !== 'ERR_IMAGE') read = undefined;
        throw signal.reason instanceof ServiceError ? signal.reason : error;
      } finally {
        read?.();
        release();
      }
    },
  });

  // Without the token it says that the service is there, which probes of containers need, and nothing of the model.
  app.get('/healthz', { config: { open: true } }, async (request) => ({
    status: 'ready',
    ...(guard.hasToken(request) && {
      model,
      device,
      products: detector.products,
      limits: { bytes: maxUpload, pixels: maxPixels },
    }),
  }));

  app.get('/metrics', { config: { open: openMetrics } }, async (request, reply) => {
    reply.type(metrics.contentType);
    return metrics.text();
  });

  app.get('/', { config: { open: true } }, async (request, reply) => {
    reply.headers({ 'content-type': 'text/html; charset=utf-8', ...page.headers });
    return page.html;
  });

  return app;
}
