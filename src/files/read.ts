import type { Stats } from 'node:fs';
import { constants, type FileHandle, open } from 'node:fs/promises';
import { DdadError, messageOf } from '../base/errors.js';

/** What a path names, in a word. */
export function kindOfFile(at: Stats): 'file' | 'folder' | 'pipe' | 'socket' | 'device' {
  if (at.isFile()) return 'file';
  if (at.isDirectory()) return 'folder';
  if (at.isFIFO()) return 'pipe';
  return at.isSocket() ? 'socket' : 'device';
}

/** Why something is not read that is there: a pipe would wait for a writer, a device may never end. */
export class NotRegularError extends Error {
  constructor(readonly found: ReturnType<typeof kindOfFile>) {
    super(`expected a regular file, got a ${found}`);
  }
}

// Windows has neither, nor what they are for.
const flags =
  constants.O_RDONLY |
  ((constants as Partial<typeof constants>).O_NONBLOCK ?? 0) |
  ((constants as Partial<typeof constants>).O_NOCTTY ?? 0);

/**
 * Opens a regular file. Opening never waits, and the kind is that of what was opened, whatever is put in its place
 * meanwhile. Throws the system's error, or {@link NotRegularError}.
 */
export async function openRegular(file: string): Promise<{ handle: FileHandle; stats: Stats }> {
  const handle = await open(file, flags).catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'ENXIO' ? new NotRegularError('socket') : error; // Linux opens no sockets
  });
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw new NotRegularError(kindOfFile(stats));
    return { handle, stats };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function fill(handle: FileHandle, buffer: Buffer): Promise<Buffer> {
  let length = 0;
  for (let read = -1; read !== 0 && length < buffer.length; length += read) {
    ({ bytesRead: read } = await handle.read(buffer, length, buffer.length - length, length));
  }
  return buffer.subarray(0, length);
}

/** The bytes of a regular file. Throws as {@link openRegular} does. */
export async function readRegular(file: string): Promise<Buffer> {
  const { handle, stats } = await openRegular(file);
  try {
    // Files of /proc say 0. The system's reason comes with what is too large for one buffer.
    if (stats.size === 0 || stats.size >= 2 ** 31) return await handle.readFile();
    return await fill(handle, Buffer.allocUnsafeSlow(stats.size));
  } finally {
    await handle.close();
  }
}

/** The first bytes of a regular file, or all where it has fewer. Throws as {@link openRegular} does. */
export async function readStart(file: string, bytes: number): Promise<Buffer> {
  const { handle } = await openRegular(file);
  try {
    return await fill(handle, Buffer.alloc(bytes));
  } finally {
    await handle.close();
  }
}

/** The text of a regular file. Throws ERR_FILE_READ. */
export async function readTextFile(file: string): Promise<string> {
  try {
    return (await readRegular(file)).toString('utf8');
  } catch (cause) {
    throw new DdadError('ERR_FILE_READ', `${file}: cannot be read: ${messageOf(cause)}`, { cause });
  }
}
