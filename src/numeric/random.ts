/** Spreads the bits of a 32-bit word (the finaliser of MurmurHash3). */
function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** What a stream is for; streams of different purposes are independent. */
export const streams = {
  split: 1,
  order: 2,
  augment: 3,
  product: 4,
  memoryBank: 5,
  evidence: 6,
  views: 7,
  damage: 8,
} as const;

/**
 * A stream of uniform numbers in [0, 1) that depends on (seed, stream, counter) alone, so that a run can be resumed
 * anywhere with nothing to remember. SFC32, seeded by hashing the three.
 */
export function random(seed: number, stream: number, counter: number): () => number {
  const words = [seed, Math.floor(seed / 2 ** 32), stream, counter, Math.floor(counter / 2 ** 32)];
  let h = 0x9e3779b9;
  const state = [0, 1, 2].map((lane) => {
    for (const word of words) h = mix(h ^ mix((word >>> 0) + lane));
    return h;
  });
  let [a = 0, b = 0, c = 0] = state;
  let d = 1;
  const next = (): number => {
    const t = (a + b + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t;
    return (t >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 12; i++) next();
  return next;
}

/** The numbers 0..n-1 in a random order (Fisher-Yates). */
export function permutation(n: number, next: () => number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    const kept = order[i] as number;
    order[i] = order[j] as number;
    order[j] = kept;
  }
  return order;
}
