import { randomUUID } from 'node:crypto';
import { link, lstat, open, readFile, unlink } from 'node:fs/promises';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { type DdadError, messageOf } from '../base/errors.js';
import { checkRegular, writeError, writing } from './write.js';
import { isAlive, temporaryBeside } from './leftovers.js';
import { readStart } from './read.js';

const lockContents = z.object({
  program: z.literal('ddad-native'),
  pid: z.number().int().positive(),
  host: z.string(),
  /** When the process began, as the system counts; tells it from a later one of the same number. Null where unknown. */
  began: z.string().nullable(),
  since: z.string(),
  token: z.string(),
});
type LockContents = z.infer<typeof lockContents>;

/** A lock's text is shorter. */
const maxBytes = 4096;
/** Removing a stale lock takes milliseconds; who has not done it by then was ended on the way. */
const turnMs = 10_000;

/** When a process began: ticks since the boot, and which boot. Null where the system does not tell. */
async function beginningOf(pid: number): Promise<string | null> {
  try {
    const [stat, boot] = await Promise.all([
      readFile(`/proc/${pid}/stat`, 'utf8'),
      readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
    ]);
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name before may hold anything
    return `${fields[19]} ${boot.trim()}`;
  } catch {
    return null;
  }
}

function parseLock(text: string): LockContents | undefined {
  try {
    return lockContents.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** Whether the process of a lock is known to have ended; that of another machine never is. */
async function isStale({ pid, host, began }: LockContents): Promise<boolean> {
  if (host !== os.hostname()) return false;
  if (!isAlive(pid)) return true;
  const now = await beginningOf(pid);
  return began !== null && now !== null && began !== now;
}

/**
 * The right to write a file, for as long as a run takes: `<file>.lock` beside it, which names process and machine. The
 * lock of a process of this machine that has ended is taken over.
 */
export class FileLock {
  readonly #lock: string;
  readonly #token: string;

  private constructor(lock: string, token: string) {
    this.#lock = lock;
    this.#token = token;
  }

  /** Throws ERR_FILE_WRITE, also where another run has it. */
  static async take(file: string): Promise<FileLock> {
    const lock = `${file}.lock`;
    const token = randomUUID();
    const contents: LockContents = {
      program: 'ddad-native',
      pid: process.pid,
      host: os.hostname(),
      began: await beginningOf(process.pid),
      since: new Date().toISOString(),
      token,
    };
    const text = `${JSON.stringify(contents)}\n`;
    return writing(file, async () => {
      await checkRegular(file);
      // twice where the first attempt found one that was stale, more often where others want it too
      for (let attempt = 0; attempt < 200; attempt++) {
        if (await create(lock, text)) return new FileLock(lock, token);
        const found = await readStart(lock, maxBytes).then(String, (error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOENT') return undefined; // let go of meanwhile
          throw writeError(file, `its lock ${lock} cannot be read: ${messageOf(error)}`, error);
        });
        if (found === undefined) continue;
        const holder = parseLock(found);
        if (!holder) throw writeError(file, `${lock} is there, and is no lock of ddad-native`);
        if (!(await isStale(holder))) throw heldBy(file, lock, holder);
        await remove(lock, found);
      }
      throw writeError(file, `its lock ${lock} changes hands again and again`);
    });
  }

  /** Lets go of it, unless somebody has removed it and taken one. */
  async release(): Promise<void> {
    const text = await readStart(this.#lock, maxBytes).then(String, () => '');
    if (parseLock(text)?.token === this.#token) await unlink(this.#lock).catch(() => undefined);
  }
}

function heldBy(file: string, lock: string, { pid, host, since }: LockContents): DdadError {
  return writeError(
    file,
    `process ${pid} on ${host} has been training to it since ${since}; remove ${lock} where that process is gone`,
  );
}

/** Makes the lock together with what it holds, so that nobody sees one without; false where there is one. */
async function create(lock: string, text: string): Promise<boolean> {
  const temporary = temporaryBeside(lock);
  const write = async (name: string): Promise<void> => {
    const handle = await open(name, 'wx');
    try {
      await handle.writeFile(text);
    } finally {
      await handle.close();
    }
  };
  const exists = (error: NodeJS.ErrnoException): false => {
    if (error.code === 'EEXIST') return false;
    throw error;
  };
  try {
    await write(temporary);
    return await link(temporary, lock).then(
      () => true,
      (error: NodeJS.ErrnoException) =>
        // file systems without hard links
        ['EPERM', 'ENOTSUP', 'ENOSYS'].includes(error.code ?? '')
          ? write(lock).then(() => true, exists)
          : exists(error),
    );
  } finally {
    await unlink(temporary).catch(() => undefined);
  }
}

/**
 * Removes a lock that was found stale. One process at a time does: between its look and its removal nobody else can put
 * another lock there, since nobody else has removed this one.
 */
async function remove(lock: string, found: string): Promise<void> {
  const turn = `${lock}.takeover`;
  const handle = await open(turn, 'wx').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') return undefined;
    throw error;
  });
  if (!handle) {
    const begun = await lstat(turn).then(
      (at) => at.mtimeMs,
      () => Date.now(),
    );
    if (Date.now() - begun > turnMs) await unlink(turn).catch(() => undefined);
    else await sleep(20);
    return;
  }
  try {
    if ((await readStart(lock, maxBytes).then(String, () => '')) === found) await unlink(lock);
  } finally {
    await handle.close();
    await unlink(turn).catch(() => undefined);
  }
}
