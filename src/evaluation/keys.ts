/**
 * Floats as unsigned integers whose ascending order is the descending order of the floats, so that a sweep from the
 * highest threshold down reads sorted keys forward. Takes the bits of a finite float; -0 and 0 have the same key.
 */
export function keyOfBits(bits: number): number {
  if (bits < 0x80000000) return ~bits & 0x7fffffff;
  return bits === 0x80000000 ? 0x7fffffff : bits;
}

const floats = new Float32Array(1);
const bitsOfFloats = new Uint32Array(floats.buffer);

/** The float that a key stands for. */
export function valueOfKey(key: number): number {
  bitsOfFloats[0] = key < 0x80000000 ? ~key & 0x7fffffff : key;
  return floats[0] as number;
}

/** Whether the bits are those of NaN or an infinity. */
export function isNotFinite(bits: number): boolean {
  return (bits & 0x7f800000) === 0x7f800000;
}

/** Words of a record: a key; or a key and the area of the region that the pixel is in. */
export type Stride = 1 | 2;

const digits = [
  { shift: 0, mask: 0x7ff },
  { shift: 11, mask: 0x7ff },
  { shift: 22, mask: 0x3ff },
] as const;

/**
 * Sorts the records in the first `length` words by their keys, ascending and stable. Returns whichever of the two arrays
 * holds the result; the other one is as large and is overwritten.
 */
export function sortRecords(records: Uint32Array, spare: Uint32Array, length: number, stride: Stride): Uint32Array {
  let [from, to] = [records, spare];
  const starts = new Uint32Array(0x800);
  for (const { shift, mask } of digits) {
    starts.fill(0);
    for (let i = 0; i < length; i += stride) {
      const digit = ((from[i] as number) >>> shift) & mask;
      starts[digit] = (starts[digit] as number) + stride;
    }
    // Keys that all have the same digit are in order already.
    if (length > 0 && starts[((from[0] as number) >>> shift) & mask] === length) continue;
    for (let digit = 0, sum = 0; digit <= mask; digit++) {
      const count = starts[digit] as number;
      starts[digit] = sum;
      sum += count;
    }
    for (let i = 0; i < length; i += stride) {
      const key = from[i] as number;
      const digit = (key >>> shift) & mask;
      const at = starts[digit] as number;
      starts[digit] = at + stride;
      to[at] = key;
      if (stride === 2) to[at + 1] = from[i + 1] as number;
    }
    [from, to] = [to, from];
  }
  return from;
}
