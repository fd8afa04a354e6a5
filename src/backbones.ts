import path from 'node:path';

/** Names of pretrained networks that come with this package or with `ddad-native-backbones`. */
export const backboneNames = ['lite0', 'lite1', 'lite2'] as const;
const optional = 'ddad-native-backbones';

/**
 * The weights file that an option means: a name of {@link backboneNames}, else the file itself. The optional package is
 * looked for from this package and from the working directory. Undefined where it is not installed.
 */
export function findBackbone(backbone: string): string | undefined {
  if (!(backboneNames as readonly string[]).includes(backbone)) return backbone;
  if (backbone === 'lite0') return path.join(__dirname, '..', 'weights', 'efficientnet-lite0-backbone.safetensors');
  try {
    const paths = [__dirname, process.cwd()];
    return require.resolve(`${optional}/weights/efficientnet-${backbone}-backbone.pth`, { paths });
  } catch {
    return undefined; // not installed
  }
}

/** What an option says that names a backbone which is not there. */
export const missingBackbone = (backbone: string): string =>
  `expected the package ${optional} to be installed, which has "${backbone}", or a weights file`;
