import { types } from 'node:util';
import type { Claim } from './memory-budget.js';
import { DdadError, messageOf } from '../base/errors.js';
import { checkRaw, encodedView, type ImageInput, isRaw, type RawImage } from './decode.js';

/** An image that nobody else can change: a file's path, or memory of its own. */
export type HeldImage = string | Uint8Array | RawImage;

type View = Uint8Array | Uint16Array | Float32Array;

export interface HoldOptions {
  /** Takes the memory over instead of copying it. */
  transfer?: boolean | undefined;
  limitInputPixels?: number | undefined;
  /** Takes the bytes that are held. */
  claim: Claim;
}

/** The memory of a view that is all of its buffer, which the caller cannot reach any more. Throws ERR_ARGUMENT. */
function takeOver<T extends View>(view: T, claim: Claim): T {
  const { buffer, byteLength } = view;
  if (types.isSharedArrayBuffer(buffer)) {
    throw new DdadError(
      'ERR_ARGUMENT',
      'transfer: expected a view of an ArrayBuffer, got one of a SharedArrayBuffer, which others keep',
    );
  }
  if (byteLength !== buffer.byteLength) {
    throw new DdadError(
      'ERR_ARGUMENT',
      `transfer: expected a view of its whole ArrayBuffer, got ${byteLength} of its ${buffer.byteLength} bytes`,
    );
  }
  claim.hold(byteLength);
  const Type = view.constructor as new (from: ArrayBuffer) => T;
  const refused = (why: string, cause?: unknown): DdadError =>
    new DdadError('ERR_ARGUMENT', `transfer: the ArrayBuffer cannot be taken over: ${why}`, { cause });
  let moved: ArrayBuffer;
  try {
    moved = structuredClone(buffer, { transfer: [buffer] });
  } catch (cause) {
    throw refused(messageOf(cause), cause);
  }
  if (buffer.byteLength > 0) throw refused('others keep it'); // that of a WebAssembly.Memory
  return new Type(moved);
}

function copyOf<T extends View>(view: T, claim: Claim): T {
  claim.hold(view.byteLength);
  return view.slice() as T; // never in shared memory, whatever it is a copy of
}

/**
 * Makes an image the detector's own, at once: what the caller does with the memory afterwards changes no verdict. Pixels
 * are checked before they are copied. Throws ERR_IMAGE, ERR_BUSY, ERR_MEMORY, ERR_ARGUMENT.
 */
/** Throws ERR_ARGUMENT for memory that has been transferred elsewhere: nothing of it is left to look at. */
function checkAttached(memory: ArrayBufferLike): void {
  if (memory.byteLength > 0 || types.isSharedArrayBuffer(memory)) return;
  try {
    void new Uint8Array(memory);
  } catch (cause) {
    throw new DdadError('ERR_ARGUMENT', 'score: expected an image, got memory that was transferred elsewhere', {
      cause,
    });
  }
}

const memoryOf = (data: View | ArrayBufferLike): ArrayBufferLike => (ArrayBuffer.isView(data) ? data.buffer : data);

export function holdImage(image: ImageInput, { transfer = false, limitInputPixels, claim }: HoldOptions): HeldImage {
  if (typeof image === 'string') return image;
  const hold = transfer ? takeOver : copyOf;
  const memory: unknown = isRaw(image) ? image.data : image;
  if (ArrayBuffer.isView(memory) || types.isAnyArrayBuffer(memory)) checkAttached(memoryOf(memory as View));
  if (!isRaw(image)) return hold(encodedView(image), claim);
  const { width, height, channels } = image;
  const data = checkRaw({ width, height, channels, data: image.data }, limitInputPixels);
  return { data: hold(data, claim), width, height, channels };
}
