import type { StoredConfig } from '../config/config.js';
import { DdadError } from '../base/errors.js';
import { defined, type ScoringOptions } from '../config/options.js';

/** What is said where a model would need a Gaussian. */
export const lacksGaussian =
  'the model has no Gaussian of good features; "ddad-native fit-padim <model> <dataset> --out <file>" adds one';

type Calibration = StoredConfig['calibration'];

/** Constants of a noise scale each. */
const perScale = ['pixelMean', 'pixelStd', 'featureMean', 'featureStd', 'rgbMean', 'rgbStd'] as const;

/**
 * The configuration of a model that scores in another way than it was calibrated for: other noise scales (of those that
 * it knows, where the scores are normalised by calibration), another weight or normalisation, another kind of score. Its
 * thresholds do not hold for that and are left out. Throws ERR_OPTION for what the model cannot do; that the noise
 * scales are within its chain is for the engine to check.
 */
export function scoredAs(config: StoredConfig, options: ScoringOptions): StoredConfig {
  const overrides = defined(options);
  if (Object.keys(overrides).length === 0) return config;
  const refuse = (name: string, message: string): never => {
    throw new DdadError('ERR_OPTION', `option "${name}": ${message}`);
  };
  // what is changed is the paper's ensemble (11); the evidence beside it would hide that
  const score = { ...config.score, ...overrides, evidence: null };
  const calibrated = score.normalization === 'calibration';
  const { kind = 'ensemble', alpha } = overrides;
  if (!config.features && (kind === 'feature' || (alpha ?? 1) < 1)) {
    refuse(kind === 'feature' ? 'kind' : 'alpha', 'the model has no features, so it has a pixel-level score only');
  }
  const needsHead = score.kind === 'ensemble' || score.kind === 'feature';
  if (config.features?.trained === false && (needsHead || (alpha ?? 1) < 1)) {
    refuse(needsHead ? 'kind' : 'alpha', 'the feature head is not trained, so the model has a pixel-level score only');
  }
  if (kind === 'padim' && !config.padim) refuse('kind', lacksGaussian);
  if (kind === 'rgb' && score.normalization === 'per-image') {
    refuse('normalization', 'the reconstruction error has no per-image normalisation, got "per-image"');
  }
  const kept = score.scales.map((scale) => config.score.scales.indexOf(scale));
  if (calibrated && kept.includes(-1)) {
    const known = config.score.scales.join(', ');
    refuse(
      'scales',
      `expected some of those that the model is calibrated for (${known}), got ${score.scales.join(', ')}`,
    );
  }
  if (new Set(score.scales).size !== score.scales.length) refuse('scales', 'a noise scale is given twice');
  if (!calibrated) score.memoryBank = null;

  const adapt = (calibration: Calibration): Calibration => {
    if (!calibration) {
      if (calibrated) refuse('normalization', 'the model has no calibration, got "calibration"');
      return null;
    }
    const adapted = { ...calibration };
    delete adapted.mapRange; // colours then come from each map itself
    for (const name of calibrated ? perScale : []) {
      const values = calibration[name];
      if (values) adapted[name] = kept.map((at) => values[at] as number);
    }
    if (kind === 'rgb' && calibrated && !calibration.rgbMean) {
      refuse('kind', 'the model was calibrated without the reconstruction error; train it again');
    }
    return adapted;
  };
  const perProduct =
    config.perProduct &&
    Object.fromEntries(
      Object.entries(config.perProduct).map(([name, own]) => [
        name,
        { ...own, calibration: adapt(own.calibration), threshold: null },
      ]),
    );
  return {
    ...config,
    score,
    calibration: config.products ? null : adapt(config.calibration),
    threshold: null,
    ...(perProduct && { perProduct }),
  };
}
