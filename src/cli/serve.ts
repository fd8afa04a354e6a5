import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { DeviceOptions } from '../options.js';
import type { Detector } from '../detector.js';
import { isFolder } from '../files.js';
import { addon, packageRoot } from '../native.js';
import type { Command } from './command.js';
import { loadModel, trustFlag, type TrustArguments } from './load.js';
import { log, print } from './output.js';
import { deviceFlags, number, parseSize, text, UsageError } from './usage.js';

interface ServeArguments extends DeviceOptions, TrustArguments {
  model: string;
  json: boolean;
  host: string;
  port: number;
  images?: string;
  maxUpload?: string;
  maxPixels?: number;
  threshold?: number;
  maxQueue?: number;
  maxBatch?: number;
}

/** What examples/service/start.mjs exports. */
interface Service {
  startService(detector: Detector, options: Record<string, unknown>): Promise<string>;
}

export const serveCommand: Command<ServeArguments> = {
  usage: 'serve <model>',
  describe: 'Score images that come over HTTP, with a page where one drops them; until a signal comes',
  positionals: { model: 'A model file' },
  flags: {
    host: { ...text('host', 'Address to listen on'), default: '127.0.0.1' },
    port: { ...number('port', 'Port to listen on; 0: any that is free'), default: '8080' },
    images: text('images', 'Folder below which clients may name images by path', 'none'),
    threshold: number('threshold', 'Scores above it are anomalous', "the model's"),
    'max-upload': text('max-upload', 'Size of an image', '50MB'),
    'max-pixels': number('max-pixels', 'Pixels of an image', '100000000'),
    'max-queue': number('max-queue', 'Images that may wait; more are refused with 503', '64'),
    'max-batch': number('max-batch', 'Images that are computed together', "the engine's"),
    ...trustFlag,
    ...deviceFlags,
    json: { ...deviceFlags.json, describe: 'Print the address as JSON on stdout' },
  },
  example: ['$0 serve part.safetensors --images photos/', 'Serve uploads and the pictures of a folder'],
  work: serve,
};

function checkWhole(name: string, value: number | undefined, min: number, max: number): void {
  if (value === undefined || (Number.isInteger(value) && value >= min && value <= max)) return;
  throw new UsageError(`--${name}: expected a number from ${min} to ${max}, got "${value}"`);
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
    maxPixels,
    maxQueue = 64,
  } = argv;
  checkWhole('port', port, 0, 65_535);
  checkWhole('max-pixels', maxPixels, 1, 10_000_000_000);
  const maxUpload = argv.maxUpload === undefined ? undefined : parseSize('max-upload', argv.maxUpload);
  if (images !== undefined && !(await isFolder(images))) {
    throw new UsageError(`--images: expected a folder, got "${images}"`);
  }
  const batching = { maxQueue, maxBatch, whenFull: 'reject' } as const;
  const detector = await loadModel(argv.model, {
    ...{ device, precision, threads, threshold, trustedKey: argv.trustedKey },
    ...batching,
    signal,
  });
  // The same that one copies: what this command does can be read and changed there.
  const file = path.join(packageRoot, 'examples', 'service', 'start.mjs');
  const { startService } = (await import(pathToFileURL(file).href)) as Service;
  const model = path.basename(argv.model);
  const address = await startService(detector, {
    model,
    device: describeDevice(device),
    ...{ images, maxUpload, maxPixels, host, port },
    logger: { level: 'error', stream: process.stderr },
  }).catch((error: NodeJS.ErrnoException) => {
    detector.dispose();
    throw error.syscall === undefined ? error : new UsageError(`--host, --port: cannot listen there: ${error.message}`);
  });
  if (argv.json) print(JSON.stringify({ address, model }));
  else log(`${model}: ready on ${address}`);
  return new Promise(() => undefined); // the service ends the process, with status 0
}
