import { type LookOptions, chooseShare, comparePlaces, type Grids, setPlaces } from './calibration-choices.js';
import {
  calibrationOf,
  combineEvidence,
  evidenceStatistics,
  type RawStatistics,
  thresholdOf,
  typicalRange,
} from '../model/calibration.js';
import { type ModelConfig, pixelSize } from '../config/config.js';
import { evidenceNames, evidenceWeights } from '../config/evidence.js';
import { toEngineJson } from '../config/engine-json.js';
import { damagedCount } from '../data/damage.js';
import { mapRange } from '../image/heatmap.js';
import { bankViews, fillBanks } from './memory-bank.js';
import { callNative, type NativeDetector, type NativeScore } from '../engine/native.js';
import { toGrid } from './positions.js';
import { mapAhead } from '../base/read-ahead.js';
import { scoreImage } from '../scoring/score-image.js';

export interface CalibrateProgress {
  phase: 'calibrate';
  /** Images scored, of `steps`. */
  step: number;
  steps: number;
  done: number;
  elapsedMs: number;
  remainingMs: number;
}

function progressOf(start: number, step: number, steps: number): CalibrateProgress {
  const elapsedMs = performance.now() - start;
  const done = step / steps;
  return { phase: 'calibrate', step, steps, done, elapsedMs, remainingMs: elapsedMs * (1 / done - 1) };
}

/** Yields the progress after each sample that a choice has looked at; returns the choice. */
async function* counted<T>(
  choice: AsyncGenerator<void, T, undefined>,
  progress: () => CalibrateProgress,
): AsyncGenerator<CalibrateProgress, T, undefined> {
  let next = await choice.next();
  for (; next.done !== true; next = await choice.next()) yield progress();
  return next.value;
}

/** Held-back images are scored with the places of the other parts only, else their scores would look too good. */
const parts = 4;
/** Good images of a product that Gaussians of places are fitted on. */
const leastForGaussians = 16;
/** Held-back images that tell whether places help: some to learn them from, and others. */
export const leastForPlaces = 2 * parts;

const tellsPlaces = ({ score }: ModelConfig): boolean =>
  score.positions === true && score.normalization === 'calibration';

/** Good images of a product: trained on, and held back. */
export interface Split {
  train: readonly string[];
  heldBack: readonly string[];
}

const stepsOf = (config: ModelConfig, { train, heldBack }: Split): number =>
  bankViews(config, train).length +
  (tellsPlaces(config) ? 3 : 2) * heldBack.length +
  (config.score.evidence && train.length > 0 ? 2 * damagedCount : 0) +
  (measures(config, heldBack) ? 2 * damagedCount : 0);

/** Whether calibration finds out if places are to be told apart. */
const measures = (config: ModelConfig, files: readonly string[]): boolean =>
  config.training.placesMeasured === true && tellsPlaces(config) && files.length >= leastForPlaces;

/** The evidence judges without Gaussians of places. */
function leaveOutPlaces({ score }: ModelConfig): void {
  if (score.evidence) score.evidence = { ...score.evidence, placeStride: null };
}

interface CalibrateOptions extends LookOptions {
  trained?: readonly string[] | undefined;
}

interface Scored {
  score: number;
  evidence: Float64Array | null;
  range: [number, number];
}

/**
 * Normalisation and threshold from good images that were not trained on: a pass for the statistics of each noise scale,
 * one for those of each place, and one for the scores, since each needs what was found before. With
 * `config.training.placesMeasured` places are told apart only where {@link comparePlaces} finds that it does no harm. Fills in
 * `config.calibration` and `config.threshold` and leaves the detector with that configuration. `label`: of the images'
 * product in a unified model. `trained`: other good images, for the memory bank.
 */
