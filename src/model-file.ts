import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { type ModelConfig, parseModelConfig, parseStoredConfig, type StoredConfig } from './config.js';
import { DdadError, messageOf } from './errors.js';
import { readError } from './files.js';

/** No safetensors reader takes a longer header. */
const maxHeaderBytes = 100_000_000;

/** Where a checkpoint stands in its run. */
export interface CheckpointState {
  step: number;
  /** Training time so far, counted when the run has a time limit. */
  elapsedMs: number;
  /** Of the training images: names and sizes. */
  fingerprint: string;
  images: number;
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

export const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');

/** The header of a safetensors file. */
export interface FileHeader {
  /** The strings that it carries beside its tensors; empty when it has none. */
  metadata: Record<string, unknown>;
  /** What the header says of the tensors, unchecked. */
  tensors: Record<string, unknown>;
  /** Where their bytes begin. */
  dataStart: number;
}

const readMetadata = async (file: string): Promise<Record<string, unknown>> => (await readHeader(file)).metadata;

export async function readHeader(file: string): Promise<FileHeader> {
  const broken = (why: string): never => {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: not a safetensors file: ${why}`);
  };
  // without O_NONBLOCK opening a pipe would wait for a writer
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK).catch((cause: unknown) => {
    throw readError(file, messageOf(cause), cause);
  });
  try {
    const prefix = Buffer.alloc(8);
    const at = await handle.stat();
    if (at.isDirectory()) throw readError(file, 'expected a file, found a folder');
    if (!at.isFile()) throw readError(file, 'expected a regular file, got a pipe, socket or device');
    const { size } = at;
    if (size < 8) broken(`expected at least 8 bytes, got ${size}`);
    await handle.read(prefix, 0, 8, 0);
    const length = prefix.readBigUInt64LE();
    if (prefix.toString('latin1', 0, 4) === 'PK\x03\x04') broken('it is a zip archive; import reads those of PyTorch');
    if (length > BigInt(Math.min(size - 8, maxHeaderBytes))) broken(`its header of ${length} bytes does not fit`);
    const header = Buffer.alloc(Number(length));
    await handle.read(header, 0, header.length, 8);
    const value: unknown = JSON.parse(header.toString('utf8'));
    if (!isObject(value)) return broken('expected a JSON object as its header');
    const { __metadata__: metadata, ...tensors } = value;
    return { metadata: isObject(metadata) ? metadata : {}, tensors, dataStart: 8 + header.length };
  } catch (cause) {
    if (cause instanceof DdadError) throw cause;
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: not a safetensors file: ${messageOf(cause)}`, { cause });
  } finally {
    await handle.close();
  }
}

/** What files of ours that are none of the wanted kind are refused with. */
const expected = {
  model: 'expected a ddad-native model, got a safetensors file without that format in its metadata',
  checkpoint: 'expected a checkpoint of ddad-native, got another safetensors file',
};

/** The metadata of a file of ours, read from its header alone; of either kind, and refused as the wanted one. */
async function readOwn(file: string, kind: keyof typeof expected): Promise<Record<string, unknown>> {
  const metadata = await readMetadata(file);
  if (metadata['format'] !== 'ddad-native') throw new DdadError('ERR_MODEL_FORMAT', `${file}: ${expected[kind]}`);
  return metadata;
}

/** The configuration in it, as JSON. */
async function readConfig(file: string, kind: keyof typeof expected): Promise<string> {
  const metadata = await readOwn(file, kind);
  if (metadata['kind'] !== kind) {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: expected a ${kind}, got a ${textOf(metadata['kind'])}`);
  }
  return textOf(metadata['config']);
}

/** The configuration of a model, or that in a checkpoint. */
export async function readStoredConfig(file: string): Promise<StoredConfig> {
  return parseStoredConfig(textOf((await readOwn(file, 'model'))['config']), file);
}

/** The configuration of a model. */
export async function readModel(file: string): Promise<StoredConfig> {
  return parseStoredConfig(await readConfig(file, 'model'), file);
}

/** The configuration and position of a checkpoint. */
export async function readCheckpoint(file: string): Promise<{ config: ModelConfig; state: CheckpointState }> {
  const config = parseModelConfig(await readConfig(file, 'checkpoint'), file);
  const state = config['checkpoint'] as CheckpointState | undefined;
  if (typeof state?.step !== 'number' || typeof state.fingerprint !== 'string') {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: the checkpoint does not say where its run stands`);
  }
  delete config['checkpoint'];
  return { config, state };
}
