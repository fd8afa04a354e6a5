import { defaultBackbone, findBackbone } from '../config/backbones.js';
import { toEngineJson } from '../config/engine-json.js';
import { z } from 'zod';
import { expandConfig, type StoredConfig } from '../config/config.js';
import { atCaller, DdadError, kindOf, optionError } from '../base/errors.js';
import { isSameFile } from '../files/write.js';
import { addon, callNative, type NativeInspection, readTaps } from '../engine/native.js';
import { defined, importSettings, parseOptions } from '../config/options.js';
import { isOwnFile, readStoredConfig } from './model-file.js';
import { droppedSignature } from './signature.js';

const importOptions = importSettings.extend({
  signal: z.instanceof(AbortSignal).optional(),
  onProgress: z.custom<(done: number) => void>((value) => typeof value === 'function').optional(),
});

/**
 * - `prefix`: what the names of the parameters begin with, where a checkpoint holds several networks.
 * - `dropLabels`: leaves out the embedding of classes (`label_emb`).
 * - `imageSize`, `numHeads` or `numHeadChannels`, `useNewAttentionOrder`: what no shape shows, where the assumption does
 *   not hold: 8 pixels a side at the coarsest level, 64 channels a head, and the order of the public checkpoints.
 *   `attentionResolutions` are seen; giving them is a check.
 * - `schedule`, `diffusionSteps`: of the chain that the network was trained on (`linear`, 1000).
 * - `preset`: what training from the model goes by, but for the network (`paper-256`). `mode`, `size` (`imageSize`),
 *   `backbone`, `featureStrides`, `featureScale`, `scales`, `scaleIndexing`, `respacing`, `smoothing`, `topPixels`: as in
 *   {@link TrainerOptions}.
 * - `normalization`: of the scores, as long as the model is not trained and calibrated: `none` or `per-image`.
 * - `onProgress`: is told the share that is done, 0 to 1.
 */
export type ImportOptions = z.infer<typeof importOptions>;

/** What was imported. */
export interface ImportResult {
  checkpoint: string;
  model: string;
  /** Of `torch.save`, in its present form (`zip`) or the old one (`legacy`), or `safetensors`. */
  format: 'zip' | 'legacy' | 'safetensors';
  /** What the names of the parameters began with. */
  prefix: string;
  /** Number of tensors and of values in them, and the element types that they had; all are float32 in the model. */
  tensors: number;
  parameters: number;
  dtypes: string[];
  /** The model's configuration. */
  config: StoredConfig;
  /** Fields of `config.unet` that the checkpoint does not show and no option gave. */
  assumed: string[];
  /** Tensors of the checkpoint that the model does not have. */
  leftOut: string[];
  /** Whether the feature head came with the checkpoint, is fresh, or is not there. */
  featureHead: 'imported' | 'fresh' | 'none';
  /** What was found doubtful, in sentences. */
  warnings: string[];
  elapsedMs: number;
}

/** The names that options have in the engine's UNet. */
const unetFields = [
  'imageSize',
  'attentionResolutions',
  'numHeads',
  'numHeadChannels',
  'useNewAttentionOrder',
] as const;

/**
 * Makes a model file of a checkpoint of guided-diffusion, which `torch.save` or safetensors wrote. Nothing in it is run.
 * The network is inferred from names and shapes; `train --init` and `new Trainer({ init })` start from the result, which
 * scores by its pixel-level score alone until then. Throws ERR_FILE_READ, ERR_FILE_WRITE, ERR_MODEL_FORMAT, ERR_OPTION,
 * ERR_ABORTED.
 */
export function importModel(checkpoint: string, model: string, options: ImportOptions = {}): Promise<ImportResult> {
  return atCaller(async () => {
    for (const file of [checkpoint, model]) {
      if (typeof file === 'string') continue;
      throw new DdadError('ERR_ARGUMENT', `importModel: expected a path, got ${kindOf(file)}`);
    }
    const checked = defined(parseOptions(importOptions, options));
    if (await isSameFile(checkpoint, model)) {
      throw new DdadError('ERR_OPTION', `${model}: expected another file than the checkpoint itself`);
    }
    return run(checkpoint, model, checked);
  });
}

