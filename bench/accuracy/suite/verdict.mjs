// Whether a candidate becomes a default: chosen on one half of the kinds of defects, it has to gain on the other half on
// at least two sets, whichever half it is that chooses.
import { halfNames, otherHalf } from './halves.mjs';

/** Sets on which the left-out half has to gain. */
export const setsToGain = 2;

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Image AUROC of a row on a half: the mean over the groups, synthetic and real, that the set has of it. */
function auroc(row, half) {
  const groups = Object.entries(row.groups).filter(([label]) => label.endsWith(`/${half}`));
  return groups.length === 0 ? null : mean(groups.map(([, { imageAuroc }]) => imageAuroc));
}

/** The change of image AUROC from the defaults to a candidate, on each set and half: `{ set: { A, B } }`. */
export function gainsOf(results, candidate, method = 'ours') {
  const gains = {};
  for (const set of new Set(results.map((one) => one.set))) {
    const rows = results.filter((one) => one.set === set).flatMap((one) => one.rows);
    const before = rows.find(({ row }) => row === method);
    const after = rows.find(({ row }) => row === `${candidate}/${method}`);
    if (!before || !after) continue;
    gains[set] = Object.fromEntries(
      halfNames.flatMap((half) => {
        const [from, to] = [auroc(before, half), auroc(after, half)];
        return from === null || to === null ? [] : [[half, to - from]];
      }),
    );
  }
  return gains;
}

/**
 * For each half that may choose: whether it would (its mean gain over the sets is above 0), and on which sets the half
 * left out gains. `accepted`: both halves choose, and both times enough sets gain.
 */
export function verdictOf(gains) {
  const halves = halfNames.map((half) => {
    const own = Object.values(gains).flatMap((gain) => gain[half] ?? []);
    const left = otherHalf[half];
    const gaining = Object.keys(gains).filter((set) => gains[set][left] > 0);
    return { half, chosen: own.length > 0 && mean(own) > 0, leftOut: left, gaining };
  });
  const accepted = halves.every(({ chosen, gaining }) => chosen && gaining.length >= setsToGain);
  return { halves, accepted };
}
