import type { Options } from 'yargs';
import { scoreKinds, type ScoringOptions } from '../config/options.js';
import { number, parseNumbers, parseTopPixels, text } from './usage.js';

export interface ScoringArguments {
  score?: (typeof scoreKinds)[number];
  scales?: string;
  alpha?: number;
  normalization?: 'calibration' | 'per-image' | 'none';
  smoothing?: number;
  topPixels?: string;
}

/** Options that let a model score in another way than it was calibrated for. */
export const scoringFlags = {
  score: { choices: scoreKinds, describe: "Judge by another score; the model's threshold does not hold then" },
  scales: text('scales', "Noise steps to score, of the model's", 'all'),
  alpha: number('alpha', 'Weight of the pixel-level score, 0 to 1', "the model's"),
  normalization: {
    choices: ['calibration', 'per-image', 'none'],
    describe: "How scores are normalised  [default: the model's]",
  },
  smoothing: number('smoothing', "Width of the map's smoothing in pixels that the model sees", "the model's"),
  'top-pixels': text('top-pixels', 'Score: mean of so many of the largest map values, or a share: 50%', "the model's"),
} satisfies Record<string, Options>;

/** What those options ask for; nothing where none is given. */
export function scoringOf(argv: ScoringArguments): ScoringOptions | undefined {
  const { score: kind, scales, alpha, normalization, smoothing, topPixels } = argv;
  const overrides: ScoringOptions = {
    ...(kind === undefined ? {} : { kind }),
    ...(scales === undefined ? {} : { scales: parseNumbers('scales', scales) }),
    ...(alpha === undefined ? {} : { alpha }),
    ...(normalization === undefined ? {} : { normalization }),
    ...(smoothing === undefined ? {} : { smoothing }),
    ...(topPixels === undefined ? {} : { topPixels: parseTopPixels(topPixels) }),
  };
  return Object.keys(overrides).length === 0 ? undefined : overrides;
}
