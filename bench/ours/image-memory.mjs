// What decoding takes of memory, and drawing an overlay, against what src/image/decoding-cost.ts says beforehand: each format in a
// process of its own.
//   node bench/ours/image-memory.mjs [--side 3000] [--only webp]
// Prints a JSON line for each: bytes a pixel at the peak, and as estimated. Fails where an estimate is too small.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import heat from '../../dist/image/heatmap.js';
import image from '../../dist/image/decode.js';

const { values } = parseArgs({
  options: {
    side: { type: 'string', default: '3000' },
    only: { type: 'string' },
    run: { type: 'string' },
    file: { type: 'string' },
    channels: { type: 'string', default: '3' },
  },
});
const side = Number(values.side);
const turned = (from) => from.withMetadata({ orientation: 6 });
const fast = { compressionLevel: 1 };

const kinds = {
  png: (from) => from.png(fast),
  'png, gray': (from) => from.toColourspace('b-w').png(fast),
  'png, alpha': (from) => from.ensureAlpha().png(fast),
  'png, 16 bits': (from) => from.toColourspace('rgb16').png(fast),
  'png, interlaced': (from) => from.png({ ...fast, progressive: true }),
  'png, turned': (from) => turned(from).png(fast),
  jpeg: (from) => from.jpeg(),
  'jpeg, progressive': (from) => from.jpeg({ progressive: true, chromaSubsampling: '4:4:4' }),
  'jpeg, progressive, turned': (from) => turned(from).jpeg({ progressive: true, chromaSubsampling: '4:4:4' }),
  'jpeg, cmyk': (from) => from.toColourspace('cmyk').jpeg(),
  webp: (from) => from.webp({ effort: 0 }),
  'webp, lossless, alpha': (from) => from.ensureAlpha(0.5).webp({ effort: 0, lossless: true }),
  'webp, animated': async (from) => {
    const { data, info } = await from.ensureAlpha(0.5).raw().toBuffer({ resolveWithObject: true });
    const pages = { width: info.width, height: info.height * 2, channels: 4, pageHeight: info.height };
    const both = sharp(Buffer.concat([data, data.map((value) => value ^ 85)]), { raw: pages, limitInputPixels: false });
    return both.webp({ effort: 0, lossless: true });
  },
  'webp, turned': (from) => turned(from).webp({ effort: 0 }),
  gif: (from) => from.gif({ effort: 1 }),
  tiff: (from) => from.tiff({ compression: 'none' }),
  'tiff, tiled': (from) => from.tiff({ compression: 'deflate', tile: true, tileWidth: 256, tileHeight: 256 }),
  'tiff, turned': (from) => turned(from).tiff({ compression: 'lzw' }),
  avif: (from) => from.avif({ effort: 0, chromaSubsampling: '4:4:4' }),
  'avif, alpha': (from) => from.ensureAlpha(0.5).avif({ effort: 0 }),
  'avif, 10 bits': (from) => from.avif({ effort: 0, bitdepth: 10 }),
};

function picture(length) {
  const data = new Uint8Array(length * length * 3);
  for (let i = 0, state = 1; i < data.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    data[i] = ((i / 300) & 127) + (state >> 26);
  }
  return sharp(data, { raw: { width: length, height: length, channels: 3 }, limitInputPixels: false });
}

const encode = async (name, length) =>
  (await (name === 'overlay' ? kinds.png : kinds[name])(picture(length))).toBuffer();

/** Measures one kind in this process. */
async function measure(name, channels) {
  const overlay = name === 'overlay';
  const mapOf = (length) => ({ data: new Float32Array(length * length).fill(0.5), width: length, height: length });
  const work = async (encoded, map) => {
    let estimate = 0;
    const claim = { admit: async (bytes) => (estimate = bytes), holdLater: async () => undefined, held: 0 };
    if (overlay) await heat.renderHeatmap(encoded, map, [0, 1], {}, { claim });
    else await image.decodeImage(encoded, { channels, claim });
    return estimate;
  };
  const small = await encode(name, 64);
  await work(small, mapOf(64));
  const encoded = readFileSync(values.file);
  const map = mapOf(side);
  const before = process.memoryUsage.rss();
  const estimate = await work(encoded, map);
  const peak = process.resourceUsage().maxRSS * 1024 - before;
  const perPixel = (bytes) => Number((bytes / side / side).toFixed(2));
  console.log(JSON.stringify({ name, channels, peak: perPixel(peak), estimate: perPixel(estimate) }));
}

/** Runs this file again for one kind; making a picture takes memory that reading it should not be given. */
function inProcess(args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), ...args], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${args.join(' ')}: ${stderr}`);
  return stdout;
}

function all() {
  const folder = mkdtempSync(path.join(tmpdir(), 'ddad-memory-'));
  const file = path.join(folder, 'image');
  try {
    for (const name of [...Object.keys(kinds), 'overlay']) {
      if (values.only && !name.includes(values.only)) continue;
      const given = ['--file', file, '--side', values.side];
      inProcess(['--run', `make ${name}`, ...given]);
      for (const channels of name === 'overlay' ? ['3'] : ['3', '1']) {
        const line = inProcess(['--run', name, '--channels', channels, ...given]);
        process.stdout.write(line);
        const { peak, estimate } = JSON.parse(line);
        if (peak <= estimate) continue;
        console.error(`${name}: takes more than estimated`);
        process.exitCode = 1;
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const { run } = values;
if (run === undefined) {
  all();
} else if (run.startsWith('make ')) {
  const name = run.slice(5);
  writeFileSync(values.file, await encode(name, side));
} else {
  await measure(run, Number(values.channels));
}
