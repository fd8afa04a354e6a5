import type { ScoreResult } from '../scoring/result.js';
import type { EvaluatedImage } from '../evaluation/types.js';
import type { ScoreMap } from '../image/heatmap.js';
import type { ImageInput } from '../image/decode.js';
import {
  encodedThumbnail,
  mapThumbnail,
  maskThumbnail,
  type PackedMap,
  packMap,
  photoThumbnail,
  type Thumbnail,
} from './thumbnails.js';
import {
  type ReconstructionThumbnails,
  reconstructionThumbnails,
  type ReportedReconstruction,
} from './reconstructions.js';
import type { Shots } from './view.js';

export const mapKinds = ['pixelMap', 'featureMap'] as const;
export type MapKind = (typeof mapKinds)[number];

/** What a report shows of a score; a map is absent or null where the model has no score of that kind. */
export type ReportedResult = Pick<ScoreResult, 'heatmap'> & { [Kind in MapKind]?: ScoreMap | null | undefined };

/** An image of the evaluation with its pixels and, where there is one, the file of its mask. */
export interface ReportEntry {
  image: EvaluatedImage;
  input: ImageInput;
  mask: string | null;
  result: ReportedResult;
  /** Shown beside it, with the images of the way there. */
  reconstruction?: ReportedReconstruction | undefined;
}

/** An image while it waits for the evaluation to be complete: what the colours of its maps mean is not known yet. */
export interface StoredEntry extends Record<MapKind, PackedMap | null> {
  image: EvaluatedImage;
  original: Thumbnail;
  mask: Thumbnail | null;
  overlay: Thumbnail;
  reconstruction: ReconstructionThumbnails | null;
}

/** Where the colours of the maps of a kind begin and end. */
export type MapRanges = Record<MapKind, [number, number] | null>;

/** Makes the thumbnails of an image; one picture at a time, so that a large one is in memory but once. */
export async function storeEntry(entry: ReportEntry, limitInputPixels: number | undefined): Promise<StoredEntry> {
  const { image, input, mask, result, reconstruction } = entry;
  return {
    image,
    original: await photoThumbnail(input, limitInputPixels),
    mask: mask === null ? null : await maskThumbnail(mask, limitInputPixels),
    overlay: await encodedThumbnail(await result.heatmap()),
    reconstruction: reconstruction ? await reconstructionThumbnails(input, reconstruction, limitInputPixels) : null,
    pixelMap: result.pixelMap ? packMap(result.pixelMap) : null,
    featureMap: result.featureMap ? packMap(result.featureMap) : null,
  };
}

/** An entry as a line of text, and back. */
export function toLine(entry: StoredEntry): string {
  // Later versions of Node also end a line at these two separators, which file names may hold.
  const text = JSON.stringify(entry).replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029');
  return `${text}\n`;
}

export function fromLine(line: string): StoredEntry {
  return JSON.parse(line) as StoredEntry;
}

/** All pictures of an entry, its maps in colours. */
export async function picturesOf(entry: StoredEntry, ranges: MapRanges, colours: Uint8Array): Promise<Shots> {
  const colour = async (kind: MapKind): Promise<Thumbnail | null> => {
    const map = entry[kind];
    const range = ranges[kind];
    return map && range && mapThumbnail(map, range, colours);
  };
  const { original, mask, overlay } = entry;
  return {
    original,
    mask,
    overlay,
    ...(entry.reconstruction ?? { reconstruction: null, difference: null, rounds: null }),
    pixelMap: await colour('pixelMap'),
    featureMap: await colour('featureMap'),
  };
}
