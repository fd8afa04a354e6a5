import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { DdadError, messageOf } from '../base/errors.js';
import { isFolder } from '../files/write.js';
import { imageExtensions } from '../image/decode.js';
import { isPicture, overlayName } from '../image/overlay-file.js';
import { log } from './output.js';

/** An image to work on, and what its output is called. */
export interface Entry {
  image: string;
  /** Path below the output folder, without an extension; no two entries share it. */
  name: string;
}

export const overlayOf = (out: string, { name }: Entry): string => path.join(out, `${name}.heatmap.png`);

/**
 * Images named on the command line: files as they are, folders with all images below them, in order of their names. Left
 * out of folders are overlays that ddad-native has written, and the pictures that `isOutput` knows: where the output lies
 * in the folder, those of the last run are no photographs.
 */
export async function listImages(
  given: readonly string[],
  isOutput: (file: string) => boolean = () => false,
): Promise<Entry[]> {
  const entries: Entry[] = [];
  const takenNames = new Set<string>();
  const add = (image: string, name: string): void => {
    const stem = name.replace(/\.[^./\\]+$/, '');
    let free = stem;
    for (let i = 2; takenNames.has(free); i++) free = `${stem}-${i}`;
    takenNames.add(free);
    entries.push({ image, name: free });
  };
  let left = 0;
  for (const argument of given) {
    if (!(await isFolder(argument))) {
      add(argument, path.basename(argument));
      continue;
    }
    const names = await readdir(argument, { recursive: true }).catch((cause: unknown) => {
      throw new DdadError('ERR_DATASET', `${argument}: cannot be read: ${messageOf(cause)}`, { cause });
    });
    const found = names
      .filter((name) => imageExtensions.test(name) && !name.split(path.sep).some((part) => part.startsWith('.')))
      .sort((a, b) => (a < b ? -1 : 1));
    const before = [entries.length, left] as const;
    for (const name of found) {
      const file = path.join(argument, name);
      if ((overlayName.test(name) || isOutput(file)) && (await isPicture(file))) left += 1;
      else add(file, name);
    }
    if (entries.length > before[0]) continue;
    const others = left > before[1] ? `nothing but ${left - before[1]} pictures of ddad-native` : 'none';
    throw new DdadError('ERR_DATASET', `${argument}: expected images, found ${others}`);
  }
  if (left > 0) log(`left out: ${left} ${left === 1 ? 'picture' : 'pictures'} of ddad-native`);
  return entries;
}
