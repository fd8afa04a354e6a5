// Image entry: files with mutated headers and bytes, truncated ones, ones that claim enormous sizes, and pixels of wrong
// lengths and types. Each call must end in pixels or in a DdadError with a known code, soon, and without much memory.
//   node test/fuzz/images.mjs [--runs 5000] [--seed 1] [--minutes M]
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateSync, crc32 } from 'node:zlib';
import fc from 'fast-check';
import sharp from 'sharp';
import image from '../../dist/image/decode.js';
import modelFile from '../../dist/model/model-file.js';
import { flags } from './flags.mjs';
import { safetensors } from './models.mjs';

const { decodeImage, isGrayFile } = image;
const { readCheckpoint } = modelFile;
const limit = 1_000_000; // pixels
const slowMs = 10_000;
const growthLimit = 400 << 20;
const codes = new Set(['ERR_IMAGE', 'ERR_ARGUMENT', 'ERR_ABORTED']);
const fileCodes = new Set(['ERR_MODEL_FORMAT', 'ERR_FILE_READ']);

const chunk = (type, data) => {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const ends = Buffer.alloc(8);
  ends.writeUInt32BE(data.length, 0);
  const sum = typeof crc32 === 'function' ? crc32(body) : 0;
  ends.writeUInt32BE(sum >>> 0, 4);
  return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
};

/** A PNG that claims a size and holds next to nothing. */
function pngOf(width, height, depth, colour) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width >>> 0, 0);
  header.writeUInt32BE(height >>> 0, 4);
  header.set([depth, colour, 0, 0, 0], 8);
  const signature = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');
  const data = deflateSync(Buffer.alloc(1 << 16));
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))]);
}

