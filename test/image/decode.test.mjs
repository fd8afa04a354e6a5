import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import image from '../../dist/image/decode.js';
import { pattern, png, temporaryFolder } from '../helpers/common.mjs';

const { decodeImage, resizePixels, isGrayFile } = image;
const folder = await temporaryFolder();
const raw = (data, width, height, channels) => sharp(data, { raw: { width, height, channels } });
const ramp = (Type, length, step) => Type.from({ length }, (_, i) => (i * step) % 251);

/** An uncompressed TIFF of one gray image: `bits` 16 (unsigned) or 32 (float). */
function tiff(width, height, bits) {
  const bytes = (width * height * bits) / 8;
  const file = Buffer.alloc(8 + bytes + 2 + 10 * 12 + 4);
  file.write('II*\0', 'latin1');
  file.writeUInt32LE(8 + bytes, 4);
  for (let i = 0; i < width * height; i++) {
    if (bits === 16) file.writeUInt16LE(257 * (i % 251), 8 + 2 * i);
    else file.writeFloatLE(0.5, 8 + 4 * i);
  }
  const tags = [
    [256, 4, width],
    [257, 4, height],
    [258, 3, bits],
    [259, 3, 1], // no compression
    [262, 3, 1], // black is zero
    [273, 4, 8], // where the pixels are
    [277, 3, 1],
    [278, 4, height],
    [279, 4, bytes],
    [339, 3, bits === 16 ? 1 : 3], // unsigned, float
  ];
  let at = 8 + bytes;
  at = file.writeUInt16LE(tags.length, at);
  for (const [tag, type, value] of tags) {
    at = file.writeUInt16LE(tag, at);
    at = file.writeUInt16LE(type, at);
    at = file.writeUInt32LE(1, at);
    at = file.writeUInt32LE(value, at);
  }
  return file;
}

const rgb = ramp(Uint8Array, 24 * 20 * 3, 7);
const kinds = {
  'gray PNG': [png(pattern(24, 20)).toBuffer(), 8],
  'gray and alpha PNG': [
    raw(ramp(Uint8Array, 24 * 20 * 2, 5), 24, 20, 2)
      .toColourspace('b-w')
      .png()
      .toBuffer(),
    8,
  ],
  'RGB PNG': [raw(rgb, 24, 20, 3).png().toBuffer(), 8],
  'RGBA PNG': [
    raw(ramp(Uint8Array, 24 * 20 * 4, 3), 24, 20, 4)
      .png()
      .toBuffer(),
    8,
  ],
  'palette PNG': [raw(rgb, 24, 20, 3).png({ palette: true }).toBuffer(), 8],
  'black and white PNG': [png(pattern(24, 20)).png({ palette: true, colours: 2 }).toBuffer(), 8],
  '16-bit gray PNG': [
    raw(ramp(Uint16Array, 24 * 20, 257), 24, 20, 1)
      .toColourspace('grey16')
      .png()
      .toBuffer(),
    16,
  ],
  '16-bit RGB PNG': [
    raw(ramp(Uint16Array, 24 * 20 * 3, 99), 24, 20, 3)
      .toColourspace('rgb16')
      .png()
      .toBuffer(),
    16,
  ],
  '16-bit RGBA PNG': [
    raw(ramp(Uint16Array, 24 * 20 * 4, 99), 24, 20, 4)
      .toColourspace('rgb16')
      .png()
      .toBuffer(),
    16,
  ],
  'RGB JPEG': [raw(rgb, 24, 20, 3).jpeg().toBuffer(), 8],
  'gray JPEG': [
    png(pattern(24, 20))
      .toBuffer()
      .then((file) => sharp(file).jpeg().toBuffer()),
    8,
  ],
  'CMYK JPEG': [raw(rgb, 24, 20, 3).toColourspace('cmyk').jpeg().toBuffer(), 8],
  WebP: [raw(rgb, 24, 20, 3).webp().toBuffer(), 8],
  GIF: [raw(rgb, 24, 20, 3).gif().toBuffer(), 8],
  '8-bit TIFF': [raw(rgb, 24, 20, 3).tiff().toBuffer(), 8],
  '16-bit TIFF': [Promise.resolve(tiff(24, 20, 16)), 16],
};

for (const [name, [made, bits]] of Object.entries(kinds)) {
  test(`${name}: decodes to gray and RGB, from a file and from memory`, async () => {
    const encoded = await made;
    const file = path.join(folder, name.replaceAll(' ', '-'));
    await writeFile(file, encoded);
    for (const channels of [1, 3]) {
      const pixels = await decodeImage(file, { channels });
      assert.deepEqual([pixels.width, pixels.height, pixels.channels], [24, 20, channels]);
      assert.equal(pixels.data.length, 24 * 20 * channels);
      assert.equal(pixels.data.BYTES_PER_ELEMENT, bits / 8);
      assert.ok(new Set(pixels.data).size > 1, 'the picture has content');
      assert.deepEqual(await decodeImage(encoded, { channels }), pixels);
    }
  });
}

