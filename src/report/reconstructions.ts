import sharp from 'sharp';
import { decodeImage, type ImageInput, resizePixelsTo } from '../image/decode.js';
import type { ReconstructedImage, Reconstruction } from '../scoring/reconstruct.js';
import { encode, mapThumbnail, packMap, palette, type Thumbnail } from './thumbnails.js';

/** What a report shows of a reconstruction. */
export type ReportedReconstruction = Pick<Reconstruction, 'image' | 'trajectory'>;

export interface ReconstructionThumbnails {
  reconstruction: Thumbnail;
  /** Mean over the channels of how far each pixel has moved. */
  difference: Thumbnail;
  /** The original and the images of the way to the reconstruction, side by side. */
  rounds: Thumbnail | null;
}

/** A pixel that has moved by so much of the whole range is as bright as can be. */
const mostDifference = 0.3;
/** Sides of a picture, and of one in the strip. */
const side = 320;
const stripSide = 160;

const bytesOf = ({ data }: ReconstructedImage): Uint8Array => Uint8Array.from(data, (v) => Math.round(255 * v));

function toSharp(image: ReconstructedImage): sharp.Sharp {
  const { width, height, channels } = image;
  return sharp(bytesOf(image), { raw: { width, height, channels } });
}

/** The original as the network saw it, in 0..1. */
async function originalOf(
  input: ImageInput,
  { width, height, channels }: ReconstructedImage,
  limitInputPixels: number | undefined,
): Promise<ReconstructedImage> {
  const pixels = await resizePixelsTo(await decodeImage(input, { channels, limitInputPixels }), width, height);
  const most = pixels.data instanceof Uint16Array ? 65535 : 255;
  return { data: Float32Array.from(pixels.data, (v) => v / most), width, height, channels };
}

/** Pictures side by side in one. */
async function strip(images: readonly ReconstructedImage[]): Promise<Thumbnail> {
  const { width, height } = images[0] as ReconstructedImage;
  const scale = stripSide / Math.max(width, height);
  const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  const parts = await Promise.all(
    images.map((image) => toSharp(image).resize(w, h, { fit: 'fill' }).toColourspace('srgb').png().toBuffer()),
  );
  const gap = 4;
  const canvas = { width: parts.length * (w + gap) - gap, height: h, channels: 3 as const, background: '#ffffff' };
  const placed = parts.map((part, i) => ({ input: part, left: i * (w + gap), top: 0 }));
  // a PNG between, since a canvas is encoded before what is put upon it
  return encode(sharp(await sharp({ create: canvas }).composite(placed).png().toBuffer()), { quality: 75 });
}

/** The pictures of a reconstruction; reads the original again. Throws ERR_IMAGE. */
export async function reconstructionThumbnails(
  input: ImageInput,
  { image, trajectory }: ReportedReconstruction,
  limitInputPixels: number | undefined,
): Promise<ReconstructionThumbnails> {
  const original = await originalOf(input, image, limitInputPixels);
  const { width, height, channels } = image;
  const moved = new Float32Array(width * height);
  for (let i = 0; i < image.data.length; i++) {
    const at = Math.floor(i / channels);
    const difference = Math.abs((image.data[i] as number) - (original.data[i] as number)) / channels;
    moved[at] = (moved[at] as number) + difference;
  }
  const small = toSharp(image).resize({ width: side, height: side, fit: 'inside', withoutEnlargement: true });
  return {
    reconstruction: await encode(small, { quality: 75 }),
    difference: await mapThumbnail(packMap({ data: moved, width, height }), [0, mostDifference], await palette()),
    rounds: trajectory.length > 0 ? await strip([original, ...trajectory.map((one) => one.image)]) : null,
  };
}
