import path from 'node:path';
import type { DeviceOptions } from '../config/options.js';
import type { GivenLimits } from '../service/app.js';
import { isFolder } from '../files/write.js';
import { addon } from '../engine/native.js';
import type { Command } from './command.js';
import { loadModel, trustFlag, type TrustArguments } from './load.js';
import { log, print } from './output.js';
import {
  checkWhole,
  deviceFlags,
  list,
  type MemoryArguments,
  memoryBudgetOf,
  memoryFlag,
  number,
  parseDuration,
  parseSize,
  text,
  UsageError,
} from './usage.js';

interface ServeArguments extends DeviceOptions, MemoryArguments, TrustArguments {
  model: string;
  json: boolean;
  host: string;
  port: number;
  images?: string;
  allowHost?: string[];
  tokenFile?: string;
  openMetrics: boolean;
  insecure: boolean;
  trustProxy?: string[];
  maxUpload?: string;
  maxPixels?: number;
  threshold?: number;
  maxQueue?: number;
  maxBatch?: number;
  maxConnections?: number;
  maxClientConnections?: number;
  maxRequests?: number;
  maxClientRequests?: number;
  uploadMemory?: string;
  uploadTimeout?: string;
  requestTimeout?: string;
}

/** What the service throws where it does not start: a system's error, or one of an option of its own. */
type StartError = Error & { syscall?: string; option?: string; reason?: string };

export const serveCommand: Command<ServeArguments> = {
  usage: 'serve <model>',
  describe: 'Score images that come over HTTP, with a page where one drops them; until a signal comes',
  positionals: { model: 'A model file' },
  flags: {
    host: { ...text('host', 'Address to listen on'), default: '127.0.0.1' },
    port: { ...number('port', 'Port to listen on; 0: any that is free'), default: '8080' },
    images: text('images', 'Folder below which clients may name images by path', 'none'),
    'token-file': text('token-file', 'File with the token that clients have to bring', 'none'),
    'allow-host': list('allow-host', 'Names by which clients may call it', 'those of this machine alone'),
    'open-metrics': { type: 'boolean', default: false, describe: 'Let /metrics be read without the token' },
    insecure: { type: 'boolean', default: false, describe: 'Listen to other machines without a token' },
    'trust-proxy': list('trust-proxy', 'Addresses of proxies, which say who the client is', 'none'),
    threshold: number('threshold', 'Scores above it are anomalous', "the model's"),
    'max-upload': text('max-upload', 'Size of an image', '50MB'),
    'max-pixels': number('max-pixels', 'Pixels of an image', '100000000'),
    'max-queue': number('max-queue', 'Images that may wait; more are refused with 503', '64'),
    'max-batch': number('max-batch', 'Images that are computed together', "the engine's"),
    'max-connections': number('max-connections', 'Connections', '1024'),
    'max-client-connections': number('max-client-connections', 'Connections of one client', '512'),
    'max-requests': number('max-requests', 'Requests to score at once', '128'),
    'max-client-requests': number('max-client-requests', 'Requests to score at once of one client', '64'),
    'upload-memory': text('upload-memory', 'Encoded images in memory; half of it for one client', '500MB'),
    'upload-timeout': text('upload-timeout', 'Time in which a request arrives', '2m'),
    'request-timeout': text('request-timeout', 'Time in which a request is answered, all in all', '10m'),
    ...memoryFlag,
    ...trustFlag,
    ...deviceFlags,
    json: { ...deviceFlags.json, describe: 'Print the address as JSON on stdout' },
  },
  example: ['$0 serve part.safetensors --images photos/', 'Serve uploads and the pictures of a folder'],
  work: serve,
};

/** Milliseconds of a timer, which has at most 31 bits. */
function parseTimeout(name: string, given: string | undefined): number | undefined {
  if (given === undefined) return undefined;
  const milliseconds = parseDuration(name, given);
  if (milliseconds <= 86_400_000) return Math.ceil(milliseconds);
  throw new UsageError(`--${name}: expected at most 24h, got "${given}"`);
}

