/** `score.evidence` of a configuration, as far as it decides what the score is made of. */
interface Evidence {
  banks: readonly (readonly number[])[];
  image: boolean;
  placeStride?: number | null | undefined;
}

/** Rows of good features that a bank keeps; bench/accuracy has what other numbers gave. */
export const defaultEvidenceRows = 4000;

/**
 * The strides of each bank of features, where the backbone has taps down to stride `depth`; none without stride 16. In
 * tiles (`whole` false) features of stride 32 know little but the tile's border.
 */
export function evidenceBanks(depth: number, whole: boolean): number[][] {
  const banks = [
    [4, 8],
    [8, 16],
    [8, 16, 32],
  ];
  const deepest = whole ? depth : Math.min(depth, 16);
  return depth < 16 ? [] : banks.filter((strides) => strides.every((stride) => stride <= deepest));
}

/** Of the tap that has a Gaussian for each place of aligned images. */
const placeStride = 16;

/**
 * The evidence of a model whose backbone has taps down to stride `depth`; null where it has none. `whole`: it sees whole
 * images; `aligned`: they may be aligned.
 */
export function evidenceOf(
  depth: number,
  { whole, aligned, rows = defaultEvidenceRows }: { whole: boolean; aligned: boolean; rows?: number | undefined },
): { banks: number[][]; rows: number; image: boolean; placeStride?: number } | null {
  const banks = evidenceBanks(depth, whole);
  if (banks.length === 0) return null;
  return { banks, rows, image: whole, ...(whole && aligned ? { placeStride } : {}) };
}

/**
 * What the score of an image is made of: the paper's `ensemble` (11); the largest distance of a patch's features to good
 * ones, of strides 8 and 16 (`local`), down to 32 (`localDeep`) and, in mode `crop`, of 4 and 8 (`localFine`); their mean
 * over the image (`regional`); the distance of the features' statistics over the whole image (`global`); the largest
 * distance of a place's features from their Gaussian, of stride 16 (`place`).
 */
export type EvidenceName = 'ensemble' | 'localFine' | 'local' | 'localDeep' | 'regional' | 'global' | 'place';

const localName = (deepest: number): EvidenceName =>
  deepest >= 32 ? 'localDeep' : deepest >= 16 ? 'local' : 'localFine';

/** How much each value weighs in the score, in the order of {@link evidenceNames}. */
export const evidenceWeights = (names: readonly EvidenceName[]): number[] =>
  names.map((name) => (name === 'place' ? 5 : 1));

/** The names of the values, in the engine's order; none without evidence. */
export function evidenceNames(
  { evidence }: { evidence?: Evidence | null | undefined },
  calibration?: { evidence?: { places?: boolean | undefined } | null | undefined } | null,
): EvidenceName[] {
  if (!evidence) return [];
  const deepest = evidence.banks.map((strides) => Math.max(...strides));
  const judges = deepest.filter((stride) => stride >= 16 || !evidence.image);
  return [
    'ensemble',
    ...judges.map(localName),
    ...(judges.length > 0 ? ['regional' as const] : []),
    ...(evidence.image ? ['global' as const] : []),
    ...(evidence.placeStride && calibration?.evidence?.places !== false ? ['place' as const] : []),
  ];
}
