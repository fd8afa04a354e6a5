// Images that clients name by path, below a folder that the operator has opened to them.
import { constants, open, realpath } from 'node:fs/promises';
import path from 'node:path';
import { ServiceError } from './errors.js';
import type { Lease } from './limits.js';

/** Whether a path is that of something below a folder; both absolute. */
function isBelow(folder: string, file: string): boolean {
  const way = path.relative(folder, file);
  return way !== '' && way !== '..' && !way.startsWith(`..${path.sep}`) && !path.isAbsolute(way);
}

/** Whether a relative path leaves its folder, even if it comes back: whether it does would tell the folder's name. */
function leaves(given: string): boolean {
  let depth = 0;
  return given.split(path.sep === '/' ? '/' : /[\\/]/).some((word) => {
    if (word === '..') depth -= 1;
    else if (word !== '' && word !== '.') depth += 1;
    return depth < 0;
  });
}

/** The bytes of an image below the folder, which count in the lease. No message says where the folder is. */
export async function readImageFile(
  folder: string | undefined,
  given: unknown,
  maxBytes: number,
  lease: Pick<Lease, 'grow'>,
): Promise<Buffer> {
  if (folder === undefined) {
    throw new ServiceError('ERR_FORBIDDEN', 'images by path are refused unless the service is started with --images');
  }
  if (typeof given !== 'string' || given === '' || given.includes('\0')) {
    throw new ServiceError('ERR_REQUEST', 'path: expected the path of an image below the folder of images');
  }
  const outside = new ServiceError('ERR_FORBIDDEN', 'path: leads out of the folder of images');
  const missing = new ServiceError('ERR_NOT_FOUND', `path: there is no image "${given}"`);
  // First by its words, so that no answer tells whether something outside exists; then by where links lead.
  const named = path.resolve(folder, given);
  if (path.isAbsolute(given) || leaves(given) || !isBelow(path.resolve(folder), named)) throw outside;
  const [root, file] = await Promise.all([realpath(folder), realpath(named)]).catch(() => {
    throw missing;
  });
  if (!isBelow(root, file)) throw outside;
  // Opening never waits, for the writer of a pipe say; what was opened is then looked at.
  const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOCTTY ?? 0);
  const handle = await open(file, flags).catch(() => {
    throw missing;
  });
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw missing;
    if (stats.size > maxBytes) {
      throw new ServiceError('ERR_TOO_LARGE', `expected at most ${maxBytes} bytes, got ${stats.size}`);
    }
    lease.grow(stats.size);
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}
