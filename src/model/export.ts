import { z } from 'zod';
import type { StoredConfig } from '../config/config.js';
import { toEngineJson } from '../config/engine-json.js';
import { atCaller, DdadError, kindOf, modelError, optionError } from '../base/errors.js';
import { checkWritable, isSameFile } from '../files/write.js';
import { readStoredConfig } from './model-file.js';
import { addon, callNative, type CancelToken } from '../engine/native.js';
import { parseOptions } from '../config/options.js';
import { checkProducts, productOf } from './products.js';
import { scoredAs } from './scored-as.js';

const side = z.number().int().min(1).max(65536);
const signal = z.instanceof(AbortSignal).optional();
const head = z.boolean().optional();
const onnxOptions = z.strictObject({
  graph: z.enum(['unet', 'score']).optional(),
  head,
  scale: z.number().int().min(0).optional(),
  product: z.string().optional(),
  size: z.strictObject({ width: side, height: side }).optional(),
  noise: z.enum(['engine', 'input']).optional(),
  externalData: z.boolean().optional(),
  signal,
});
const safetensorsOptions = z.strictObject({ head, signal });

/**
 * - `graph`: the network alone (`unet`, the default), or `score`: everything from the normalised image to its score.
 * - `head`: `unet` with the feature head, where the model has one (true).
 * - `scale`: `score` at this noise scale alone, one of the model's; all of them by default, as the model scores.
 * - `product`: what the images of `score` show; a unified model needs it.
 * - `size`: of the images of `score`; by default what the model takes in.
 * - `noise`: of `score`: the engine's own as a constant (`engine`, the default), with which scores are those of
 *   `Detector`, or an `input` of the graph.
 * - `externalData`: weights in a file of their own, `<out>.data`, as is the case anyhow beyond 2 GB.
 */
export interface OnnxExportOptions extends z.infer<typeof onnxOptions> {
  signal?: AbortSignal | undefined;
}

/** `head`: with the parameters `feat_rec1.*` of the feature head, which the code of guided-diffusion does not know (true). */
export type SafetensorsExportOptions = z.infer<typeof safetensorsOptions>;

/** An input or output of a graph; a dimension with a name is open. */
export interface OnnxPort {
  name: string;
  type: 'float32' | 'int64';
  shape: (number | string)[];
  about: string;
}

/** A file that an export has written. */
export interface WrittenFile {
  path: string;
  bytes: number;
}

/** What an ONNX file holds. */
export interface OnnxExport {
  graph: 'unet' | 'score';
  opset: number;
  irVersion: number;
  /** The noise scales of `score`; null of `unet`. */
  scales: number[] | null;
  nodes: number;
  /** Numbers that were trained, of the backbone too. */
  parameters: number;
  inputs: OnnxPort[];
  outputs: OnnxPort[];
  /** What the graph leaves to whoever runs it. */
  leavesOut: string[];
  files: WrittenFile[];
}

/** What a safetensors file holds. */
export interface SafetensorsExport {
  tensors: number;
  parameters: number;
  /** What the model's file has beside that. */
  leavesOut: string[];
  files: WrittenFile[];
}

/** Refuses outputs that would replace the model. Throws ERR_OPTION. */
export async function checkOther(model: string, ...outputs: string[]): Promise<void> {
  for (const out of outputs) {
    if (!(await isSameFile(model, out))) continue;
    throw new DdadError('ERR_OPTION', `${out}: expected another file than the model itself`);
  }
}

/** The file of a graph's weights where they do not stand in it. */
export const dataOf = (graph: string): string => `${graph}.data`;

/** Refuses before any work what cannot be written, or would replace the model itself. */
async function checkOutput(model: string, out: string, ...more: string[]): Promise<void> {
  for (const [name, value] of Object.entries({ model, out })) {
    if (typeof value !== 'string')
      throw new DdadError('ERR_ARGUMENT', `export: ${name}: expected a path, got ${kindOf(value)}`);
  }
  await checkOther(model, out, ...more);
  await checkWritable(out);
}

