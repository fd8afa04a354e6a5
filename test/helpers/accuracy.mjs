// Small images where the accuracy suite looks for its own.
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { pattern, png } from './common.mjs';

/** Datasets as the suite finds them, of small images. */
export async function tinyData(folder, { good = 4, train = 20, side = 72 } = {}) {
  for (const [set, defect] of [
    ['pcb', 'defect'],
    ['magnetic-tile', 'blowhole'],
  ]) {
    const at = (...names) => path.join(folder, set, ...names);
    for (const name of ['train/good', 'test/good', `test/${defect}`, `ground_truth/${defect}`]) {
      await mkdir(at(name), { recursive: true });
    }
    for (let i = 0; i < train; i++) await png(pattern(side, side, i)).toFile(at('train/good', `t${i}.png`));
    for (let i = 0; i < good; i++) await png(pattern(side, side, 50 + i)).toFile(at('test/good', `g${i}.png`));
    await png(pattern(side, side, 3, true)).toFile(at('test', defect, 'd.png'));
    const mask = new Uint8Array(side * side);
    mask.fill(255, (side / 2) * side, (side / 2 + 4) * side);
    await png({ data: mask, width: side, height: side, channels: 1 }).toFile(at('ground_truth', defect, 'd_mask.png'));
  }
  return folder;
}
