import { randomBytes } from 'node:crypto';
import { lstat, readdir, rm } from 'node:fs/promises';
import path from 'node:path';

/** A file is left alone for so long after its last change: its process may be one of another machine. */
const restMs = 60_000;

/** Temporary names with the number of their process; `native/file/replacement_file.cpp` gives those of files, too. */
const fileName = /^\..+\.ddad-(\d{1,10})-[0-9a-f]{1,16}\.(?:tmp|part)$/;
const folderName = /^ddad-bench-(\d{1,10})-[0-9A-Za-z]{6}$/;

/** What a temporary folder is called, but for six letters that the system adds. */
export const folderPrefix = (): string => `ddad-bench-${process.pid}-`;

/** A name beside `file` for what is to take its place, or is needed on the way there. */
export function temporaryBeside(file: string, kind: 'tmp' | 'part' = 'tmp'): string {
  // Long names stay below the 255 bytes that file systems allow.
  const stem = [...path.basename(file)].slice(0, 40).join('');
  return path.join(path.dirname(file), `.${stem}.ddad-${process.pid}-${randomBytes(4).toString('hex')}.${kind}`);
}

/** Whether there is a process of this number, ours or another user's. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/**
 * Removes what killed processes of this package have left in a folder: files (with `folders`, folders) of such names, of
 * this user, that have not changed for a minute and whose process is gone. What cannot be looked at stays.
 */
export async function removeLeftovers(folder: string, { folders = false } = {}): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    const pid = Number((folders ? folderName : fileName).exec(name)?.[1] ?? 0);
    if (!(pid > 0) || isAlive(pid)) continue;
    const file = path.join(folder, name);
    const at = await lstat(file).catch(() => undefined);
    if (!at || !(folders ? at.isDirectory() : at.isFile())) continue;
    if (at.uid !== (process.getuid?.() ?? at.uid) || Date.now() - at.mtimeMs < restMs) continue;
    await rm(file, { recursive: folders, force: true }).catch(() => undefined);
  }
}
