// What calibration decides by damage in held-back good images, instead of by constants.
import type { Calibration } from '../model/calibration.js';
import { type ModelConfig, pixelSize } from '../config/config.js';
import { damagedCount, damagedSamples, separationOf } from '../data/damage.js';
import { auroc } from '../numeric/auroc.js';
import type { NativeDetector } from '../engine/native.js';
import { type Grid, placeStatistics } from './positions.js';
import { scoreImage } from '../scoring/score-image.js';

/** How held-back images are looked at. */
export interface LookOptions {
  signal?: AbortSignal | undefined;
  /** Of their product in a unified model. */
  label?: number | undefined;
}

/** The maps of an image, reduced. */
export interface Grids {
  pixel: Grid;
  feature: Grid | null;
}

/** Gives the calibration the statistics of each place. */
export function setPlaces(config: ModelConfig, grids: readonly Grids[]): void {
  const [first] = grids;
  if (!config.calibration || !first) return;
  const pixel = placeStatistics(grids.map((grid) => grid.pixel));
  const features = grids.flatMap((grid) => grid.feature ?? []);
  const feature = features.length > 0 ? placeStatistics(features) : undefined;
  config.calibration.position = {
    width: first.pixel.width,
    height: first.pixel.height,
    pixelMean: pixel.mean,
    pixelStd: pixel.std,
    ...(feature && { featureMean: feature.mean, featureStd: feature.std }),
  };
}

/** What the evidence's share of the map may be, and the one that is taken where others are hardly better. */
const shares = [0, 0.2, 0.4, 0.6, 0.8, 1];
const usualShare = 0.4;
const hardly = 0.002;

/** The share of the evidence with which the map tells damage in good images best; `use` sets a share. Yields per sample. */
export async function* chooseShare(
  detector: NativeDetector,
  config: ModelConfig,
  use: (share: number) => Promise<void>,
  files: readonly string[],
  { signal, label }: LookOptions,
): AsyncGenerator<void, number, undefined> {
  const size = pixelSize(config);
  const samples = async function* () {
    for await (const { image, box } of damagedSamples(config, [files], signal)) {
      yield { map: (await scoreImage(detector, config, image, { signal, networkSize: true, label })).map, box };
    }
  };
  const ensembles: Float32Array[] = [];
  await use(0);
  for await (const { map } of samples()) {
    ensembles.push(map);
    yield;
  }
  const sums = shares.map(() => 0);
  await use(1);
  let n = 0;
  for await (const { map, box } of samples()) {
    const ensemble = ensembles[n++] as Float32Array;
    for (const [i, share] of shares.entries()) {
      const mixed = map.map((value, p) => share * value + (1 - share) * (ensemble[p] as number));
      (sums[i] as number) += separationOf(mixed, size, box) / damagedCount;
    }
    yield;
  }
  const good = shares.filter((_, i) => (sums[i] as number) >= Math.max(...sums) - hardly);
  return good.reduce((a, b) => (Math.abs(b - usualShare) < Math.abs(a - usualShare) ? b : a));
}

/** Places are left out where AUROC is better without them by more than this. */
const leastLoss = 0.01;

/**
 * Whether good and damaged samples of half of the images are told by the ensemble as well with the places of the other
 * half as without: so it is where the images are aligned. Yields per sample.
 */
export async function* comparePlaces(
  detector: NativeDetector,
  config: ModelConfig,
  use: (used: ModelConfig) => Promise<void>,
  files: readonly string[],
  grids: readonly Grids[],
  { signal, label }: LookOptions,
): AsyncGenerator<void, boolean, undefined> {
  const areas: number[] = [];
  for (const positions of [true, false]) {
    const calibration = { ...(config.calibration as Calibration) };
    const tried: ModelConfig = { ...config, calibration, score: { ...config.score, positions, evidence: null } };
    if (positions)
      setPlaces(
        tried,
        grids.filter((_, i) => i % 2 === 0),
      );
    await use(tried);
    const [good, damaged]: [number[], number[]] = [[], []];
    const others = files.filter((_, i) => i % 2 === 1);
    for await (const { image, clean } of damagedSamples(config, [others], signal)) {
      const options = { signal, networkSize: true, label };
      good.push((await scoreImage(detector, config, clean, options)).score);
      damaged.push((await scoreImage(detector, config, image, options)).score);
      yield;
    }
    areas.push(auroc(good, damaged));
  }
  const [withPlaces, without] = areas as [number, number];
  return withPlaces >= without - leastLoss;
}
