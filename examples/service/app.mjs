// The service as a Fastify instance: POST /score, GET /healthz, GET /metrics, and a page. The detector stays the caller's.
import multipart from '@fastify/multipart';
import fastify from 'fastify';
import { prefersPng } from './accept.mjs';
import { answerError, ServiceError } from './errors.mjs';
import { createMetrics, verdictOf } from './metrics.mjs';
import { readPage } from './page.mjs';
import { readRequest } from './request.mjs';

export const defaultLimits = { maxUpload: 50_000_000, maxPixels: 100_000_000 };

/** JSON bodies, and what a form has beside its image. */
const smallBytes = 65_536;
/** An upload that takes longer is cut off. */
const requestTimeout = 300_000;

/** A signal that fires when the client goes away before it has its answer; request.signal fires with the body's end. */
function clientGone({ raw }) {
  const controller = new AbortController();
  if (raw.destroyed) controller.abort();
  raw.once('close', () => {
    if (!raw.writableFinished) controller.abort();
  });
  return controller.signal;
}

/**
 * @param {import('ddad-native').Detector} detector
 * @param {object} [options]
 * @param {string} [options.model] how the model is called
 * @param {unknown} [options.device] what /healthz says of where it computes
 * @param {string} [options.images] folder below which clients may name images by path; none unless given
 * @param {number} [options.maxUpload] bytes of an image (50 MB)
 * @param {number} [options.maxPixels] pixels of an image (100 megapixels)
 * @param {import('fastify').FastifyServerOptions['logger']} [options.logger]
 */
export async function createApp(detector, options = {}) {
  const { model = 'model', device = null, images, logger = false } = options;
  const { maxUpload = defaultLimits.maxUpload, maxPixels = defaultLimits.maxPixels } = options;
  const page = await readPage();
  const metrics = createMetrics(detector);
  let closing = false;

  const app = fastify({
    logger,
    bodyLimit: smallBytes,
    requestTimeout,
    return503OnClosing: false, // done below, in the words of the other errors
    frameworkErrors: answerError,
  });
  app.setErrorHandler(answerError);
  app.setNotFoundHandler((request) => {
    throw new ServiceError('ERR_NOT_FOUND', `there is no ${request.method} ${request.url.split('?')[0]}`);
  });
  app.addHook('preClose', async () => {
    closing = true;
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.raw.once('close', () => metrics.countRequest(request, reply));
    reply.headers({ 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
    if (closing) throw new ServiceError('ERR_CLOSING', 'the service is shutting down');
  });
  app.addHook('onSend', async (request, reply) => {
    // A connection that is kept open would keep the process alive.
    if (closing) reply.header('connection', 'close');
  });
  app.register(multipart, { limits: { fileSize: maxUpload, files: 1, fields: 8, fieldSize: 1024, headerPairs: 64 } });
  app.removeContentTypeParser('text/plain');
  app.addContentTypeParser(/^image\//, { parseAs: 'buffer', bodyLimit: maxUpload }, async (request, body) => body);

  app.post('/score', {
    // What announces its size is refused before it is read.
    onRequest: async ({ headers }) => {
      if (Number(headers['content-length']) > maxUpload + smallBytes) {
        throw new ServiceError(
          'ERR_TOO_LARGE',
          `expected at most ${maxUpload} bytes, got ${headers['content-length']}`,
        );
      }
    },
    handler: async (request, reply) => {
      const signal = clientGone(reply);
      const { image, ...given } = await readRequest(request, { images, maxUpload });
      const start = performance.now();
      const result = await detector.score(image, { ...given, limitInputPixels: maxPixels, signal });
      const overlay = prefersPng(request.headers.accept) ? await result.heatmap({ signal }) : undefined;
      metrics.countScore(result, given.product, performance.now() - start);
      const { score, threshold, anomalous, map } = result;
      if (overlay === undefined) return { score, threshold, anomalous, width: map.width, height: map.height };
      reply.headers({
        'content-type': 'image/png',
        'ddad-score': String(score),
        ...(threshold !== null && { 'ddad-threshold': String(threshold) }),
        'ddad-verdict': verdictOf(result),
      });
      return overlay;
    },
  });

  app.get('/healthz', async () => ({
    status: 'ready',
    model,
    device,
    products: detector.products,
    limits: { bytes: maxUpload, pixels: maxPixels },
  }));

  app.get('/metrics', async (request, reply) => {
    reply.type(metrics.contentType);
    return metrics.text();
  });

  app.get('/', async (request, reply) => {
    reply.headers({ 'content-type': 'text/html; charset=utf-8', ...page.headers });
    return page.html;
  });

  return app;
}
