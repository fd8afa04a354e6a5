// Defaults are chosen on one half of the kinds of defects and reported on the other, and the other way round. Halves are of
// kinds, not of images: what was tuned on a kind knows it. Fixed here, once; nothing of it depends on a seed or a set.
import { kindNames } from './kinds.mjs';

/** In each half something thin, something that covers a region, something of structure and something slow. */
const synthetic = {
  A: ['scratch-thin', 'stain', 'dent', 'missing', 'blur', 'colour'],
  B: ['scratch-wide', 'crack', 'extra', 'foreign', 'brightness'],
};
/** The real kinds of the tiles. The real defects of cells and boards have no kinds: they report and choose nothing. */
const real = {
  A: ['blowhole'],
  B: ['break', 'fray'],
};

export const halfNames = ['A', 'B'];
/** The half that reports what was chosen on one. */
export const otherHalf = { A: 'B', B: 'A' };

function halfWith(halves, kind) {
  return halfNames.find((half) => halves[half].includes(kind)) ?? null;
}

/**
 * What a test folder is: its group (`synthetic`, `real`), its kind, and its half; the half is null where it only reports.
 */
export function groupOf(folder) {
  const kind = folder.replace(/-(low|medium|high)$/, '');
  if (kindNames.includes(kind)) return { group: 'synthetic', kind, half: halfWith(synthetic, kind) };
  return { group: 'real', kind: folder, half: halfWith(real, folder) };
}

/** The kinds of a half, of both groups. */
export const kindsOf = (half) => [...synthetic[half], ...real[half]];
