import { mkdir, open, rename, stat, unlink } from 'node:fs/promises';
import path from 'node:path';
import { DdadError, messageOf } from './errors.js';

/**
 * Makes a folder and those above it. Not `mkdir({ recursive })`, which never returns below file systems that refuse new
 * folders with ENOENT, such as /proc.
 */
export async function makeFolder(folder: string): Promise<void> {
  const make = (): Promise<void> =>
    mkdir(folder).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST' || !(await isFolder(folder))) throw error;
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

/** Makes the folder of an output file and makes sure that it can be written, before any work goes into it. */
export async function checkWritable(file: string): Promise<void> {
  await writing(file, async () => {
    if (await isFolder(file)) throw writeError(file, 'expected a file, found a folder');
    const folder = path.dirname(path.resolve(file));
    const probe = path.join(folder, `.${path.basename(file)}.${process.pid}.probe`);
    await makeFolder(folder);
    await (await open(probe, 'wx')).close();
    await unlink(probe);
  });
}

/** Writes a file under another name, flushes it and renames it: it is there as a whole or not at all. */
export async function writeWhole(file: string, text: string): Promise<void> {
  const temporary = path.join(path.dirname(file), `.${path.basename(file)}.${process.pid}.tmp`);
  await writing(file, async () => {
    const handle = await open(temporary, 'w');
    try {
      try {
        await handle.writeFile(text);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, file);
    } catch (error) {
      await unlink(temporary).catch(() => undefined); // the first error is the one to tell
      throw error;
    }
  });
}
