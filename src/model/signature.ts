import { createHash, createPrivateKey, createPublicKey, KeyObject, sign, verify } from 'node:crypto';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { z } from 'zod';
import { atCaller, DdadError, kindOf, messageOf, throwIfAborted, toDdadError } from '../base/errors.js';
import { readError, writing } from '../files/write.js';
import { temporaryBeside } from '../files/leftovers.js';
import { checkKind, type FileHeader, kindIn, readHeader, textOf } from './model-file.js';
import { addon, callNative, type NativeDigest } from '../engine/native.js';
import { parseOptions } from '../config/options.js';
import { openRegular } from '../files/read.js';

/** What is signed begins with it, so that nothing else that the key has signed passes for a model's. */
const purpose = 'ddad-native model blake3 ';
/** Of the content's digest, a point, and of its signature. */
const signatureDigits = 64 + 1 + 128;
const digestDigits = 32;

export const keyOption = z.union([z.string().min(1), z.custom<KeyObject>((value) => value instanceof KeyObject)], {
  error: 'expected a key in PEM, or a KeyObject',
});
export type SigningKey = z.infer<typeof keyOption>;

/** The Ed25519 key of an option; the private one is no public one. Throws ERR_OPTION. */
function keyOf(given: SigningKey, type: 'public' | 'private', option: string): KeyObject {
  const refuse = (why: string, cause?: unknown): never => {
    throw new DdadError('ERR_OPTION', `option "${option}": expected a ${type} Ed25519 key in PEM, got ${why}`, {
      cause,
    });
  };
  // a private key would do, but has no place where models are only loaded
  if (type === 'public' && typeof given === 'string' && /PRIVATE KEY/.test(given)) refuse('a private one');
  let key: KeyObject;
  try {
    const make = type === 'public' ? createPublicKey : createPrivateKey;
    key = given instanceof KeyObject && given.type === type ? given : make(given as string);
  } catch (cause) {
    return refuse('something else', cause);
  }
  if (key.asymmetricKeyType !== 'ed25519') refuse(`one of ${key.asymmetricKeyType ?? 'another kind'}`);
  return key;
}