export async function* calibrate(
  detector: NativeDetector,
  config: ModelConfig,
  files: readonly string[],
  { signal, label, trained = [] }: CalibrateOptions = {},
): AsyncGenerator<CalibrateProgress, void, undefined> {
  const start = performance.now();
  const known = bankViews(config, trained, label);
  const wanted = config.score.evidence?.placeStride;
  if (known.length === 0) {
    config.score.memoryBank = null;
    config.score.evidence = null;
  } else if (known.length < leastForGaussians) leaveOutPlaces(config);
  let places = tellsPlaces(config);
  const steps = stepsOf(config, { train: trained, heldBack: files });
  let step = 0;
  const progress = (): CalibrateProgress => progressOf(start, ++step, steps);
  const use = (used: ModelConfig): Promise<void> => callNative(signal, () => detector.setConfig(toEngineJson(used)));
  /** Scores some of the images; `keep` says what is kept of each, so that no maps pile up. */
  const pass = <T>(some: readonly string[], networkSize: boolean, keep: (found: NativeScore) => T) =>
    mapAhead(
      some,
      async (file: string, inner: AbortSignal) =>
        keep(await scoreImage(detector, config, file, { signal: inner, networkSize, label })),
      { ahead: 2, signal },
    );

  await use({ ...config, score: { ...config.score, normalization: 'none' } });
  for await (const image of fillBanks(detector, config, known, { signal, label })) {
    void image;
    yield progress();
  }
  const statistics: RawStatistics[] = [];
  for await (const found of pass(files, true, ({ pixel, feature, memory, rgb, banks }) => ({
    pixel,
    feature,
    memory,
    rgb,
    banks,
  }))) {
    statistics.push(found);
    yield progress();
  }
  config.calibration = calibrationOf(statistics, config.training.quantile);

  const grids: Grids[] = [];
  if (places) {
    await use({ ...config, score: { ...config.score, smoothing: 0, memoryBank: null, evidence: null } });
    const size = pixelSize(config);
    const cells = Math.max(1, Math.round(config.input.size / 4));
    const reduce = ({ pixelMap, featureMap }: NativeScore) => ({
      pixel: toGrid(pixelMap, size, cells),
      feature: featureMap && toGrid(featureMap, size, cells),
    });
    for await (const grid of pass(files, true, reduce)) {
      grids.push(grid);
      yield progress();
    }
  }

  if (measures(config, files)) {
    const comparison = comparePlaces(detector, config, use, files, grids, { signal, label });
    const aligned = yield* counted(comparison, progress);
    config.calibration.aligned = aligned;
    config.score.positions = places = aligned;
    if (!aligned) leaveOutPlaces(config);
  }

  const { evidence } = config.calibration;
  if (evidence && config.score.evidence) {
    if (wanted && !config.score.evidence.placeStride) {
      evidence.places = false; // of this product
      for (const maps of [evidence.mapMean, evidence.mapStd]) maps.splice(config.score.evidence.banks.length);
    }
    if (places) setPlaces(config, grids);
    const { calibration } = config;
    const share = chooseShare(
      detector,
      config,
      (tried) => use({ ...config, calibration: { ...calibration, evidence: { ...evidence, share: tried } } }),
      files,
      { signal, label },
    );
    evidence.share = yield* counted(share, progress);
  }

  const scored: Scored[] = [];
  const folds = places && files.length >= 2 * parts ? parts : 1;
  for (let fold = 0; fold < folds; fold++) {
    if (places)
      setPlaces(
        config,
        grids.filter((_, i) => folds === 1 || i % folds !== fold),
      );
    await use(config);
    const some = files.filter((_, i) => i % folds === fold);
    const keep = ({ score, evidence, map }: NativeScore) => ({ score, evidence, map });
    for await (const { score, evidence, map } of pass(some, false, keep)) {
      scored.push({ score, evidence, range: await mapRange(map) });
      yield progress();
    }
  }
  if (places) setPlaces(config, grids);
  config.calibration.mapRange = typicalRange(scored.map(({ range }) => range));
  const values = scored.flatMap(({ evidence }) => evidence ?? []);
  const combined = config.calibration.evidence && evidenceStatistics(values);
  if (combined) Object.assign(config.calibration.evidence ?? {}, combined);
  const weights = evidenceWeights(evidenceNames(config.score, config.calibration));
  config.threshold = thresholdOf(
    scored.map(({ score, evidence }) => (combined && evidence ? combineEvidence(combined, evidence, weights) : score)),
    config.training.quantile,
  );
  await use(config);
}

/**
 * Calibrates a unified model: each product by its own images, given in the order of the labels. Fills in
 * `config.perProduct`; there is no calibration or threshold of all of them.
 */
export async function* calibrateProducts(
  detector: NativeDetector,
  config: ModelConfig,
  products: readonly Split[],
  signal?: AbortSignal,
): AsyncGenerator<CalibrateProgress, void, undefined> {
  const start = performance.now();
  const steps = products.reduce((sum, split) => sum + stepsOf(config, split), 0);
  const calibrated: [string, Pick<ModelConfig, 'calibration' | 'threshold'>][] = [];
  let step = 0;
  for (const [label, { train, heldBack }] of products.entries()) {
    const productConfig: ModelConfig = { ...config, score: { ...config.score }, calibration: null, threshold: null };
    for await (const one of calibrate(detector, productConfig, heldBack, { signal, label, trained: train })) {
      void one;
      yield progressOf(start, ++step, steps);
    }
    const { calibration, threshold } = productConfig;
    calibrated.push([config.products?.[label] ?? String(label), { calibration, threshold }]);
  }
  config.perProduct = Object.fromEntries(calibrated);
}