test('lossless pixels arrive as they are', async () => {
  const gray = pattern(24, 20);
  assert.deepEqual([...(await decodeImage(await png(gray).toBuffer(), { channels: 1 })).data], [...gray.data]);
  assert.deepEqual([...(await decodeImage(await kinds['RGB PNG'][0], { channels: 3 })).data], [...rgb]);
  const deep = await decodeImage(tiff(24, 20, 16), { channels: 1 });
  assert.deepEqual([...deep.data.slice(0, 4)], [0, 257, 514, 771]);
});

test('alpha is dropped, even where it is 0', async () => {
  const rgba = new Uint8Array(4 * 4 * 4).map((_, i) => (i % 4 === 3 ? 0 : 40 + i));
  const pixels = await decodeImage(await raw(rgba, 4, 4, 4).png().toBuffer(), { channels: 3 });
  assert.deepEqual(
    [...pixels.data],
    [...rgba].filter((_, i) => i % 4 !== 3),
  );
});

test('pixels score like the file that holds them', async () => {
  const bytes = pattern(24, 20);
  const fromFile = await decodeImage(await png(bytes).toBuffer(), { channels: 3 });
  assert.deepEqual(await decodeImage(bytes, { channels: 3 }), fromFile);
  const clamped = { ...bytes, data: new Uint8ClampedArray(bytes.data) };
  assert.deepEqual(await decodeImage(clamped, { channels: 3 }), fromFile);
  const floats = { ...bytes, data: Float32Array.from(bytes.data, (v) => v / 255) };
  const deep = await decodeImage(floats, { channels: 1 });
  assert.deepEqual(
    [...deep.data],
    [...bytes.data].map((v) => v * 257),
  );
});

test('images are turned upright', async () => {
  const lying = await raw(rgb, 24, 20, 3).withMetadata({ orientation: 6 }).png().toBuffer();
  const { width, height, data } = await decodeImage(lying, { channels: 3 });
  assert.deepEqual([width, height], [20, 24]);
  assert.deepEqual([...data.slice(0, 3)], [...rgb.slice(19 * 24 * 3, 19 * 24 * 3 + 3)]);
});

test('of several pages the first counts', async () => {
  const pages = Buffer.concat([Buffer.from(ramp(Uint8Array, 8 * 16 * 3, 11))]);
  const animated = await sharp(pages, { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } })
    .gif()
    .toBuffer();
  const { width, height } = await decodeImage(animated, { channels: 3 });
  assert.deepEqual([width, height], [8, 8]);
});

test('resizing keeps depth and channels, from 1 x 1 to large', async () => {
  for (const [width, height] of [
    [1, 1],
    [1, 300],
    [500, 2],
    [64, 64],
  ]) {
    const pixels = await decodeImage(pattern(width, height), { channels: 1 });
    const resized = await resizePixels(pixels, 64);
    assert.deepEqual([resized.width, resized.height, resized.data.length], [64, 64, 64 * 64]);
  }
  const deep = await decodeImage(tiff(24, 20, 16), { channels: 3 });
  deep.data[7] += 1;
  const resized = await resizePixels(deep, 32);
  assert.ok(resized.data instanceof Uint16Array);
  assert.equal(resized.data.length, 32 * 32 * 3);
});

test('16 bits that say no more than 8 are scaled as 8 are', async () => {
  for (const [width, height, size] of [
    [300, 280, 128],
    [97, 61, 64],
    [40, 30, 64],
    [64, 64, 64],
  ]) {
    const shallow = { data: ramp(Uint8Array, width * height * 3, 13), width, height, channels: 3 };
    const deep = { ...shallow, data: Uint16Array.from(shallow.data, (value) => 257 * value) };
    const file = await raw(deep.data, width, height, 3).toColourspace('rgb16').png().toBuffer();
    assert.equal((await sharp(file).metadata()).depth, 'ushort');
    const floats = { ...shallow, data: Float32Array.from(shallow.data, (value) => value / 255) };
    const seen = async (image) => resizePixels(await decodeImage(image, { channels: 3 }), size);
    const wanted = await seen(shallow);
    for (const image of [deep, file, floats]) {
      const { data, ...rest } = await seen(image);
      const same = data instanceof Uint16Array ? Array.from(data, (value) => value / 257) : [...data];
      assert.deepEqual({ ...rest, data: same }, { ...wanted, data: [...wanted.data] });
    }
  }
});

