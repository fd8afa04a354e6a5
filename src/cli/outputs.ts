// What a command may replace: nothing, an empty file, or one of the kind that it writes. Else it takes --force.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { checkRegular, checkWritable, makeFolder, writeError, writeWhole, writing } from '../files/write.js';
import { isOwnFile } from '../model/model-file.js';
import { isOwnPicture, pictureChunk, pngStart } from '../image/overlay-file.js';
import { readStart } from '../files/read.js';

const startsWith =
  (pattern: RegExp) =>
  async (file: string): Promise<boolean> =>
    pattern.test((await readStart(file, 16_384)).toString('latin1'));

/** How files of each kind are told from others. */
const kinds = {
  model: { what: 'model of ddad-native', is: (file: string) => isOwnFile(file, 'model') },
  checkpoint: { what: 'checkpoint of ddad-native', is: (file: string) => isOwnFile(file, 'checkpoint') },
  weights: { what: 'weights of ddad-native', is: (file: string) => isOwnFile(file, 'weights') },
  graph: { what: 'graph of ddad-native', is: startsWith(/^.{1,8}ddad-native/s) },
  metrics: { what: 'metrics of an evaluation', is: startsWith(/^\{\s*"formatVersion": \d+,\s*"model": /) },
  report: { what: 'report of an evaluation', is: startsWith(/<meta name="generator" content="ddad-native/) },
  measurements: { what: 'measurements of bench', is: startsWith(/^\{"kind":"ddad-native-bench"/) },
  scores: { what: 'scores of ddad-native', is: startsWith(/^\{"image":"(?:[^"\\]|\\.)*","(?:score|error)":/) },
  picture: { what: 'picture of ddad-native', is: isOwnPicture },
};

export const forceFlag = {
  force: { type: 'boolean', default: false, describe: 'Replace files of any other kind, too' },
} as const;

/** Throws ERR_FILE_WRITE where a file would be lost that is none of ours, and for what is no file. */
export async function checkReplaceable(file: string, kind: keyof typeof kinds, force: boolean): Promise<void> {
  await checkRegular(file);
  const size = await stat(file).then(
    (at) => at.size,
    () => 0,
  );
  if (force || size === 0) return;
  const { what, is } = kinds[kind];
  if (await is(file).catch(() => false)) return;
  throw writeError(file, `it exists, and is no ${what}; --force replaces it`);
}

/** The same, and makes sure that the file can be written. */
export async function checkOutput(file: string, kind: keyof typeof kinds, force: boolean): Promise<void> {
  await checkReplaceable(file, kind, force);
  await checkWritable(file);
}

/** Writes a PNG that {@link checkReplaceable} knows again, in a folder that is made. Throws ERR_FILE_WRITE. */
export async function writePicture(file: string, png: Uint8Array): Promise<void> {
  await writing(file, () => makeFolder(path.resolve(path.dirname(file))));
  await writeWhole(file, Buffer.concat([png.subarray(0, pngStart), pictureChunk, png.subarray(pngStart)]));
}