/** The limits that the service has beside those of its detector; undefined where its own hold. */
function limitsOf(argv: ServeArguments): GivenLimits {
  const { maxConnections, maxClientConnections, maxRequests, maxClientRequests, maxPixels } = argv;
  checkWhole('max-pixels', maxPixels, 1, 10_000_000_000);
  checkWhole('max-connections', maxConnections, 1, 65_536);
  checkWhole('max-client-connections', maxClientConnections, 1, 65_536);
  checkWhole('max-requests', maxRequests, 1, 65_536);
  checkWhole('max-client-requests', maxClientRequests, 1, 65_536);
  const size = (name: string, given?: string): number | undefined =>
    given === undefined ? undefined : parseSize(name, given);
  return {
    ...{ maxConnections, maxClientConnections, maxRequests, maxClientRequests, maxPixels },
    maxUpload: size('max-upload', argv.maxUpload),
    uploadMemory: size('upload-memory', argv.uploadMemory),
    uploadMs: parseTimeout('upload-timeout', argv.uploadTimeout),
    requestMs: parseTimeout('request-timeout', argv.requestTimeout),
  };
}

/** The flags of the service's options that it may refuse. */
const flagOf: Record<string, string> = {
  host: 'host',
  tokenFile: 'token-file',
  allowHosts: 'allow-host',
  trustProxy: 'trust-proxy',
  uploadMemory: 'upload-memory',
};

/** What keeps the service from starting, in the words of the command line. */
function startError(error: StartError): Error {
  const { option, reason, syscall, message } = error;
  if (option !== undefined) return new UsageError(`--${flagOf[option]}: ${reason}`);
  return syscall === undefined ? error : new UsageError(`--host, --port: cannot listen there: ${message}`);
}

/** What /healthz says of where the model computes. */
function describeDevice(name: string): Record<string, unknown> {
  const { cpu, devices } = JSON.parse(addon().info()) as {
    cpu: { name: string; isa: string };
    devices: { name: string; available: boolean }[];
  };
  const available = devices.filter((device) => device.available).map((device) => device.name);
  return { name, available, processor: cpu.name, isa: cpu.isa };
}

async function serve(argv: ServeArguments, signal: AbortSignal): Promise<number> {
  const {
    host,
    port,
    images,
    device = 'auto',
    precision,
    threads,
    threshold,
    maxBatch,
    maxQueue = 64,
    tokenFile,
    openMetrics,
    insecure,
    allowHost,
    trustProxy,
  } = argv;
  checkWhole('port', port, 0, 65_535);
  const limits = limitsOf(argv);
  if (images !== undefined && !(await isFolder(images))) {
    throw new UsageError(`--images: expected a folder, got "${images}"`);
  }
  const memoryBudget = memoryBudgetOf(argv);
  const batching = { maxQueue, maxBatch, whenFull: 'reject', memoryBudget } as const;
  const detector = await loadModel(argv.model, {
    ...{ device, precision, threads, threshold, trustedKey: argv.trustedKey },
    ...batching,
    signal,
  });
  // Only now: the server takes a while to load, which no other command has to wait for.
  const { startService } = await import('../service/start.js');
  const model = path.basename(argv.model);
  const address = await startService(detector, {
    model,
    device: describeDevice(device),
    ...{ images, host, port, tokenFile, openMetrics, insecure, trustProxy, ...limits },
    allowHosts: allowHost,
    warn: (message: string) => log(`warning: ${message}`),
    logger: { level: 'error', stream: process.stderr },
  }).catch((error: StartError) => {
    detector.dispose();
    throw startError(error);
  });
  if (argv.json) print(JSON.stringify({ address, model }));
  else log(`${model}: ready on ${address}`);
  return new Promise(() => undefined); // the service ends the process, with status 0
}
