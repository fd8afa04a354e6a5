import sharp from 'sharp';
import type { StoredConfig } from './config.js';
import { DdadError } from './errors.js';
import { decodeImage, imageName, type ImageInput } from './image.js';

/** A defect map: row-major, one value a pixel; high where the image differs from good ones. */
export interface ScoreMap {
  data: Float32Array;
  width: number;
  height: number;
}

export interface HeatmapOptions {
  /** Opacity of the strongest colour, 0 to 1 (0.85). */
  opacity?: number | undefined;
  /** Map values where colour begins and where it is strongest; by default from the model's good images. */
  range?: [number, number] | undefined;
  limitInputPixels?: number | undefined;
}

/** The value below which a share `q` of the values lies, by linear interpolation; `sorted` ascends. */
export function quantile(sorted: ArrayLike<number>, q: number): number {
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)] as number;
  const high = sorted[Math.ceil(at)] as number;
  return low + (high - low) * (at - Math.floor(at));
}

/** Median of a map and the end of its normal range (quantile 0.995), from at most 65 536 of its values. */
export function mapRange(map: Float32Array): [number, number] {
  const stride = Math.ceil(map.length / 2 ** 16);
  const sorted = Float32Array.from({ length: Math.ceil(map.length / stride) }, (_, i) => map[i * stride] as number);
  sorted.sort();
  return [quantile(sorted, 0.5), quantile(sorted, 0.995)];
}

/**
 * Where colour begins and is strongest. It begins where the maps of good images end (their quantile 0.995, typical of
 * the held-back images) and is strongest three times as far from their median. A model that does not know its good
 * images is scaled by the map itself.
 */
export function colourRange(config: Pick<StoredConfig, 'calibration'>, map: Float32Array): [number, number] {
  const [middle, end] = config.calibration?.mapRange ?? mapRange(map);
  return [end, middle + 3 * (end - middle)];
}

/** Colours of the heat, low to high, as 256 RGB triples: the part of inferno that is neither dark nor pale. */
async function palette(): Promise<Uint8Array> {
  const { interpolateInferno } = await import('d3-scale-chromatic');
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const hex = interpolateInferno(0.45 + 0.45 * (i / 255)).slice(1);
    for (let c = 0; c < 3; c++) table[3 * i + c] = Number.parseInt(hex.slice(2 * c, 2 * c + 2), 16);
  }
  return table;
}

/** The image with its map laid over as a PNG: below the normal range of good images nothing, then purple to yellow. */
export async function renderHeatmap(
  image: ImageInput,
  map: ScoreMap,
  range: [number, number],
  options: HeatmapOptions,
): Promise<Buffer> {
  const { opacity = 0.85, limitInputPixels } = options;
  const { data, width, height } = await decodeImage(image, { channels: 3, limitInputPixels });
  if (width !== map.width || height !== map.height) {
    const sizes = `expected ${map.width} x ${map.height}, the size of its map, got ${width} x ${height}`;
    throw new DdadError('ERR_IMAGE', `${imageName(image)}: has changed since it was scored: ${sizes}`);
  }
  const [low, high] = options.range ?? range;
  const span = high > low ? high - low : 1;
  const colours = await palette();
  const out = data instanceof Uint16Array ? Uint8Array.from(data, (value) => value / 257) : Uint8Array.from(data);
  for (let i = 0; i < map.data.length; i++) {
    const excess = (map.data[i] as number) - low;
    if (!(excess > 0)) continue;
    const heat = Math.min(1, excess / span);
    const colour = 3 * Math.round(255 * heat);
    // Opacity rises faster than colour, so that a faint excess is seen already.
    const alpha = opacity * Math.sqrt(heat);
    for (let c = 0; c < 3; c++) {
      const under = out[3 * i + c] as number;
      out[3 * i + c] = Math.round(under + alpha * ((colours[colour + c] as number) - under));
    }
  }
  return sharp(out, { raw: { width, height, channels: 3 }, limitInputPixels: false })
    .png()
    .toBuffer();
}
