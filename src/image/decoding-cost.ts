import type { ImageFormat } from './format.js';

/** What the header of an image says of the work that decoding is; as sharp tells it. */
export interface ImageHeader {
  width: number;
  height: number;
  channels: number;
  deep: boolean;
  /** Also where a JPEG comes in several scans. */
  isProgressive?: boolean | undefined;
  orientation?: number | undefined;
}

/** Rows that libvips holds of an image that comes and goes in strips, its buffers before and behind an operation. */
const stripRows = 1024;
/** What a decoder takes that does not depend on the image. */
const ownBytes = 2 ** 20;

/**
 * Bytes a pixel that a decoder takes for a whole image, beside the pixels that come of it; `raw`: of a pixel as it is in
 * the file. bench/ours/image-memory.mjs measures them.
 */
function wholeBytes(format: ImageFormat, { channels, deep, isProgressive }: ImageHeader, raw: number): number {
  switch (format) {
    case 'png':
      return isProgressive ? raw : 0; // interlaced: all rows are there before the first is
    case 'jpeg':
      return isProgressive ? 2 * channels : 0; // its coefficients
    case 'tiff':
      return raw; // a strip or tile may be all of it
    case 'webp':
      return channels > 3 ? 13 : 12;
    case 'gif':
      return 5;
    case 'heif':
      return (deep ? 26 : 20) + (channels > 3 ? 4 : 0);
  }
}

/** Bytes that decoding an image takes at most, beside the file and the pixels that come of it. */
export function decodingBytes(format: ImageFormat, header: ImageHeader): number {
  const { width, height, channels, deep, orientation = 1 } = header;
  const raw = (deep ? 2 : 1) * channels;
  const strips = raw * width * Math.min(height, stripRows);
  // Turning or mirroring an image needs all of it at once.
  const turned = orientation > 1 ? raw : 0;
  return ownBytes + strips + (wholeBytes(format, header, raw) + turned) * width * height;
}
