import path from 'node:path';
import { packageRoot } from '../base/package.js';
import { DdadError } from '../base/errors.js';

/** The pretrained weights that features come from unless others are given. */
export const defaultBackbone = path.join(packageRoot, 'weights', 'efficientnet-lite0-backbone.safetensors');

/** Names of pretrained networks that come with this package or with `ddad-native-backbones`. */
const names = ['lite0', 'lite1', 'lite2'];
const optional = 'ddad-native-backbones';

/**
 * The weights file that an option means: a name of a packaged network, else the file itself. The optional package is
 * looked for from this package and from the working directory. Throws ERR_OPTION where it is not installed.
 */
export function findBackbone(backbone: string): string {
  if (!names.includes(backbone)) return backbone;
  if (backbone === 'lite0') return defaultBackbone;
  try {
    const paths = [__dirname, process.cwd()];
    return require.resolve(`${optional}/weights/efficientnet-${backbone}-backbone.pth`, { paths });
  } catch (cause) {
    throw new DdadError(
      'ERR_OPTION',
      `option "backbone": expected the package ${optional} to be installed, which has "${backbone}", or a weights file`,
      { cause },
    );
  }
}

/** What a backbone is called in a model: its file's name, which tells one from another. */
export const backboneName = (given: string): string =>
  names.includes(given)
    ? `efficientnet-${given}`
    : path.basename(given).replace(/(-backbone)?\.(safetensors|pth)$/, '');
