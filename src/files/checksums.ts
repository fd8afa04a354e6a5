import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { DdadError, messageOf } from '../base/errors.js';
import { readError } from './write.js';

/** Compares a file with the SHA256SUMS beside it; resolves to its path. Throws ERR_FILE_READ, ERR_MODEL_FORMAT. */
export async function checkSums(file: string): Promise<string> {
  const sums = path.join(path.dirname(file), 'SHA256SUMS');
  const list = await readFile(sums, 'utf8').catch((cause: unknown) => {
    throw readError(sums, messageOf(cause), cause);
  });
  const name = path.basename(file);
  const line = list.split('\n').find((each) => each.slice(66) === name);
  if (line === undefined) throw new DdadError('ERR_MODEL_FORMAT', `${sums}: expected a line for ${name}, got none`);
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash).catch((cause: unknown) => {
    throw readError(file, messageOf(cause), cause);
  });
  const actual = hash.digest('hex');
  if (actual === line.slice(0, 64)) return file;
  throw new DdadError(
    'ERR_MODEL_FORMAT',
    `${file}: expected the SHA-256 ${line.slice(0, 64)} of SHA256SUMS, got ${actual}: the package is damaged`,
  );
}