function bmpOf(width, height, bits) {
  const file = Buffer.alloc(54 + 64);
  file.write('BM', 'latin1');
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(width | 0, 18);
  file.writeInt32LE(height | 0, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(bits, 28);
  return file;
}

const svg = (width, height) =>
  Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="9" height="9"/></svg>`,
  );

async function samples() {
  const pixels = Uint8Array.from({ length: 24 * 20 * 3 }, (_, i) => (i * 37) % 251);
  const raw = { width: 24, height: 20, channels: 3 };
  const from = () => sharp(pixels, { raw });
  const files = [
    from().png(),
    from().png({ palette: true }),
    from().toColourspace('b-w').png(),
    from().jpeg(),
    from().jpeg({ progressive: true }).withMetadata({ orientation: 6 }),
    from().tiff({ compression: 'lzw' }),
    from().tiff({ compression: 'none', tile: true }),
    from().webp(),
    from().webp({ lossless: true }),
    from().gif(),
  ];
  return [...(await Promise.all(files.map((file) => file.toBuffer()))), bmpOf(4, 4, 24), svg(9, 9), pngOf(9, 9, 8, 2)];
}

/** Changes of bytes, as [place from 0 to 1, what, value]; places early in the file, where headers are, come often. */
const place = fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 0.1, noNaN: true }));
const edit = fc.tuple(
  place,
  fc.constantFrom('set', 'flip', 'cut', 'insert', 'repeat', 'int32', 'int32le', 'int16'),
  fc.oneof(fc.constantFrom(0, 1, 127, 128, 255, 65535, 2 ** 31 - 1, 2 ** 32 - 1), fc.nat({ max: 255 })),
);

function edited(bytes, edits) {
  let file = Buffer.from(bytes);
  for (const [where, what, value] of edits) {
    if (file.length < 8) return file;
    const at = Math.min(file.length - 5, Math.floor(where * file.length));
    if (what === 'set') file[at] = value;
    else if (what === 'flip') file[at] ^= 1 << (value % 8);
    else if (what === 'cut') file = Buffer.concat([file.subarray(0, at), file.subarray(at + (value % 64))]);
    else if (what === 'insert')
      file = Buffer.concat([file.subarray(0, at), Buffer.alloc(value % 64, value), file.subarray(at)]);
    else if (what === 'repeat') file = Buffer.concat([file.subarray(0, at), file.subarray(0, at + (value % 64))]);
    else if (what === 'int32') file.writeUInt32BE(value, at);
    else if (what === 'int32le') file.writeUInt32LE(value, at);
    else file.writeUInt16LE(value % 65536, at);
  }
  return file;
}

const extent = fc.oneof(
  fc.constantFrom(0, 1, 999, 65535, 65536, 100_000, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1),
  fc.nat(),
);
const bomb = fc.tuple(
  fc.constantFrom('png', 'bmp', 'svg'),
  extent,
  extent,
  fc.constantFrom(1, 8, 16, 24, 32),
  fc.nat({ max: 6 }),
);
const odd = fc.oneof(fc.constantFrom(undefined, null, NaN, -1, 0, 1.5, 2 ** 31, 1e300, '3', true, {}), fc.anything());
const rawImage = fc.record({
  type: fc.constantFrom(
    'Uint8Array',
    'Uint8ClampedArray',
    'Uint16Array',
    'Float32Array',
    'Int8Array',
    'Float64Array',
    'DataView',
  ),
  length: fc.oneof({ weight: 4, arbitrary: fc.constant(48) }, fc.nat({ max: 200 })),
  buffer: fc.constantFrom('plain', 'plain', 'detached', 'shared', 'shrunk'),
  fill: fc.constantFrom(0, 1, 0.5, NaN, -1, 2, 255),
  width: fc.oneof({ weight: 4, arbitrary: fc.constant(4) }, odd),
  height: fc.oneof({ weight: 4, arbitrary: fc.constant(4) }, odd),
  channels: fc.oneof({ weight: 4, arbitrary: fc.constant(3) }, odd),
});

function makeRaw({ type, length, buffer, fill, ...rest }) {
  const Type = globalThis[type];
  const bytes = length * (Type.BYTES_PER_ELEMENT ?? 1);
  const memory =
    buffer === 'shared' ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes, { maxByteLength: bytes + 8 });
  const data = new Type(memory, 0, length);
  data.fill?.(fill);
  if (buffer === 'shrunk') memory.resize(bytes >> 1);
  if (buffer === 'detached') structuredClone(memory, { transfer: [memory] });
  return { data, ...rest };
}

const header = JSON.stringify({
  __metadata__: { format: 'ddad-native', kind: 'checkpoint', config: '{"checkpoint":{"step":1,"fingerprint":""}}' },
});
const headers = fc.oneof(
  fc.json().map((text) => text),
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    'null',
    '5',
    '[]',
    '{"__metadata__":null}',
    '{"__metadata__":{"format":"ddad-native","kind":"checkpoint","config":5}}',
    header,
  ),
);

const inputs = (count) =>
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.tuple(fc.constant('file'), fc.nat({ max: count - 1 }), fc.array(edit, { maxLength: 6 })),
    },
    { weight: 2, arbitrary: fc.tuple(fc.constant('bomb'), bomb) },
    { weight: 3, arbitrary: fc.tuple(fc.constant('raw'), rawImage) },
    { weight: 1, arbitrary: fc.tuple(fc.constant('any'), fc.anything({ withBigInt: true, withTypedArray: true })) },
    { weight: 1, arbitrary: fc.tuple(fc.constant('bytes'), fc.uint8Array({ maxLength: 100 })) },
    { weight: 1, arbitrary: fc.tuple(fc.constant('checkpoint'), headers, fc.array(edit, { maxLength: 2 })) },
  );

function made(files, [kind, what, edits]) {
  if (kind === 'file') return edited(files[what], edits);
  if (kind === 'raw') return makeRaw(what);
  if (kind !== 'bomb') return what;
  const [format, width, height, depth, colour] = what;
  if (format === 'svg') return svg(width, height);
  return format === 'png' ? pngOf(width, height, depth, colour) : bmpOf(width, height, depth);
}

async function oneOf(call, known) {
  const start = performance.now();
  try {
    const result = await call();
    if (result.data && result.data.length !== result.width * result.height * result.channels)
      throw new Error(`${result.data.length} values for ${result.width} x ${result.height} x ${result.channels}`);
  } catch (error) {
    if (!known.has(error?.code)) throw error;
  }
  const took = performance.now() - start;
  if (took > slowMs) throw new Error(`took ${took} ms`);
}

/** Runs `runs` inputs, or for `minutes`; returns how many. Throws with what was found. */
export async function fuzzImages({ runs = 5000, seed = 1, minutes } = {}) {
  sharp.cache(false);
  sharp.concurrency(1);
  const files = await samples();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ddad-fuzz-images-'));
  const name = path.join(folder, 'file');
  let low = Infinity;
  let run = 0;
  const property = fc.asyncProperty(inputs(files.length), fc.constantFrom(1, 3), async (input, channels) => {
    if (input[0] === 'checkpoint') {
      const length = Buffer.alloc(8);
      length.writeUInt32LE(Buffer.byteLength(input[1]));
      const bytes = edited(
        input[1] === header
          ? safetensors([], JSON.parse(header).__metadata__)
          : Buffer.concat([length, Buffer.from(input[1])]),
        input[2],
      );
      fs.writeFileSync(name, bytes);
      await oneOf(() => readCheckpoint(name), fileCodes);
    } else {
      await oneOf(() => decodeImage(made(files, input), { channels, limitInputPixels: limit }), codes);
      if (input[0] === 'file') {
        fs.writeFileSync(name, made(files, input));
        await oneOf(() => isGrayFile(name, limit), codes);
      }
    }
    if (++run % 200 !== 0) return;
    globalThis.gc?.();
    const now = process.memoryUsage.rss();
    low = run > 400 ? Math.min(low, now) : low;
    if (now - low > growthLimit) throw new Error(`memory grew from ${low} to ${now} bytes`);
  });
  try {
    const until =
      minutes === undefined ? {} : { interruptAfterTimeLimit: minutes * 60_000, markInterruptAsFailure: false };
    const report = await fc.check(property, { seed, numRuns: minutes === undefined ? runs : 1e9, ...until });
    if (report.failed) throw new Error(fc.defaultReportMessage(report), { cause: report.errorInstance });
    return report.numRuns;
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const start = performance.now();
  const done = await fuzzImages(flags(['runs', 'seed', 'minutes']));
  console.log(`images: ${done} inputs in ${Math.round((performance.now() - start) / 1000)} s, no finding`);
}
