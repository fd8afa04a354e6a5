/** What sharp may be given, as it names them. */
export type ImageFormat = 'png' | 'jpeg' | 'tiff' | 'webp' | 'gif' | 'heif';

/** Bytes at the beginning of a file that tell what it is. */
export const headBytes = 1024;

/** Kinds of HEIF that hold AV1, or may hold it. */
const heifBrands = new Set(['avif', 'avis', 'mif1', 'msf1']);

const textAt = (head: Uint8Array, from: number, to: number): string =>
  String.fromCharCode(...head.subarray(Math.min(from, head.length), Math.min(to, head.length)));

/** The format that the first bytes of a file announce, of those that photographs come in. */
export function formatOf(head: Uint8Array): ImageFormat | undefined {
  const start = textAt(head, 0, 12);
  if (start.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (start.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (/^(II[*+]\0|MM\0[*+])/.test(start)) return 'tiff';
  if (/^RIFF[^]{4}WEBP$/.test(start)) return 'webp';
  if (/^GIF8[79]a/.test(start)) return 'gif';
  if (start.slice(4, 8) === 'ftyp' && heifBrands.has(start.slice(8, 12))) return 'heif';
  return undefined;
}

/** Drawings and documents that people take for images, by their first bytes; they are never opened. */
export function drawingIn(head: Uint8Array): 'svg' | 'pdf' | undefined {
  const start = textAt(head, 0, headBytes);
  if (start.startsWith('%PDF-')) return 'pdf';
  return /^(\xef\xbb\xbf)?\s*</.test(start) && /<(\w+:)?svg[\s>]/.test(start) ? 'svg' : undefined;
}
