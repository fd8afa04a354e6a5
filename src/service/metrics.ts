// What Prometheus is told. The detector counts its own work; those metrics are read from it when they are asked for.
import type { FastifyReply, FastifyRequest } from 'fastify';
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Detector } from '../scoring/detector.js';
import type { DetectorStats } from '../scoring/queue.js';
import type { Connections, Limits } from './limits.js';

const verdicts = ['good', 'anomalous', 'none'] as const;

/** `none` where there is no threshold. */
export function verdictOf({ anomalous }: { anomalous: boolean | null }): (typeof verdicts)[number] {
  return anomalous === null ? 'none' : anomalous ? 'anomalous' : 'good';
}

export interface Metrics {
  contentType: string;
  text(): Promise<string>;
  countRequest(request: FastifyRequest, reply: FastifyReply): void;
  countScore(result: { anomalous: boolean | null }, product: string | undefined, milliseconds: number): void;
}

export function createMetrics(
  detector: Pick<Detector, 'products' | 'stats'>,
  { connections, limits }: { connections: Connections; limits: Limits },
): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });

  const requests = new Counter({
    name: 'ddad_http_requests_total',
    help: 'Requests by status; 499 where the client went away first, or was given up because it stood still',
    labelNames: ['method', 'route', 'status'],
    registers,
  });
  const seconds = new Histogram({
    name: 'ddad_score_seconds',
    help: 'Time from an image read to its answer, waiting and the overlay included',
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers,
  });
  const images = new Counter({
    name: 'ddad_verdicts_total',
    help: 'Images scored, by verdict; none where there is no threshold',
    labelNames: ['verdict', 'product'],
    registers,
  });
  // A rate needs the zero from which something rises.
  for (const product of detector.products ?? ['']) for (const verdict of verdicts) images.inc({ verdict, product }, 0);

  const gauge = (name: string, help: string, read: (stats: DetectorStats) => number): Gauge =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read(detector.stats()));
      },
    });
  gauge('ddad_queue_length', 'Images that wait for the engine', ({ queued }) => queued);
  gauge('ddad_running', 'Images that the engine works on', ({ running }) => running);

  gauge('ddad_http_connections', 'Connections that are open', () => connections.open);
  gauge('ddad_upload_bytes', 'Images in memory, encoded: those on their way in, waiting or on their way out', () => {
    return limits.uploads.used;
  });
  new Counter({
    name: 'ddad_http_connections_closed_total',
    help: 'Connections that were closed for want of room',
    registers,
    collect() {
      this.reset();
      this.inc(connections.refused);
    },
  });

  const counts = (
    name: string,
    help: string,
    label: string,
    read: (stats: DetectorStats) => Record<string, number>,
  ): Counter =>
    new Counter({
      name,
      help,
      labelNames: [label],
      registers,
      collect() {
        this.reset();
        for (const [value, count] of Object.entries(read(detector.stats()))) this.inc({ [label]: value }, count);
      },
    });
  const ends = ({ scored, failed, aborted, refused }: DetectorStats): Record<string, number> => ({
    scored,
    failed,
    aborted,
    refused,
  });
  counts('ddad_images_total', 'Images given to the engine, by how that ended', 'outcome', ends);
  const sizes = ({ batchSizes }: DetectorStats): Record<string, number> =>
    Object.fromEntries(batchSizes.map((count, i) => [i + 1, count]));
  counts('ddad_batches_total', 'Batches that the engine has computed, by their number of images', 'size', sizes);

  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    countRequest(request, reply) {
      const status = reply.raw.writableFinished ? reply.raw.statusCode : 499;
      requests.inc({ method: request.method, route: request.routeOptions.url ?? 'unknown', status });
    },
    countScore(result, product = '', milliseconds) {
      images.inc({ verdict: verdictOf(result), product });
      seconds.observe(milliseconds / 1000);
    },
  };
}
