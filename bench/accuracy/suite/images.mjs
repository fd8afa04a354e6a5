// Which images of a set a run takes: all, or for a short run some of each folder.
import { findImages, splitHeldBack } from '../../../dist/data/dataset.js';
import { findTestImages, readMask } from '../../../dist/evaluation/test-set.js';
import { groupOf } from './halves.mjs';

/** As the package splits by default; the peers get the same images for their threshold. */
export const holdOut = 0.1;

/** The items by what `keyOf` says, in the order of the first of each. */
export function grouped(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return groups;
}

/** Evenly spread over the list. */
function some(list, most) {
  if (list.length <= most) return list;
  return Array.from({ length: most }, (_, i) => list[Math.floor((i * list.length) / most)]);
}

/**
 * The images of a dataset folder: `{ train, heldBack, all, test }`, `all` the good ones that training gets, of which it
 * holds back the same. `most` limits them: `train`, `good`, and `synthetic` and `real` ones of each folder.
 */
export async function imagesOf(folder, { seed, most = {} }) {
  const { files } = await findImages(folder);
  const all = some(files, most.train ?? Infinity);
  const { groups } = await findTestImages(folder);
  const byFolder = grouped(groups[0].images, ({ defect }) => defect);
  const test = [...byFolder].flatMap(([defect, images]) => {
    if (defect === 'good') return some(images, most.good ?? Infinity);
    const place = groupOf(defect);
    return some(images, most[place.group] ?? Infinity).map((one) => ({ ...one, ...place }));
  });
  const { train, heldBack } = splitHeldBack(all, holdOut, seed);
  return { all, train, heldBack, test };
}

/** The pixels of an image's mask, or null; checks that they are those of its map. */
export async function maskFor({ mask, input }, { width, height }) {
  if (mask === null) return null;
  const read = await readMask(mask, {});
  if (read.width !== width || read.height !== height) {
    throw new Error(`${mask}: expected ${width} x ${height}, the size of ${input}, got ${read.width} x ${read.height}`);
  }
  return read.data;
}
