// What the copy of an image costs that is given as memory: how long a call of score() holds JavaScript's thread for it.
//   node bench/ours/copies.mjs
// Prints a JSON line for each size: milliseconds of a copy into fresh memory, and of taking the memory over (transfer).
import held from '../../dist/image/held-image.js';

const claim = { hold: () => undefined };
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const rounds = 15;

function time(make, options) {
  const times = [];
  for (let round = 0; round < rounds; round++) {
    const image = make();
    const start = performance.now();
    held.holdImage(image, { ...options, claim });
    times.push(performance.now() - start);
  }
  return Number(median(times).toFixed(3));
}

const raw = (width, height, channels, Type) => () => ({
  data: new Type(width * height * channels).fill(1),
  ...{ width, height, channels },
});
const cases = {
  '0.3 megapixels, gray': raw(640, 480, 1, Uint8Array),
  '5 megapixels, gray': raw(2592, 1944, 1, Uint8Array),
  '12 megapixels, RGB': raw(4000, 3000, 3, Uint8Array),
  '12 megapixels, RGB of 16 bits': raw(4000, 3000, 3, Uint16Array),
  '48 megapixels, RGB': raw(8000, 6000, 3, Uint8Array),
  'encoded, 5 MB': () => new Uint8Array(5_000_000).fill(1),
  'encoded, 50 MB': () => new Uint8Array(50_000_000).fill(1),
};
for (const [image, make] of Object.entries(cases)) {
  const bytes = (make().data ?? make()).byteLength;
  console.log(JSON.stringify({ image, bytes, copyMs: time(make, {}), transferMs: time(make, { transfer: true }) }));
}
