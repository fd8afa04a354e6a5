import { defaultBackbone, findBackbone } from '../config/backbones.js';
import { expandConfig } from '../config/config.js';
import { toEngineJson } from '../config/engine-json.js';
import { parseTrainerOptions, type TrainerOptions } from '../config/options.js';
import { addon, callNative, readTaps } from '../engine/native.js';

/** Bytes of the device's memory that training takes, what it has left, and the largest batch that fits in there. */
export type TrainingMemory = Record<
  'parameters' | 'optimizer' | 'activations' | 'packedWeights' | 'total' | 'available' | 'largestBatch',
  number
>;

/** What training with these options takes, without building anything: at the size that the options or preset name. */
export async function trainingMemory(options: TrainerOptions, signal?: AbortSignal): Promise<TrainingMemory> {
  const checked = parseTrainerOptions(options);
  const { device = 'auto', threads = 0, precision = 'float32' } = checked;
  const config = expandConfig(checked, await readTaps(checked.backbone, signal));
  const backbone = config.features ? findBackbone(checked.backbone ?? defaultBackbone) : '';
  const engine = JSON.stringify({ device, threads, precision, backbone });
  const report = await callNative(signal, (token) => addon().trainingMemory(toEngineJson(config), engine, token));
  return JSON.parse(report) as TrainingMemory;
}