async function written<T>(
  given: AbortSignal | undefined,
  run: (token: CancelToken) => Promise<string>,
  blame: (error: unknown) => DdadError,
): Promise<T> {
  try {
    return JSON.parse(await callNative(given, run)) as T;
  } catch (error) {
    throw blame(error);
  }
}

function labelOf(config: StoredConfig, product: string | undefined): number {
  if (!config.products && config.unet.numClasses !== null) {
    throw new DdadError(
      'ERR_OPTION',
      'option "graph": score needs the products of a class-conditional model, and this one names none; expected "unet"',
    );
  }
  return productOf(config, product).label ?? 0;
}

/** The configuration of the ensemble alone, for which neither the thresholds hold nor the range of the maps. */
function withoutEvidence(stored: StoredConfig): StoredConfig {
  const plain = (calibration: StoredConfig['calibration']): StoredConfig['calibration'] => {
    const adapted = calibration && { ...calibration };
    if (adapted) delete adapted.mapRange;
    return adapted;
  };
  const perProduct = Object.entries(stored.perProduct ?? {}).map(([name, own]) => [
    name,
    { ...own, calibration: plain(own.calibration), threshold: null },
  ]);
  return {
    ...stored,
    score: { ...stored.score, evidence: null },
    calibration: plain(stored.calibration),
    threshold: null,
    ...(stored.perProduct && { perProduct: Object.fromEntries(perProduct) as StoredConfig['perProduct'] }),
  };
}

/** What the engine is told beside the paths. */
async function engineOptions(model: string, options: OnnxExportOptions): Promise<Record<string, unknown>> {
  const { graph = 'unet', head, scale, product, size, noise = 'engine', externalData: external = false } = options;
  const common = { graph, external };
  const foreign = Object.entries(graph === 'unet' ? { scale, product, size, noise: options.noise } : { head });
  const stray = foreign.find(([, value]) => value !== undefined)?.[0];
  if (stray) {
    const other = graph === 'unet' ? 'score' : 'unet';
    throw new DdadError('ERR_OPTION', `option "${stray}": goes with graph "${other}" only`);
  }
  if (graph === 'unet') return { ...common, head: head ?? true };
  const stored = await readStoredConfig(model);
  checkProducts(stored, model);
  // the graph is the ensemble (11); what is judged beside it needs the features of good images
  const ensemble = stored.score.evidence ? withoutEvidence(stored) : stored;
  const config = scoredAs(ensemble, scale === undefined ? {} : { scales: [scale] });
  return { ...common, config, label: labelOf(stored, product), ownNoise: noise === 'engine', ...size };
}

/**
 * Writes a model as ONNX, for onnxruntime and others. A training checkpoint has the graph `unet`. Throws ERR_FILE_READ,
 * ERR_MODEL_FORMAT, ERR_OPTION, ERR_FILE_WRITE, ERR_ABORTED.
 */
export function exportOnnx(model: string, out: string, options: OnnxExportOptions = {}): Promise<OnnxExport> {
  return atCaller(async () => {
    const checked = parseOptions(onnxOptions, options);
    await checkOutput(model, out, dataOf(out));
    const engine = toEngineJson(await engineOptions(model, checked));
    const run = (token: CancelToken): Promise<string> => addon().exportOnnx(model, out, engine, token);
    return written<OnnxExport>(checked.signal, run, (error) =>
      checked.scale === undefined ? modelError(error, model) : optionError(error),
    );
  });
}

/**
 * Writes the parameters of the UNet of a model or training checkpoint in the names of the public guided-diffusion code,
 * with the configuration in the metadata. Throws like {@link exportOnnx}.
 */
export function exportSafetensors(
  model: string,
  out: string,
  options: SafetensorsExportOptions = {},
): Promise<SafetensorsExport> {
  return atCaller(async () => {
    const checked = parseOptions(safetensorsOptions, options);
    await checkOutput(model, out);
    const engine = JSON.stringify({ head: checked.head ?? true });
    const run = (token: CancelToken): Promise<string> => addon().exportWeights(model, out, engine, token);
    return written<SafetensorsExport>(checked.signal, run, (error) => modelError(error, model));
  });
}