/** How models name the key that they are signed with: SHA-256 of its public half. */
function fingerprint(key: KeyObject): string {
  const half = key.type === 'private' ? createPublicKey(key) : key;
  return createHash('sha256')
    .update(half.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

const short = (name: string): string => name.slice(0, 16);

/** The content that a signed file states, if its form is right. */
const contentOf = (header: FileHeader): { content: string; signature: string } | undefined => {
  const [, content, signature] = /^([0-9a-f]{64})\.([0-9a-f]{128})$/.exec(textOf(header.metadata['signature'])) ?? [];
  return content === undefined || signature === undefined ? undefined : { content, signature };
};

/** The content that a file states, where the key has signed it; what the file holds is not looked at. */
function signedContent(file: string, header: FileHeader, key: KeyObject): string {
  const refuse = (why: string): never => {
    throw new DdadError('ERR_SIGNATURE', `${file}: ${why}`);
  };
  const expectedKey = short(fingerprint(key));
  const signedBy = textOf(header.metadata['signatureKey']);
  if (textOf(header.metadata['signature']) === '') {
    refuse(`expected a signature of the trusted key ${expectedKey}, got none`);
  }
  if (signedBy !== fingerprint(key)) {
    refuse(`expected a signature of the trusted key ${expectedKey}, got one of ${short(signedBy) || 'an unnamed key'}`);
  }
  const stated = contentOf(header);
  if (!stated || !verify(null, Buffer.from(purpose + stated.content), key, Buffer.from(stated.signature, 'hex'))) {
    return refuse(`expected a signature of the trusted key ${expectedKey}, got one that is not valid`);
  }
  return stated.content;
}

/** The content that a model must have to be what the key has signed. Throws ERR_OPTION, ERR_SIGNATURE. */
export async function trustedContent(file: string, trustedKey: SigningKey): Promise<string> {
  const key = keyOf(trustedKey, 'public', 'trustedKey');
  return signedContent(file, await readHeader(file), key);
}

async function digestOf(file: string, content: boolean, signal?: AbortSignal): Promise<NativeDigest> {
  return JSON.parse(await callNative(signal, (token) => addon().fileDigest(file, content, token))) as NativeDigest;
}

const checkOptions = z.strictObject({ trustedKey: keyOption.optional(), signal: z.instanceof(AbortSignal).optional() });
export type CheckOptions = z.infer<typeof checkOptions>;

/** What a file of this package says of itself, and has been found to keep. */
export interface CheckedModel {
  model: string;
  /** What the file is: `weights` are those of an export. */
  kind: 'model' | 'checkpoint' | 'weights';
  /** Of header and tensors, as it was written and as it is. */
  digest: string;
  digestAlgorithm: 'xxh3-128';
  /** `valid`: of the trusted key; `unchecked`: there is one, and no key was given. */
  signature: 'none' | 'valid' | 'unchecked';
  /** SHA-256 of the public key that it is signed with. */
  signatureKey: string | null;
  /** BLAKE3 of header and tensors, which is what is signed. */
  content: string | null;
}

/**
 * Compares a file of this package (a model, checkpoint or export) with the digest that it was written with, and its
 * signature with a key. Throws ERR_FILE_READ, ERR_MODEL_FORMAT, ERR_SIGNATURE, ERR_OPTION, ERR_ABORTED.
 */
export function checkModel(model: string, options: CheckOptions = {}): Promise<CheckedModel> {
  return atCaller(async () => {
    checkPath('checkModel', model);
    const { trustedKey, signal } = parseOptions(checkOptions, options);
    const header = await readHeader(model);
    const key = trustedKey === undefined ? undefined : keyOf(trustedKey, 'public', 'trustedKey');
    if (key) signedContent(model, header, key);
    const signed = textOf(header.metadata['signature']) !== '';
    const { stated, found, content } = await digestOf(model, signed, signal);
    if (stated === null) {
      throw new DdadError(
        'ERR_MODEL_FORMAT',
        `${model}: has no digest to compare it with: an earlier version wrote it`,
      );
    }
    if (found !== stated) throw changed(model, stated, found);
    const wanted = contentOf(header)?.content;
    if (signed && content !== wanted) {
      const what = `expected the content that was signed, ${wanted ?? 'which its signature does not say'}, got ${content}`;
      throw new DdadError('ERR_SIGNATURE', `${model}: ${what}: the file has been changed since`);
    }
    const signature = !signed ? 'none' : key ? 'valid' : 'unchecked';
    const signatureKey = signed ? textOf(header.metadata['signatureKey']) : null;
    const kind = kindIn(header.metadata) as CheckedModel['kind'];
    return { model, kind, digest: stated, digestAlgorithm: 'xxh3-128', signature, signatureKey, content };
  });
}

/** The engine's words for the same. */
function changed(file: string, stated: string, found: string): DdadError {
  const what = `expected the digest ${stated}, which it was written with, got ${found}`;
  return new DdadError('ERR_MODEL_FORMAT', `${file}: ${what}: the file is damaged, or another program has changed it`);
}

const signOptions = z.strictObject({
  key: keyOption,
  out: z.string().min(1).optional(),
  signal: z.instanceof(AbortSignal).optional(),
});
export type SignOptions = z.infer<typeof signOptions>;

/** What was signed. */
export interface SignedModel {
  model: string;
  digest: string;
  /** BLAKE3 of header and tensors. */
  content: string;
  signatureKey: string;
}

/**
 * Signs a model with a private Ed25519 key: its metadata get a digest of everything (BLAKE3) and the signature of that.
 * Works on a copy of its own, which takes room beside the output for a while, so that what it verifies is what it signs.
 * Replaces the file, or writes `out`. Throws ERR_FILE_READ, ERR_MODEL_FORMAT, ERR_FILE_WRITE, ERR_OPTION, ERR_ABORTED.
 */
export function signModel(model: string, options: SignOptions): Promise<SignedModel> {
  return atCaller(async () => {
    checkPath('signModel', model);
    const { key: given, out = model, signal } = parseOptions(signOptions, options);
    const key = keyOf(given, 'private', 'key');
    checkKind(model, (await readHeader(model)).metadata, 'model'); // refuses early; the copy decides
    return writing(out, () =>
      withCopy(model, out, signal, async (copy) => {
        const header = await readHeader(copy);
        checkKind(copy, header.metadata, 'model');
        const { stated, found } = await digestOf(copy, false, signal);
        if (stated !== null && found !== stated) throw changed(copy, stated, found);
        return writeSigned(copy, out, header, key, signal);
      }),
    );
  });
}

/** Appends the rest of an open file to another. */
async function append(to: FileHandle, from: FileHandle, start: number, signal?: AbortSignal): Promise<void> {
  const piece = Buffer.allocUnsafe(2 ** 20);
  for (let at = start; ;) {
    throwIfAborted(signal);
    const { bytesRead } = await from.read(piece, 0, piece.length, at);
    if (bytesRead === 0) return;
    await to.writeFile(piece.subarray(0, bytesRead));
    at += bytesRead;
  }
}

/**
 * Hands on a copy of a file, beside `out`, which nobody else writes: whatever becomes of the file meanwhile, what is
 * looked at is what is used. Errors about the copy name the file.
 */
async function withCopy<T>(
  file: string,
  out: string,
  signal: AbortSignal | undefined,
  use: (copy: string) => Promise<T>,
): Promise<T> {
  const copy = temporaryBeside(out);
  try {
    const { handle } = await openRegular(file).catch((cause: unknown) => {
      throw readError(file, messageOf(cause), cause);
    });
    try {
      const to = await open(copy, 'wx', 0o600);
      await append(to, handle, 0, signal).finally(() => to.close());
    } finally {
      await handle.close();
    }
    return await use(copy);
  } catch (error) {
    const { code, message } = toDdadError(error);
    if (code === 'ERR_INTERNAL') throw error; // of the system
    throw new DdadError(code, message.replaceAll(copy, file), { cause: error });
  } finally {
    await unlink(copy).catch(() => undefined); // nothing depends on it
  }
}

async function writeSigned(
  copy: string,
  out: string,
  header: FileHeader,
  key: KeyObject,
  signal?: AbortSignal,
): Promise<SignedModel> {
  const signatureFields = {
    digest: '0'.repeat(digestDigits),
    digestAlgorithm: 'xxh3-128',
    signature: '0'.repeat(signatureDigits),
    signatureKey: fingerprint(key),
  };
  const text = Buffer.from(
    JSON.stringify({ __metadata__: { ...signatureFields, ...header.metadata, ...signatureFields }, ...header.tensors }),
  );
  const padded = Buffer.alloc(Math.ceil(text.length / 8) * 8, ' ');
  text.copy(padded);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  // ours come first, so these are the fields and no text within others
  const at = (name: string): number => 8 + padded.indexOf(`"${name}":"`) + name.length + 4;
  const temporary = temporaryBeside(out);
  const handle = await open(temporary, 'wx');
  try {
    try {
      await handle.writeFile(Buffer.concat([length, padded]));
      const from = await open(copy);
      await append(handle, from, header.dataStart, signal).finally(() => from.close());
      const { found, content } = await digestOf(temporary, true, signal);
      const signature = sign(null, Buffer.from(purpose + content), key).toString('hex');
      await handle.write(found, at('digest'));
      await handle.write(`${content}.${signature}`, at('signature'));
      await handle.sync();
      // what is written is what was signed
      const again = await digestOf(temporary, true, signal);
      if (again.stated !== found || again.found !== found || again.content !== content) {
        throw changed(out, found, again.found);
      }
      await rename(temporary, out);
      return { model: out, digest: found, content: content as string, signatureKey: signatureFields.signatureKey };
    } finally {
      await handle.close();
    }
  } catch (error) {
    await unlink(temporary).catch(() => undefined); // the first error is the one to tell
    throw error;
  }
}

/** What replacing a signed file is told with; undefined where there is none of it. */
export async function droppedSignature(file: string): Promise<string | undefined> {
  const header = await readHeader(file).catch(() => undefined); // whatever is there is no signed model
  return header && textOf(header.metadata['signature']) !== '' ? unsignedNow(file) : undefined;
}

export const unsignedNow = (file: string): string =>
  `${file}: the signature is dropped, since the model has been written anew; "ddad-native sign" signs it`;

function checkPath(call: string, model: unknown): void {
  if (typeof model === 'string') return;
  throw new DdadError('ERR_ARGUMENT', `${call}: expected a model's path, got ${kindOf(model)}`);
}
