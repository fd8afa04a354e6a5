// The token that clients have to bring, from a file that the operator keeps.
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { StartError } from './errors.js';

const maxBytes = 1024;
const refuse = (message: string): never => {
  throw new StartError('tokenFile', message);
};

/** Reads it; `warn` is told where others can read it as well. */
export async function readToken(file: string, warn: (message: string) => void = () => undefined): Promise<string> {
  // Without waiting: a FIFO would hold the start up for good.
  const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);
  const handle = await open(file, flags).catch((error: Error) => refuse(`cannot be read: ${error.message}`));
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) refuse(`expected a regular file, got ${file}`);
    if (stats.size > maxBytes) refuse(`expected at most ${maxBytes} bytes, got ${stats.size}`);
    const token = (await handle.readFile('utf8')).trim();
    if (!/^[\w.~+/-]{16,}=*$/.test(token)) {
      refuse(
        'expected one line of at least 16 letters, digits and - . _ ~ + / =, such as "openssl rand -hex 32" prints',
      );
    }
    const others = stats.mode & 0o077;
    if (others && process.platform !== 'win32') {
      warn(
        `${file} can be used by others than its owner (mode ${(stats.mode & 0o777).toString(8)}); chmod 600 ends that`,
      );
    }
    return token;
  } finally {
    await handle.close();
  }
}
