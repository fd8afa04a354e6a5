import { existsSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../base/package.js';
import { defaultBackbone, findBackbone } from '../config/backbones.js';
import type { BackboneTap, StoredConfig } from '../config/config.js';
import { checkSums } from '../files/checksums.js';
import { abortError, DdadError, messageOf, throwIfAborted, toDdadError } from '../base/errors.js';

/** A flag that the compute thread reads between two operations. */
export interface CancelToken {
  cancel(): void;
}

/** 8 bits, 16 bits, or floats in 0..1. */
export type PixelArray = Uint8Array | Uint16Array | Float32Array;

/** Pixels in the engine's memory, written a piece at a time; scoring them empties it. */
export interface PixelBuffer {
  /** Throws ERR_ARGUMENT for more than there is room for, or of another type than the first. */
  append(values: PixelArray): void;
  /** The room that it was made with. */
  readonly byteLength: number;
}

/** Pixels as the engine takes them, in interleaved rows. */
export interface NativeImage {
  data: PixelArray | PixelBuffer;
  width: number;
  height: number;
  channels: number;
  /** Size of the map; the image's own when absent. */
  outWidth?: number;
  outHeight?: number;
  label?: number;
  /** Whether the result carries the residuals of its features. */
  residuals?: boolean;
  /** Whether it carries what evidence is fitted on. */
  features?: boolean;
  /** Whether it carries nothing else: no network runs. */
  featuresOnly?: boolean;
}

/** Mean and standard deviation (n - 1) of one raw score of an image, a value per noise scale, over `elements` values. */
export interface ScaleStatistics {
  mean: Float64Array;
  std: Float64Array;
  elements: number;
}

export interface NativeScore {
  map: Float32Array;
  pixelMap: Float32Array;
  featureMap: Float32Array | null;
  width: number;
  height: number;
  score: number;
  /** Of the KL in nats. */
  pixel: ScaleStatistics;
  /** Of the squared error of the reconstruction; null where the scores are normalised. */
  rgb: ScaleStatistics | null;
  /** Of the feature error; null where the model has no features. */
  feature: ScaleStatistics | null;
  /** Of the distance to the nearest known residual; null where the model knows none. */
  memory: ScaleStatistics | null;
  /** Of the distances to each bank of the evidence; none before it is fitted. */
  banks: ScaleStatistics[];
  /** What the score is made of, see `evidenceNames`: that of the ensemble, then logarithms of distances. */
  evidence: Float64Array | null;
  /** [cells, channels], where asked for. */
  residuals: Float32Array | null;
  /** Where `features` are asked for: [cells, channels], of a large image some of them, and statistics of each tile. */
  evidenceRows: Float32Array | null;
  evidenceChannels: number;
  evidenceStatistics: Float32Array | null;
  /** [places, channels] of the tap that has a Gaussian for each place. */
  evidencePlaces: Float32Array | null;
}

export interface NativeStep {
  loss: number;
  mse: number;
  vb: number;
  feature: number;
  gradNorm: number;
  /** Steps done, this one included. */
  step: number;
}

/** The digest that a file states (null: none), that of what it holds, and BLAKE3 of it where it was asked for. */
export interface NativeDigest {
  stated: string | null;
  found: string;
  content: string | null;
}

/** What the file of a model says of itself, and with how many threads it is computed. */
export interface NativeOrigin {
  digest: string | null;
  signature: string | null;
  signatureKey: string | null;
  threads: number;
}

export interface NativeDetector {
  config(): string;
  /** JSON of {@link NativeOrigin}. Builds before this one, with which `bench` compares, do not have it. */
  origin?(): string;
  setConfig(config: string): Promise<void>;
  /** What residuals good images of a label have: [count, channels]. */
  setMemory(label: number, residuals: Float32Array, count: number): Promise<void>;
  /** Adds an image's `evidencePlaces` to what `setEvidence` fits Gaussians on; `first` (1) begins anew. */
  observePlaces(features: Float32Array, first: 0 | 1): Promise<void>;
  /**
   * Fits the evidence of images of a label: features of good ones [count, channels], statistics of their tiles, and how
   * many rows each bank keeps.
   */
  setEvidence(
    label: number,
    rows: Float32Array,
    statistics: Float32Array,
    keep: number,
    token: CancelToken,
  ): Promise<void>;
  score(image: NativeImage, token: CancelToken): Promise<NativeScore>;
  /** Scores images with the highest throughput; each has a token, and its own result or error. */
  scoreBatch(images: NativeImage[], tokens: CancelToken[]): Promise<(NativeScore | Error)[]>;
  /** Begins to fit the Gaussian of good features: JSON of {"channels","seed","pooled"}. */
  beginGaussian(options: string): Promise<void>;
  observeGaussian(image: NativeImage, token: CancelToken): Promise<void>;
  /** Keeps it for images of a label; resolves to JSON of what the configuration is to say as `padim`. */
  finishGaussian(label: number): Promise<string>;
  /**
   * Begins a reconstruction of images of one size, or samples ("count", "width", "height", "first", "label"); resolves to
   * JSON of {@link NativeReconstruction}.
   */
  reconstruct(images: NativeImage[], options: string, token: CancelToken): Promise<string>;
  sample(options: string, token: CancelToken): Promise<string>;
  /** Its next step, a task of its own; with the images after it where `floats` says how many values they have. */
  advance(id: number, floats: number, token: CancelToken): Promise<NativeAdvance>;
  endReconstruction(id: number): Promise<void>;
  save(path: string, config: string, token: CancelToken): Promise<void>;
  memory(): string;
  dispose(): void;
}

/** A reconstruction in progress; its steps are rounds where it goes down a gradient. */
export interface NativeReconstruction {
  id: number;
  steps: number;
  images: number;
  width: number;
  height: number;
  channels: 1 | 3;
}

export interface NativeAdvance {
  /** Of each image from good ones, before the step's last move; empty unless it goes down a gradient. */
  distances: number[];
  /** [images, height, width, channels] in 0..1. */
  pixels: Float32Array | null;
}

export interface NativeTrainer {
  open(token: CancelToken): Promise<void>;
  observe(pixels: Float32Array, token: CancelToken): Promise<void>;
  step(pixels: Float32Array, labels: Int32Array | null, lr: number, token: CancelToken): Promise<NativeStep>;
  saveCheckpoint(path: string, metadata: string, token: CancelToken): Promise<void>;
  /** Starts from a model file's parameters; JSON of the names of those that stayed fresh. */
  initialize(path: string, keepHead: boolean, token: CancelToken): Promise<string>;
  loadCheckpoint(path: string, token: CancelToken): Promise<string>;
  toDetector(config: string): Promise<NativeDetector>;
  memory(): string;
  dispose(): void;
}

/** What the engine finds in a checkpoint of another program. */
export interface NativeInspection {
  format: 'zip' | 'legacy' | 'safetensors';
  prefix: string;
  unet: StoredConfig['unet'];
  /** Fields of it that no shape shows. */
  assumed: string[];
  /** Element types, number and values of the parameters that are taken; names of tensors that are not. */
  dtypes: string[];
  tensors: number;
  parameters: number;
  leftOut: string[];
  /** Channels of a feature head that is there, or 0. */
  head: number;
}

export interface NativeImporter {
  /** Maps the checkpoint and finds its network; JSON of {@link NativeInspection}. */
  open(options: string, token: CancelToken): Promise<string>;
  begin(path: string, config: string, backbone: string, token: CancelToken): Promise<void>;
  /** Writes some more; resolves to the share that is done, 1 when the model is in its place. */
  write(token: CancelToken): Promise<number>;
  /** Lets go of the checkpoint, and removes a model that is not complete; resolves when that is done. */
  close(): Promise<void>;
  dispose(): void;
}

/** What the machine reaches at best, a value a sample. */
export interface CeilingProfile {
  flopsPerSecond: number[];
  bytesPerSecond: number[];
}

/**
 * Times of the ops of a network, those of the same kind and shape together: operations, least traffic in bytes and
 * seconds (a value a pass) of one op, of which there are `count`.
 */
export interface OpProfile {
  ops: { name: string; kernel: string; count: number; flops: number; bytes: number; seconds: number[] }[];
}

/** Operations and seconds of scoring passes. */
export interface PassProfile {
  flops: number;
  seconds: number[];
}

export type ProfileKind = 'ceiling' | 'forward' | 'backward' | 'pass';

export interface Addon {
  info(): string;
  backboneTaps(path: string, token: CancelToken): Promise<string>;
  /**
   * What training a model of this configuration takes, without building it: JSON of {"parameters","optimizer",
   * "activations","packedWeights","total","available","largestBatch"}. `options` is JSON of {"device","threads",
   * "precision","backbone"}.
   */
  trainingMemory(config: string, options: string, token: CancelToken): Promise<string>;
  CancelToken: new () => CancelToken;
  NativeImporter: new (path: string) => NativeImporter;
  PixelBuffer: new (bytes: number) => PixelBuffer;
  NativeTrainer: new (config: string, options: string) => NativeTrainer;
  /** `options` is JSON of {"device","threads","precision","content"}; a file of another content is refused. */
  loadDetector(path: string, options: string, token: CancelToken): Promise<NativeDetector>;
  /** JSON of {@link NativeDigest}. */
  fileDigest(path: string, content: boolean, token: CancelToken): Promise<string>;
  /**
   * Measures what the machine reaches at best (`ceiling`), times the ops of a network's `forward` or `backward`, or a
   * whole scoring `pass`, with fresh weights. `options` is JSON of {"device","threads","batch","samples","seconds"}: a
   * batch (images of a pass), at least `samples` times and until `seconds` have passed. Resolves to JSON of
   * {@link CeilingProfile}, {@link OpProfile} or {@link PassProfile}. Builds before this one do not have it.
   */
  profile?(what: ProfileKind, config: string, options: string, token: CancelToken): Promise<string>;
  /**
   * Writes a model as ONNX. `options` is JSON of {"graph","head","external"} and for the graph `score` of
   * {"config","label","width","height","ownNoise"}; resolves to JSON of `OnnxExport`.
   */
  exportOnnx(path: string, out: string, options: string, token: CancelToken): Promise<string>;
  /** Writes the UNet's parameters; `options` is JSON of {"head"}. Resolves to JSON of `SafetensorsExport`. */
  exportWeights(path: string, out: string, options: string, token: CancelToken): Promise<string>;
  verify(path: string, options: string, token: CancelToken): Promise<string>;
  /** Frees the memory behind a view that fills its buffer, or of pixels in the engine, long before it is collected. */
  release(pixels: ArrayBufferView | PixelBuffer): void;
}

/** Where the build of a package puts its addon. */
export const builtAddon = (root: string): string => path.join(root, 'build', 'Release', 'ddad.node');

/** Where the addon is: the build's output, or what DDAD_ADDON names. */
export function addonPath(): string {
  return path.resolve(process.env['DDAD_ADDON'] || builtAddon(packageRoot));
}

/** Throws ERR_OPTION for what is no priority; the compute thread reads the variable when it starts. */
function checkNice(nice: string | undefined): void {
  if (nice === undefined || /^1?[0-9]$/.test(nice)) return;
  throw new DdadError('ERR_OPTION', `DDAD_NICE: expected 0 to 19, got ${nice}`);
}

let loaded: Addon | undefined;

/** The native addon, loaded at its first use. Throws ERR_ADDON when it has not been built. */
export function addon(): Addon {
  if (loaded) return loaded;
  checkNice(process.env['DDAD_NICE']);
  const file = addonPath();
  // DDAD_ADDON names a build of its own, for which neither command does anything.
  const remedy = process.env['DDAD_ADDON']
    ? 'DDAD_ADDON, which names it, has to be the path of a ddad.node'
    : 'run "npm run build" in a clone, "npm rebuild ddad-native" where it is installed';
  if (!existsSync(file)) {
    throw new DdadError('ERR_ADDON', `the native addon is not built: expected ${file}; ${remedy}`);
  }
  try {
    // The OpenMP runtime reads this when the addon loads it. Its default is to spin at every barrier for milliseconds,
    // which collapses both sides as soon as anything else in the machine wants a processor.
    process.env['GOMP_SPINCOUNT'] ??= '1000';
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    loaded = require(file) as Addon;
  } catch (error) {
    throw new DdadError('ERR_ADDON', `the native addon ${file} does not load: ${messageOf(error)}; ${remedy}`, {
      cause: error,
    });
  }
  return loaded;
}

/** Runs a call of the engine that `signal` can cancel; its errors become DdadErrors. */
export async function callNative<T>(
  signal: AbortSignal | undefined,
  run: (token: CancelToken) => Promise<T>,
): Promise<T> {
  throwIfAborted(signal);
  const token = new (addon().CancelToken)();
  const cancel = (): void => token.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    return await run(token);
  } catch (error) {
    const failure = toDdadError(error);
    throw failure.code === 'ERR_ABORTED' && signal?.aborted ? abortError(signal) : failure;
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}

let checked: Promise<string> | undefined;

/**
 * The package's weights, whose bytes are compared with weights/SHA256SUMS the first time that a process takes them: what
 * their origin published has no digest of ours. Throws ERR_MODEL_FORMAT.
 */
export function packagedBackbone(): Promise<string> {
  checked ??= checkSums(defaultBackbone).catch((error: unknown) => {
    checked = undefined;
    throw error;
  });
  return checked;
}

/** The taps of a backbone; those of the package's where none is named. */
export async function readTaps(backbone: string | null | undefined, signal?: AbortSignal): Promise<BackboneTap[]> {
  if (backbone === null) return [];
  const weights = findBackbone(backbone ?? defaultBackbone);
  const file = weights === defaultBackbone ? await packagedBackbone() : weights;
  return JSON.parse(await callNative(signal, (token) => addon().backboneTaps(file, token))) as BackboneTap[];
}