test('gray files are told by their header', async () => {
  for (const [name, gray] of [
    ['gray-PNG', true],
    ['gray-and-alpha-PNG', true],
    ['RGB-PNG', false],
    ['16-bit-TIFF', true],
  ]) {
    assert.equal(await isGrayFile(path.join(folder, name)), gray, name);
  }
});

test('what is no image fails with ERR_IMAGE, its name and the reason', async () => {
  const good = await png(pattern(24, 20)).toBuffer();
  const noisy = await raw(ramp(Uint8Array, 200 * 200 * 3, 13), 200, 200, 3)
    .jpeg()
    .toBuffer();
  const cases = {
    'missing.png': [undefined, /missing\.png: no such file/],
    'folder.png': [null, /folder\.png: expected an image, got a folder/],
    'empty.png': [Buffer.alloc(0), /empty\.png: expected an image, got an empty file/],
    'text.png': [Buffer.from('hello'), /text\.png: not an image that can be read/],
    'truncated.png': [good.subarray(0, good.length >> 1), /truncated\.png: damaged or truncated: /],
    'header.png': [good.subarray(0, 24), /header\.png: /],
    'truncated.jpg': [noisy.subarray(0, noisy.length >> 1), /truncated\.jpg: damaged or truncated: /],
    'float.tiff': [tiff(24, 20, 32), /float\.tiff: expected 8 or 16 bits a channel, got float/],
    'drawing.svg': [
      Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>'),
      /drawing\.svg: expected a photograph .*, got svg/,
    ],
  };
  for (const [name, [content, message]] of Object.entries(cases)) {
    const file = path.join(folder, name);
    if (content === null) await mkdir(file);
    else if (content) await writeFile(file, content);
    await assert.rejects(decodeImage(file, { channels: 1 }), { name: 'DdadError', code: 'ERR_IMAGE', message });
  }
});

test('the pixel limit holds before anything is decoded', async () => {
  const big = await sharp({ create: { width: 3000, height: 2000, channels: 3, background: 'gray' } })
    .png()
    .toBuffer();
  const message = /expected at most 1000000 pixels \(limitInputPixels\), got 3000 x 2000/;
  await assert.rejects(decodeImage(big, { channels: 1, limitInputPixels: 1e6 }), { code: 'ERR_IMAGE', message });
  const pixels = { data: new Uint8Array(4), width: 1e6, height: 1e6, channels: 1 };
  await assert.rejects(decodeImage(pixels, { channels: 1 }), { code: 'ERR_IMAGE', message: /limitInputPixels/ });
});

test('pixels that contradict themselves are refused', async () => {
  const good = pattern(4, 4);
  for (const [change, message] of [
    [{ width: 0 }, /got 0 x 4/],
    [{ width: 2.5 }, /got 2\.5 x 4/],
    [{ channels: 5 }, /expected 1 to 4 channels, got 5/],
    [{ width: 5 }, /expected 20 values of data, got 16/],
    [{ data: [1, 2] }, /expected data as Uint8Array/],
    [{ data: new Float32Array(16).fill(2) }, /float pixels from 0 to 1, got 2/],
    [{ data: new Float32Array(16).fill(NaN) }, /got NaN/],
  ]) {
    await assert.rejects(decodeImage({ ...good, ...change }, { channels: 1 }), { code: 'ERR_IMAGE', message });
  }
  await assert.rejects(decodeImage({ ...good, width: 2.5 }, { channels: 1 }), {
    message: 'the image: expected a whole width and height of at least 1, got 2.5 x 4',
  });
});

test('what is no image at all is told by what came', async () => {
  for (const [nothing, got] of [
    [undefined, 'undefined'],
    [null, 'null'],
    [5, 'a number'],
    [{}, 'an object without data'],
    [{ width: 4, height: 4, channels: 1 }, 'an object without data'],
    [Object.create(null), 'an object without data'],
    [[], 'an Array'],
    [new Uint16Array(4), 'a Uint16Array'],
    [new URL('file:///part.png'), 'a URL, of which fileURLToPath makes a path'],
    [Promise.resolve('part.png'), 'a Promise'],
  ]) {
    await assert.rejects(decodeImage(nothing, { channels: 1 }), {
      name: 'DdadError',
      code: 'ERR_IMAGE',
      message: `the image: expected a path, an encoded image or pixels, got ${got}`,
    });
  }
  for (const [name, expected] of [
    ['', 'a path, got an empty text'],
    ['part\0.png', 'a path without NUL characters, got "part\\u0000.png"'],
  ]) {
    const refused = { name: 'DdadError', code: 'ERR_IMAGE', message: `the image: expected ${expected}` };
    await assert.rejects(decodeImage(name, { channels: 1 }), refused);
    await assert.rejects(isGrayFile(name), refused);
  }
});
