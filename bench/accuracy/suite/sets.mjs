// The sets of real images that the suite is made of: where their good images are, and their known defects.
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { downloadCells, splitCells } from '../../../scripts/solar-cells.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/**
 * - `foreign`: the set whose texture is foreign to this one.
 * - `rotated`: the set that this one is a copy of, as parts that lie anywhere.
 * - `options`: what somebody with such parts is told to give, beside the defaults: the fewest.
 * - `real`: what the set's own defects are called in the table.
 */
export const sets = {
  tiles: { foreign: 'cells', options: {}, find: (data) => inLayout(path.join(data, 'magnetic-tile')) },
  cells: { foreign: 'tiles', options: {}, find: (_, cache) => cells(cache) },
  boards: { foreign: 'tiles', options: { mode: 'crop' }, find: (data) => inLayout(path.join(data, 'pcb')) },
  'tiles-rotated': { rotated: 'tiles', options: { rotation: 180 } },
  'cells-rotated': { rotated: 'cells', options: { rotation: 180 } },
};
export const setNames = Object.keys(sets);

/** Where the data of the sets lie beside a clone, and where what is downloaded goes. */
export const defaultData = path.join(root, '..', 'shared', 'data');
export const defaultCache = path.join(root, 'demo-output');

const images = /\.(png|jpe?g)$/i;

async function filesIn(folder) {
  const names = await readdir(folder);
  return names
    .filter((name) => images.test(name))
    .sort()
    .map((name) => path.join(folder, name));
}

/** A dataset in the MVTec AD layout: files by folder, and the masks of anomalous ones. */
async function inLayout(folder) {
  const defects = (await readdir(path.join(folder, 'test'))).filter((name) => name !== 'good').sort();
  const found = {
    train: await filesIn(path.join(folder, 'train', 'good')),
    good: await filesIn(path.join(folder, 'test', 'good')),
    defects: {},
  };
  for (const defect of defects) {
    const files = await filesIn(path.join(folder, 'test', defect));
    const mask = (file) => path.join(folder, 'ground_truth', defect, `${path.parse(file).name}_mask.png`);
    found.defects[defect] = files.map((file) => ({ file, mask: mask(file) }));
  }
  return found;
}

async function cells(cache) {
  const data = await downloadCells(cache, (text) => process.stderr.write(`${text}\n`));
  const split = await splitCells(data);
  const files = (folder) => split[folder].map((name) => path.join(data, name));
  return {
    train: files('train/good'),
    good: files('test/good'),
    defects: { defective: files('test/defective').map((file) => ({ file, mask: null })) },
  };
}
