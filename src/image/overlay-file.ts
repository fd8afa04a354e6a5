import { crc32 } from 'node:zlib';
import { readStart } from '../files/read.js';

/** A PNG's text chunk with the name of the program; stands behind its header. */
export const pictureChunk = ((): Buffer => {
  const body = Buffer.from('tEXtSoftware\0ddad-native', 'latin1');
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(body.length - 4);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
})();
/** The signature and the header, which every PNG begins with. */
export const pngStart = 8 + 25;

/** Whether a file has that chunk; throws where it cannot be read. */
export async function isOwnPicture(file: string): Promise<boolean> {
  return (await readStart(file, pngStart + pictureChunk.length)).subarray(pngStart).equals(pictureChunk);
}

/** Whether a file is a picture that ddad-native has written. */
export const isPicture = (file: string): Promise<boolean> => isOwnPicture(file).catch(() => false);

/** What overlays are called that `score` writes. */
export const overlayName = /\.heatmap\.png$/;
