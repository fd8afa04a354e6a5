import { type FileHandle, mkdir, open, realpath, rename, stat, unlink } from 'node:fs/promises';
import path from 'node:path';
import { DdadError, messageOf } from '../base/errors.js';
import { removeLeftovers, temporaryBeside } from './leftovers.js';
import { kindOfFile } from './read.js';

/**
 * Makes a folder and those above it. Not `mkdir({ recursive })`, which never returns below file systems that refuse new
 * folders with ENOENT, such as /proc.
 */
export async function makeFolder(folder: string): Promise<void> {
  const make = (): Promise<void> =>
    mkdir(folder).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST' && (await isFolder(folder))) return;
      throw error.code === 'EEXIST' || error.code === 'ENOTDIR' ? await notFolder(folder, error) : error;
    });
  try {
    await make();
  } catch (error) {
    const parent = path.dirname(folder);
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || parent === folder) throw error;
    await makeFolder(parent);
    await make();
  }
}

/** What stands in the place of a folder or of one above it. */
async function notFolder(folder: string, cause: unknown): Promise<DdadError> {
  for (let name = folder; ; name = path.dirname(name)) {
    const at = await stat(name).catch((error: NodeJS.ErrnoException) =>
      error.code === 'ENOTDIR' ? 'below' : undefined,
    );
    if (at === 'below' && path.dirname(name) !== name) continue;
    const actual = typeof at === 'object' ? `a ${kindOfFile(at)}` : 'a link that leads nowhere';
    return writeError(name, `expected a folder, found ${actual}`, cause);
  }
}

export function isFolder(name: string): Promise<boolean> {
  return stat(name).then(
    (at) => at.isDirectory(),
    () => false,
  );
}

export function writeError(file: string, why: string, cause?: unknown): DdadError {
  return new DdadError('ERR_FILE_WRITE', `${file}: cannot be written: ${why}`, { cause });
}

export function readError(file: string, why: string, cause?: unknown): DdadError {
  return new DdadError('ERR_FILE_READ', `${file}: cannot be read: ${why}`, { cause });
}

/** Runs a write; what the system refuses becomes ERR_FILE_WRITE with the file's name, and perhaps some advice. */
export async function writing<T>(file: string, write: () => Promise<T>, advice = ''): Promise<T> {
  try {
    return await write();
  } catch (cause) {
    if (!(cause instanceof Error && 'syscall' in cause)) throw cause;
    throw writeError(file, messageOf(cause) + advice, cause);
  }
}

/** Refuses what no file can take the place of: folders, pipes, devices. Throws ERR_FILE_WRITE. */
export async function checkRegular(file: string): Promise<void> {
  const at = await stat(file).catch(() => undefined);
  if (at?.isDirectory()) throw writeError(file, 'expected a file, found a folder');
  if (at && !at.isFile()) throw writeError(file, `expected a regular file or none, got a ${kindOfFile(at)}`);
}

/**
 * Makes the folder of an output file and makes sure that it can be written, before any work goes into it: some bytes are
 * written beside it. What killed runs have left there goes.
 */
export async function checkWritable(file: string): Promise<void> {
  await writing(file, async () => {
    await checkRegular(file);
    const folder = path.dirname(path.resolve(file));
    await makeFolder(folder);
    await removeLeftovers(folder);
    const probe = temporaryBeside(file);
    const handle = await open(probe, 'wx');
    try {
      await handle.writeFile(Buffer.alloc(4096));
      await handle.sync(); // some file systems find out only now that they are full
    } finally {
      await handle.close().finally(() => unlink(probe));
    }
  });
}

/**
 * A file that is written under another name, flushed and renamed: it is there as a whole or not at all. Throws
 * ERR_FILE_WRITE.
 */
export class WholeFile {
  readonly #file: string;
  readonly #temporary: string;
  readonly #handle: FileHandle;
  #open = true;

  private constructor(file: string, temporary: string, handle: FileHandle) {
    this.#file = file;
    this.#temporary = temporary;
    this.#handle = handle;
  }

  static create(file: string): Promise<WholeFile> {
    return writing(file, async () => {
      await checkRegular(file);
      const temporary = temporaryBeside(file);
      return new WholeFile(file, temporary, await open(temporary, 'wx'));
    });
  }

  append(data: string | Uint8Array): Promise<void> {
    return writing(this.#file, () => this.#handle.appendFile(data));
  }

  /** Puts it in its place. */
  async commit(): Promise<void> {
    try {
      await writing(this.#file, async () => {
        await this.#handle.sync();
        await this.#close();
        await rename(this.#temporary, this.#file);
      });
    } catch (error) {
      await this.discard();
      throw error;
    }
  }

  /** Leaves nothing of it. */
  async discard(): Promise<void> {
    await this.#close().catch(() => undefined); // the first error is the one to tell
    await unlink(this.#temporary).catch(() => undefined);
  }

  async #close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#handle.close();
  }
}

/** Writes a file as a whole or not at all. Throws ERR_FILE_WRITE. */
export async function writeWhole(file: string, data: string | Uint8Array): Promise<void> {
  const whole = await WholeFile.create(file);
  try {
    await whole.append(data);
  } catch (error) {
    await whole.discard();
    throw error;
  }
  await whole.commit();
}

/** Whether two paths lead to one file, by links or not. */
export async function isSameFile(a: string, b: string): Promise<boolean> {
  const real = (file: string): Promise<string> => realpath(file).catch(() => path.resolve(file));
  return (await real(a)) === (await real(b));
}
