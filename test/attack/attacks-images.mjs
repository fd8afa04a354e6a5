// Attacks by images: small files that want much, decoding that nobody waits for, and memory that changes after the call.
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import sharp from 'sharp';
import { Detector } from '../../dist/index.js';

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const megabytes = (kb) => `${Math.round(kb / 1000)} MB`;

/** A drawing whose parsing takes gigabytes; packed it has some kilobytes. */
const drawing = (elements) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">${'<g/>'.repeat(elements)}</svg>`;

/** A gray PNG of one colour: 10 000 x 10 000 have 97 kB. */
const flat = (side) =>
  sharp({ create: { width: side, height: side, channels: 3, background: 'gray' }, limitInputPixels: false })
    .toColourspace('b-w')
    .png({ compressionLevel: 9 })
    .toBuffer();

/** The header of a lossless WebP of 9 900 x 9 900, and nothing else. */
function webpHeader() {
  const file = Buffer.alloc(38);
  file.write('RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f', 'latin1');
  file.writeUInt32LE(9899 | (9899 << 14), 21);
  return file;
}

async function goodImage(images) {
  const [first] = (await readdir(images)).sort();
  return readFile(path.join(images, first));
}

/** The most memory that a process has had, in kB; 0 where the system does not tell. */
async function mostRssKb(pid) {
  const text = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(text)?.[1] ?? 0);
}

async function upload(url, image) {
  const headers = { 'content-type': 'image/png' };
  const given = { method: 'POST', body: image, headers, signal: AbortSignal.timeout(60_000) };
  const response = await fetch(`${url}/score`, given);
  return { status: response.status, body: await response.json() };
}

/** Sends an image and goes away at once. */
async function uploadAndReset(url, image) {
  const { hostname, port, host } = new URL(url);
  const socket = net.connect({ host: hostname.replace(/[[\]]/g, ''), port: Number(port) });
  socket.on('error', () => undefined);
  const head = `POST /score HTTP/1.1\r\nhost: ${host}\r\ncontent-type: image/png\r\ncontent-length: ${image.length}\r\n\r\n`;
  await new Promise((resolve) => socket.write(Buffer.concat([Buffer.from(head), image]), resolve));
  await pause(20);
  socket.resetAndDestroy();
}

/** Runs `work` against a service; it must take at most so much memory, and then answer a good image within a time. */
async function against({ serve, images }, flags, { mostMB, mostMs = 10_000 }, work) {
  const service = await serve(flags);
  const { url, pid, stop } = service;
  try {
    const good = await goodImage(images);
    const before = await upload(url, good);
    assert.equal(before.status, 200, JSON.stringify(before.body));
    const idle = await mostRssKb(pid);
    await work(url);
    const begin = performance.now();
    const after = await upload(url, good);
    const ms = Math.round(performance.now() - begin);
    const more = (await mostRssKb(pid)) - idle;
    const figures = `${megabytes(more)} more, then a good image took ${ms} ms`;
    assert.equal(after.status, 200, JSON.stringify(after.body));
    assert.equal(after.body.score, before.body.score);
    assert.ok(more < 1000 * mostMB && ms < mostMs, figures);
    return figures;
  } finally {
    await stop();
  }
}

/** Each must be refused with a code that says why. */
async function mustRefuse(answers, codes) {
  for (const { status, body } of await Promise.all(answers)) {
    assert.ok((status >= 400 && status < 500) || status === 503, `${status}: ${JSON.stringify(body)}`);
    assert.ok(codes.includes(body.code), JSON.stringify(body));
  }
}

const refusedForSize = ['ERR_TOO_LARGE', 'ERR_MEMORY', 'ERR_BUSY'];

