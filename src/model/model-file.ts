import { z } from 'zod';
import { type ModelConfig, parseModelConfig, parseStoredConfig, type StoredConfig } from '../config/config.js';
import { DdadError, messageOf } from '../base/errors.js';
import { readError } from '../files/write.js';
import { parse } from '../config/options.js';
import { NotRegularError, openRegular } from '../files/read.js';

/** No safetensors reader takes a longer header. */
const maxHeaderBytes = 100_000_000;

const checkpointState = z.object({
  step: z.number().int().min(0),
  /** Training time so far, counted when the run has a time limit. */
  elapsedMs: z.number().min(0),
  /** Of the training images: names and sizes. */
  fingerprint: z.string().regex(/^[0-9a-f]{64}$/, 'expected 64 hexadecimal digits'),
  images: z.number().int().min(1),
  /** What early stopping has seen: the separation at some steps; the steps in all once it has decided. */
  early: z
    .object({
      looks: z.array(z.object({ step: z.number().int().min(1), separation: z.number().min(0).max(1) })).max(64),
      total: z.number().int().min(1).optional(),
    })
    .optional(),
  /** Of the bytes of each image; absent in checkpoints of earlier versions. */
  digests: z.array(z.string().regex(/^[\w-]{22}$/, 'expected 22 letters of base64url')).optional(),
});

/** Where a checkpoint stands in its run. */
export type CheckpointState = z.infer<typeof checkpointState>;

/** What a checkpoint says of its run. */
export interface Checkpoint {
  config: ModelConfig;
  state: CheckpointState;
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

/** Reads it. What is no such file, or a part of one, is refused in the engine's words. */
export async function readHeader(file: string): Promise<FileHeader> {
  const refuse = (why: string): never => {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: ${why}`);
  };
  const { handle, stats } = await openRegular(file).catch((cause: unknown) => {
    const folder = cause instanceof NotRegularError && cause.found === 'folder';
    throw readError(file, folder ? 'expected a file, found a folder' : messageOf(cause), cause);
  });
  try {
    const prefix = Buffer.alloc(8);
    const { size } = stats;
    if (size < 8) refuse(`expected a safetensors file of at least 8 bytes, got ${size}`);
    await handle.read(prefix, 0, 8, 0);
    const length = prefix.readBigUInt64LE();
    if (prefix.toString('latin1', 0, 4) === 'PK\x03\x04') {
      refuse('not a safetensors file: it is a zip archive; import reads those of PyTorch');
    }
    if (length > maxHeaderBytes) {
      const most = `expected a safetensors header of at most ${maxHeaderBytes} bytes`;
      refuse(`${most}, got a length of ${length} (not a safetensors file?)`);
    }
    if (length > size - 8) {
      refuse(`expected a header of ${length} bytes, got a file of ${size} bytes (the file is truncated)`);
    }
    const header = Buffer.alloc(Number(length));
    await handle.read(header, 0, header.length, 8);
    const value: unknown = JSON.parse(header.toString('utf8'));
    if (!isObject(value)) return refuse('not a safetensors file: expected a JSON object as its header');
    const { __metadata__: metadata, ...tensors } = value;
    return { metadata: isObject(metadata) ? metadata : {}, tensors, dataStart: 8 + header.length };
  } catch (cause) {
    if (cause instanceof DdadError) throw cause;
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: not a safetensors file: ${messageOf(cause)}`, { cause });
  } finally {
    await handle.close();
  }
}

/** Kinds of files of ours, as messages name them. */
const kindNames: Record<string, string> = { model: 'a model', checkpoint: 'a checkpoint', weights: 'weights' };

/** The kind that a file of ours says it is. */
export const kindIn = (metadata: FileHeader['metadata']): string => textOf(metadata['kind']).slice(0, 20);

/** What files of others are refused with. */
const expected = {
  model: 'expected a ddad-native model, got a safetensors file without that format in its metadata',
  checkpoint: 'expected a checkpoint of ddad-native, got another safetensors file',
};

function checkOwn(file: string, metadata: FileHeader['metadata'], kind: keyof typeof expected): void {
  if (metadata['format'] !== 'ddad-native') throw new DdadError('ERR_MODEL_FORMAT', `${file}: ${expected[kind]}`);
}

/** Refuses the file of these metadata unless it is one of ours, of that kind. Throws ERR_MODEL_FORMAT. */
export function checkKind(file: string, metadata: FileHeader['metadata'], kind: keyof typeof expected): void {
  checkOwn(file, metadata, kind);
  const actual = kindIn(metadata);
  if (actual === kind) return;
  throw new DdadError('ERR_MODEL_FORMAT', `${file}: expected a ${kind}, got ${kindNames[actual] ?? `a ${actual}`}`);
}

/** The metadata of a file of ours, read from its header alone; of any kind, and refused as the wanted one. */
async function readOwn(file: string, kind: keyof typeof expected): Promise<Record<string, unknown>> {
  const metadata = await readMetadata(file);
  checkOwn(file, metadata, kind);
  return metadata;
}

/** Whether a file is a safetensors file that this package wrote, of this kind where one is named. */
export function isOwnFile(file: string, kind?: 'model' | 'checkpoint' | 'weights'): Promise<boolean> {
  return readOwn(file, 'model').then(
    (metadata) => kind === undefined || metadata['kind'] === kind,
    () => false,
  );
}

/** The metadata of a file of this kind. */
async function readKind(file: string, kind: keyof typeof expected): Promise<Record<string, unknown>> {
  const metadata = await readMetadata(file);
  checkKind(file, metadata, kind);
  return metadata;
}

/** The configuration of a model, or that in a checkpoint. */
export async function readStoredConfig(file: string): Promise<StoredConfig> {
  return parseStoredConfig(textOf((await readOwn(file, 'model'))['config']), file);
}

/** The configuration of a model. */
export async function readModel(file: string): Promise<StoredConfig> {
  return parseStoredConfig(textOf((await readKind(file, 'model'))['config']), file);
}

/** The configuration and position of a checkpoint. */
export async function readCheckpoint(file: string): Promise<Checkpoint> {
  const metadata = await readKind(file, 'checkpoint');
  const config = parseModelConfig(textOf(metadata['config']), file);
  if (!isObject(config['checkpoint'])) {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: the checkpoint does not say where its run stands`);
  }
  const state = parse(checkpointState, config['checkpoint'], 'ERR_MODEL_FORMAT', `${file}: in its checkpoint, `);
  const refuse = (why: string): never => {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: in its checkpoint, ${why}`);
  };
  // the engine goes on from its own number, the order of the images from this one; what is no number the engine refuses
  const step = textOf(metadata['step']);
  if (/^\d+$/.test(step) && Number(step) !== state.step) refuse(`step: expected ${step}, got ${state.step}`);
  const looks = state.early?.looks ?? [];
  if (looks.some((look, i) => look.step <= (looks[i - 1]?.step ?? 0) || look.step > state.step)) {
    refuse(`early.looks: expected ascending steps up to ${state.step}`);
  }
  const total = state.early?.total;
  const least = Math.max(state.step, (looks.at(-1)?.step ?? Infinity) + 1);
  if (total !== undefined && !(total >= least)) refuse(`early.total: expected ${least} steps or more, got ${total}`);
  if (state.digests && state.digests.length !== state.images) {
    refuse(`digests: expected ${state.images} of them, got ${state.digests.length}`);
  }
  delete config['checkpoint'];
  return { config, state };
}