async function run(checkpoint: string, model: string, options: ImportOptions): Promise<ImportResult> {
  const start = performance.now();
  const { signal, onProgress, prefix, dropLabels = false } = options;
  options.attentionResolutions?.sort((a, b) => b - a); // finest first, as the engine has them
  const unet = Object.fromEntries(unetFields.flatMap((name) => (name in options ? [[name, options[name]]] : [])));
  const native = new (addon().NativeImporter)(checkpoint);
  const call = <T>(work: Parameters<typeof callNative<T>>[1]): Promise<T> =>
    callNative(signal, work).catch((error: unknown) => {
      throw optionError(error);
    });
  try {
    const request = JSON.stringify({ unet, dropLabels, ...(prefix !== undefined && { prefix }) });
    const inspection = JSON.parse(await call((token) => native.open(request, token))) as NativeInspection;
    const config = await importedConfig(inspection, options);
    const head = config.unet.featureChannels ?? 0;
    const featureHead: ImportResult['featureHead'] =
      head === 0 ? 'none' : inspection.head === head ? 'imported' : 'fresh';
    if (config.features) config.features.trained = featureHead === 'imported';
    const backbone = config.features ? findBackbone(options.backbone ?? defaultBackbone) : '';
    const dropped = await droppedSignature(model);
    await call((token) => native.begin(model, toEngineJson(config), backbone, token));
    for (let done = 0; done < 1; onProgress?.(done)) done = await call((token) => native.write(token));
    const { format, prefix: taken, tensors, parameters, dtypes, assumed, leftOut } = inspection;
    const facts = { format, prefix: taken, tensors, parameters, dtypes, config, assumed, leftOut, featureHead };
    const warnings = [...(dropped === undefined ? [] : [dropped]), ...(await lostCalibration(checkpoint))];
    return { checkpoint, model, ...facts, warnings, elapsedMs: Math.round(performance.now() - start) };
  } finally {
    // waits: the process may end next, and must not leave a half-written file
    await native.close().finally(() => native.dispose());
  }
}

/** What a finished model loses when it is imported as if it were a bare network. */
async function lostCalibration(file: string): Promise<string[]> {
  const config = (await isOwnFile(file, 'model')) ? await readStoredConfig(file) : undefined;
  if (!config || !(config.calibration ?? config.perProduct)) return [];
  return [
    `${file}: is a model of ddad-native already; its calibration and threshold are left out. Use it as it is, or ` +
      `train from it with init`,
  ];
}

/** The configuration of a model that was never calibrated: it has its raw pixel-level score and no threshold. */
async function importedConfig({ unet }: NativeInspection, options: ImportOptions): Promise<StoredConfig> {
  const { preset = 'paper-256', mode, size, backbone, featureStrides, featureScale } = options;
  const { scales, scaleIndexing, respacing, smoothing, topPixels } = options;
  const chosen = defined({
    ...{ preset, mode, backbone, featureStrides, featureScale },
    ...{ scales, scaleIndexing, respacing, smoothing, topPixels },
  });
  const base = { unet, diffusion: chain(options) };
  const taps = await readTaps(backbone, options.signal);
  const common = {
    ...chosen,
    size: size ?? unet.imageSize,
    channels: unet.inChannels === 1 ? ('gray' as const) : ('rgb' as const),
    positions: false,
    alpha: 1,
  };
  const config: StoredConfig = expandConfig({ ...common, normalization: options.normalization ?? 'none' }, taps, base);
  // training may start from it, and then has evidence
  const depth = expandConfig({ ...common, normalization: 'calibration' }, taps, base).features?.depth;
  if (config.features && depth !== undefined) config.features.depth = depth;
  delete config.training; // there has been none
  config.score.kind = 'pixel';
  return config;
}

function chain({ schedule = 'linear', diffusionSteps = 1000 }: ImportOptions): StoredConfig['diffusion'] {
  return { schedule, steps: diffusionSteps, respacing: null, loss: 'rescaled_mse' };
}