export const attacks = [
  {
    name: 'a packed drawing of 900 000 elements as an upload',
    run: (context) =>
      against(context, [], { mostMB: 150 }, async (url) => {
        const packed = gzipSync(drawing(900_000));
        const answers = [packed, Buffer.from(drawing(900_000))].map((image) => upload(url, image));
        await mustRefuse(answers, ['ERR_IMAGE']);
      }),
  },
  {
    name: 'twenty-five drawings that are sent and left',
    run: (context) =>
      against(context, [], { mostMB: 250, mostMs: 5000 }, async (url) => {
        const packed = gzipSync(drawing(2_000_000));
        await Promise.all(Array.from({ length: 25 }, () => uploadAndReset(url, packed)));
      }),
  },
  {
    name: 'drawings, documents and other formats on the command line',
    async run({ cli, dir, model }) {
      const files = {
        'drawing.png': Buffer.from(drawing(600_000)),
        'packed.png': gzipSync(drawing(900_000)),
        'document.png': Buffer.from('%PDF-1.7\n1 0 obj\n'),
        'libvips.png': Buffer.concat([Buffer.from([8, 0xf2, 0xa6, 0xb6]), Buffer.alloc(500)]),
      };
      for (const [name, bytes] of Object.entries(files)) await writeFile(path.join(dir, name), bytes);
      const { status, stdout, maxRssKb, ms } = await cli(['score', model, dir, '--json', '--threads', '1']);
      const lines = stdout.trim().split('\n');
      assert.equal(status, 1);
      assert.deepEqual(
        lines.map((line) => JSON.parse(line).error?.code),
        Object.keys(files).map(() => 'ERR_IMAGE'),
      );
      const figures = `${megabytes(maxRssKb)} in all, ${Math.round(ms)} ms`;
      assert.ok(maxRssKb < 400_000, figures);
      return figures;
    },
  },
  {
    name: 'eight PNGs of 97 kB with 10 000 x 10 000 pixels at once',
    run: (context) =>
      against(context, ['--memory-budget', '512MB'], { mostMB: 512 + 256 }, async (url) => {
        const bomb = await flat(10_000);
        const answers = Array.from({ length: 8 }, () => upload(url, bomb));
        await mustRefuse(answers, refusedForSize);
      }),
  },
  {
    name: 'six PNGs that fit one by one, but not together',
    run: (context) =>
      against(context, ['--memory-budget', '8MB'], { mostMB: 8 + 200 }, async (url) => {
        const bomb = await flat(300);
        const answers = await Promise.all(Array.from({ length: 6 }, () => upload(url, bomb)));
        const scores = new Set(answers.flatMap(({ status, body }) => (status === 200 ? [body.score] : [])));
        for (const { status } of answers) assert.ok(status === 200 || status === 503 || status === 413, String(status));
        assert.ok(scores.size <= 1, 'one image, one score');
      }),
  },
  {
    name: 'six headers of WebP of 38 bytes that claim 9 900 x 9 900 pixels',
    run: (context) =>
      against(context, ['--memory-budget', '512MB'], { mostMB: 512 + 256 }, async (url) => {
        const answers = Array.from({ length: 6 }, () => upload(url, webpHeader()));
        await mustRefuse(answers, [...refusedForSize, 'ERR_IMAGE']);
      }),
  },
  {
    name: 'twenty-five large WebPs that are sent and left',
    run: (context) =>
      against(context, ['--memory-budget', '512MB'], { mostMB: 512 + 256, mostMs: 20_000 }, async (url) => {
        const create = { width: 2000, height: 2000, channels: 3, background: 'gray' };
        const bomb = await sharp({ create }).webp({ lossless: true, effort: 0 }).toBuffer();
        await Promise.all(Array.from({ length: 25 }, () => uploadAndReset(url, bomb)));
      }),
  },
  {
    name: 'an image on the command line that never fits',
    async run({ cli, dir, model, images }) {
      await writeFile(path.join(dir, 'bomb.png'), await flat(10_000));
      const [name] = (await readdir(images)).sort();
      const good = path.join(images, name);
      const flags = ['--json', '--threads', '1', '--memory-budget', '300MB'];
      const { stdout, maxRssKb } = await cli(['score', model, path.join(dir, 'bomb.png'), good, ...flags]);
      const [first, second] = stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      assert.equal(first.error?.code, 'ERR_MEMORY');
      assert.equal(typeof second.score, 'number', 'the next image is scored');
      assert.ok(maxRssKb < 500_000, megabytes(maxRssKb));
      return megabytes(maxRssKb);
    },
  },
  {
    name: 'one frame buffer that is filled again as soon as the call has returned',
    async run({ model }) {
      const detector = await Detector.load(model, { threads: 1 });
      const [width, height] = [160, 120];
      const frames = Array.from({ length: 12 }, (_, f) =>
        Uint8Array.from(
          { length: width * height },
          (_, i) => 120 + 90 * Math.sin((i % width) / (2 + f)) * Math.cos(i / 999),
        ),
      );
      try {
        const alone = [];
        for (const data of frames) alone.push((await detector.score({ data, width, height, channels: 1 })).score);
        for (const memory of [ArrayBuffer, SharedArrayBuffer]) {
          const data = new Uint8Array(new memory(width * height));
          const calls = [];
          for (const frame of frames) {
            data.set(frame);
            calls.push(detector.score({ data, width, height, channels: 1 }));
            if (calls.length % 3 === 0) await pause(5);
          }
          data.fill(0);
          const found = (await Promise.all(calls)).map(({ score }) => score);
          assert.deepEqual(found, alone, 'a frame got the score of another');
        }
      } finally {
        detector.dispose();
      }
    },
  },
  {
    name: 'a thousand copies that wait',
    async run({ model }) {
      const budget = 64e6;
      const detector = await Detector.load(model, { threads: 1, memoryBudget: budget, whenFull: 'wait' });
      try {
        const image = { data: new Uint8Array(500_000).fill(90), width: 1000, height: 500, channels: 1 };
        const controller = new AbortController();
        const { signal } = controller;
        const calls = Array.from({ length: 1000 }, () => detector.score(image, { signal }).catch(({ code }) => code));
        const { used } = detector.stats().imageMemory;
        assert.ok(used <= budget, `${used} bytes of ${budget}`);
        controller.abort();
        const codes = new Set(await Promise.all(calls));
        assert.deepEqual([...codes].sort(), ['ERR_ABORTED', 'ERR_BUSY']);
        for (let i = 0; i < 500 && detector.stats().imageMemory.used > 0; i++) await pause(20);
        assert.equal(detector.stats().imageMemory.used, 0, 'memory is not given back');
      } finally {
        detector.dispose();
      }
    },
  },
];
