import type { FileHandle } from 'node:fs/promises';
import { DdadError, messageOf } from '../base/errors.js';
import { NotRegularError, openRegular } from '../files/read.js';

/** What tells a file from one that was put in its place, or written into. */
export interface FileState {
  ino: number;
  size: number;
  mtimeMs: number;
}

/** A file that is open: it is opened once, whatever is read of it. */
export interface OpenImage extends FileState {
  /** Its first `length` bytes, or all that there are. */
  read(length: number): Promise<Uint8Array>;
}

async function readFrom(handle: FileHandle, length: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let at = 0;
  while (at < length) {
    const { bytesRead } = await handle.read(bytes, at, length - at, at);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return at === length ? bytes : bytes.subarray(0, at);
}

function readFailure(file: string, cause: unknown): DdadError {
  const { code } = cause as NodeJS.ErrnoException;
  const why =
    code === 'ENOENT'
      ? 'no such file'
      : cause instanceof NotRegularError
        ? `expected an image, got a ${cause.found}`
        : `cannot be read: ${messageOf(cause)}`;
  return new DdadError('ERR_IMAGE', `${file}: ${why}`, { cause });
}

/** Throws ERR_IMAGE unless a file is what it was when its image was scored. */
export function checkUnchanged(file: string, before: FileState, now: FileState): void {
  if (before.ino === now.ino && before.size === now.size && before.mtimeMs === now.mtimeMs) return;
  const named = ({ size, mtimeMs }: FileState): string => `${size} bytes of ${new Date(mtimeMs).toISOString()}`;
  const what = `expected the file that was scored, ${named(before)}, got another, ${named(now)}`;
  throw new DdadError('ERR_IMAGE', `${file}: has changed since it was scored: ${what}`);
}

/** Opens an image's file for as long as `use` takes. Throws ERR_IMAGE. */
export async function withImageFile<T>(file: string, use: (opened: OpenImage) => Promise<T>): Promise<T> {
  const failed = (cause: unknown): never => {
    throw readFailure(file, cause);
  };
  const named = (why: string): DdadError => new DdadError('ERR_IMAGE', `the image: expected ${why}`);
  if (file === '') throw named('a path, got an empty text');
  if (file.includes('\0')) throw named(`a path without NUL characters, got ${JSON.stringify(file)}`);
  const { handle, stats: at } = await openRegular(file).catch(failed);
  try {
    const read = (length: number): Promise<Uint8Array> => readFrom(handle, Math.min(length, at.size)).catch(failed);
    const { ino, size, mtimeMs } = at;
    return await use({ ino, size, mtimeMs, read });
  } finally {
    await handle.close();
  }
}
