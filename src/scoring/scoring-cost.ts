import type { StoredConfig } from '../config/config.js';

type ScoredConfig = Pick<StoredConfig, 'features' | 'score'>;

/** Whether images are judged by a map that is neither of the two scores alone. */
function judgedByBoth({ features, score }: ScoredConfig): boolean {
  const { kind = 'ensemble' } = score;
  if (kind === 'feature') return false;
  if (kind === 'padim' || score.evidence) return true;
  if (kind !== 'ensemble' || !features) return false;
  return score.normalization === 'per-image' || (score.alpha > 0 && score.alpha < 1);
}

/** Bytes of the maps of an image: one, one more for the features, and one that both make up. */
export function mapBytes(config: ScoredConfig, pixels: number): number {
  return 4 * pixels * (1 + (config.features ? 1 : 0) + (judgedByBoth(config) ? 1 : 0));
}

/**
 * Bytes that the engine takes on top while it scores an image as large as it is given: the sums and weights of what
 * tiles give, maps that are smoothed, and one that is sorted (native/score/score_lane.cpp).
 */
export function workBytes(config: ScoredConfig, pixels: number): number {
  const { features, score } = config;
  const mosaics =
    1 + (features ? 1 : 0) + (score.memoryBank ? 1 : 0) + (score.evidence ? 1 : 0) + (score.kind === 'padim' ? 1 : 0);
  const places = score.positions ? 2 : 0;
  return 4 * pixels * (2 * mosaics + places + 3);
}
