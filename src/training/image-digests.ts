import { createHash } from 'node:crypto';
import type { ImageSet } from '../data/dataset.js';
import { DdadError, messageOf, throwIfAborted } from '../base/errors.js';
import type { CheckpointState } from '../model/model-file.js';
import { mapAhead } from '../base/read-ahead.js';
import { openRegular } from '../files/read.js';

/** Small enough that hashing one keeps JavaScript's thread for a fraction of a millisecond. */
const pieceBytes = 256 * 1024;

async function digestOf(file: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  const { handle } = await openRegular(file);
  try {
    const piece = Buffer.allocUnsafe(pieceBytes);
    for (;;) {
      throwIfAborted(signal);
      const { bytesRead } = await handle.read(piece, 0, pieceBytes, null);
      if (bytesRead === 0) break;
      hash.update(piece.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
  return hash.digest().subarray(0, 16).toString('base64url');
}

/** A digest of the bytes of each file: 128 bits of SHA-256 in 22 letters. Throws ERR_IMAGE, ERR_ABORTED. */
export async function digestFiles(files: readonly string[], signal?: AbortSignal): Promise<string[]> {
  const digests: string[] = [];
  const one = (file: string, inner: AbortSignal): Promise<string> =>
    digestOf(file, inner).catch((cause: unknown) => {
      if (cause instanceof DdadError) throw cause;
      throw new DdadError('ERR_IMAGE', `${file}: cannot be read: ${messageOf(cause)}`, { cause });
    });
  for await (const digest of mapAhead(files, one, { ahead: 7, signal })) digests.push(digest);
  return digests;
}

/** Throws ERR_DATASET where the images are not those of a checkpoint, and says which differs. */
export function checkImages(checkpoint: string, state: CheckpointState, images: ImageSet, digests: string[]): void {
  const { files, fingerprint } = images;
  if (state.fingerprint !== fingerprint) {
    const known = new Set(state.digests ?? digests);
    const other = files.find((_, i) => !known.has(digests[i] as string));
    const example = other === undefined ? '' : `, such as ${other}`;
    throw new DdadError(
      'ERR_DATASET',
      `${checkpoint}: was trained on ${state.images} other images; found ${files.length} whose names or sizes ` +
        `differ${example}`,
    );
  }
  const changed = files.find((_, i) => state.digests && state.digests[i] !== digests[i]);
  if (changed === undefined) return;
  throw new DdadError(
    'ERR_DATASET',
    `${checkpoint}: was trained on other images; ${changed} has the name and size of one of them, and other contents`,
  );
}
