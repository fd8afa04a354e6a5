import { randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { messageOf } from '../base/errors.js';
import { readError, writing } from '../files/write.js';

const bytesOf = (words: Uint32Array): Uint8Array => new Uint8Array(words.buffer, words.byteOffset, words.byteLength);

const advice = '; the evaluation keeps the pixels there; TMPDIR names another folder';

/**
 * A temporary file of 32-bit words. It has no name while it is in use, where the system allows it, so that it goes with
 * the process however that ends.
 */
export class Spool {
  readonly #file: FileHandle;
  readonly #path: string;
  #named: boolean;
  #end = 0;

  private constructor(file: FileHandle, path: string, named: boolean) {
    this.#file = file;
    this.#path = path;
    this.#named = named;
  }

  /** Throws ERR_FILE_WRITE. */
  static async create(folder: string = os.tmpdir()): Promise<Spool> {
    const name = path.join(folder, `ddad-${process.pid}-${randomUUID()}.tmp`);
    const file = await writing(name, () => open(name, 'wx+', 0o600), advice);
    const named = await unlink(name).then(
      () => false,
      () => true,
    );
    return new Spool(file, name, named);
  }

  /** Appends words; resolves to the position of the first. Throws ERR_FILE_WRITE. */
  async append(words: Uint32Array): Promise<number> {
    const bytes = bytesOf(words);
    const start = this.#end;
    const write = async (): Promise<void> => {
      for (let done = 0; done < bytes.length;) {
        const { bytesWritten } = await this.#file.write(bytes, done, bytes.length - done, start + done);
        done += bytesWritten;
      }
    };
    await writing(this.#path, write, advice);
    this.#end += bytes.length;
    return start / 4;
  }

  /** Fills `words` from a position on. Throws ERR_FILE_READ. */
  async read(position: number, words: Uint32Array): Promise<void> {
    const bytes = bytesOf(words);
    try {
      for (let done = 0; done < bytes.length;) {
        const { bytesRead } = await this.#file.read(bytes, done, bytes.length - done, 4 * position + done);
        if (bytesRead === 0) throw new Error('it has become shorter');
        done += bytesRead;
      }
    } catch (cause) {
      throw readError(this.#path, messageOf(cause), cause);
    }
  }

  /** Removes the file. */
  async close(): Promise<void> {
    await this.#file.close();
    if (!this.#named) return;
    this.#named = false;
    await unlink(this.#path).catch(() => undefined); // nothing depends on it
  }
}
