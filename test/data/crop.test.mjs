// Training samples: windows that are mirrored and turned.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import config from '../../dist/config/config.js';
import dataset from '../../dist/data/dataset.js';
import { Trainer } from '../../dist/index.js';
import sample from '../../dist/data/crop.js';
import {
  makeDataset,
  png,
  readSafetensors,
  run,
  temporaryFolder,
  tiny,
  tinyFlags,
  trainTiny,
} from '../helpers/common.mjs';

const { cropInto, reflect, turnInto } = sample;
const { TrainingData } = dataset;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);

/** An image from a function of place and channel. */
function image(width, height, channels, type, value) {
  const data = new type(width * height * channels);
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.floor(i / channels);
    data[i] = value(pixel % width, Math.floor(pixel / width), i % channels);
  }
  return { data, width, height, channels };
}

const noise = (x, y, c) => (x * 7919 + y * 104729 + c * 1299709) % 251;
const upright = { flipX: false, flipY: false };

function turned(pixels, window, degrees) {
  const out = new Float32Array(window.size ** 2 * pixels.channels);
  turnInto(out, pixels, window, degrees);
  return out;
}

function cropped(pixels, window) {
  const out = new Float32Array(window.size ** 2 * pixels.channels);
  cropInto(out, pixels, window);
  return out;
}

function assertNear(a, b, tolerance = 1e-5) {
  assert.equal(a.length, b.length);
  for (let i = 0; i < a.length; i++) assert.ok(Math.abs(a[i] - b[i]) <= tolerance, `${i}: ${a[i]} instead of ${b[i]}`);
}

test('turned by nothing, a window is the exact one', () => {
  for (const [channels, type] of [
    [1, Uint8Array],
    [3, Uint8Array],
    [1, Uint16Array],
    [3, Uint16Array],
  ]) {
    const pixels = image(13, 9, channels, type, noise);
    for (const [left, top, size] of [
      [2, 1, 6],
      [-4, 5, 7],
      [-30, 40, 8],
      [0, 0, 1],
    ]) {
      for (const [flipX, flipY] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ]) {
        const window = { left, top, size, flipX, flipY };
        assert.deepEqual(turned(pixels, window, 0), cropped(pixels, window));
      }
    }
  }
});

test('a quarter turn moves every pixel clockwise to its place, mirroring first', () => {
  for (const size of [4, 5]) {
    for (const flips of [upright, { flipX: true, flipY: false }, { flipX: false, flipY: true }]) {
      const pixels = image(11, 12, 3, Uint8Array, noise);
      const window = { left: 3, top: 2, size, ...flips };
      const before = cropped(pixels, window);
      const after = turned(pixels, window, 90);
      const back = turned(pixels, window, -90);
      const expected = (place) =>
        Float32Array.from(before, (_, i) => {
          const [x, y] = [Math.floor(i / 3) % size, Math.floor(i / 3 / size)];
          const [fromX, fromY] = place(x, y);
          return before[3 * (fromY * size + fromX) + (i % 3)];
        });
      assertNear(
        after,
        expected((x, y) => [y, size - 1 - x]),
      );
      assertNear(
        back,
        expected((x, y) => [size - 1 - y, x]),
      );
    }
  }
});

test('any angle reads the image between its pixels, beyond the window and beyond the edges', () => {
  const pixels = image(40, 31, 3, Uint8Array, noise);
  for (const [window, degrees] of [
    [{ left: 12, top: 8, size: 14, ...upright }, 17],
    [{ left: 26, top: -3, size: 16, flipX: true, flipY: false }, -33],
    [{ left: -8, top: -6, size: 60, flipX: false, flipY: true }, 141],
    [{ left: 0, top: 0, size: 31, ...upright }, 45],
  ]) {
    const { left, top, size, flipX, flipY } = window;
    const [sin, cos] = [Math.sin((degrees * Math.PI) / 180), Math.cos((degrees * Math.PI) / 180)];
    const pixel = (x, y, c) => pixels.data[3 * (reflect(y, 31) * 40 + reflect(x, 40)) + c];
    const found = turned(pixels, window, degrees);
    const expected = found.map((_, i) => {
      const [u, v] = [(Math.floor(i / 3) % size) - (size - 1) / 2, Math.floor(i / 3 / size) - (size - 1) / 2];
      const x = left + (size - 1) / 2 + (flipX ? -1 : 1) * (cos * u + sin * v);
      const y = top + (size - 1) / 2 + (flipY ? -1 : 1) * (cos * v - sin * u);
      let sum = 0;
      for (const [dx, dy] of [
        [0, 0],
        [1, 0],
        [0, 1],
        [1, 1],
      ]) {
        const weight = (1 - Math.abs(x - Math.floor(x) - dx)) * (1 - Math.abs(y - Math.floor(y) - dy));
        sum += weight * pixel(Math.floor(x) + dx, Math.floor(y) + dy, i % 3);
      }
      return sum / 127.5 - 1;
    });
    assertNear(found, expected);
  }
});

test('no corner is empty, down to an image of one pixel', () => {
  for (const [width, height, size] of [
    [1, 1, 9],
    [1, 50, 9],
    [16, 16, 16],
    [200, 3, 64],
  ]) {
    const bright = image(width, height, 1, Uint16Array, () => 65535);
    for (const degrees of [-180, -45, 3, 90, 180]) {
      const window = { left: Math.min(0, width - size), top: Math.min(0, height - size), size, ...upright };
      assertNear(turned(bright, window, degrees), new Float32Array(size * size).fill(1));
    }
  }
});

test('8 and 16 bits are turned alike', () => {
  const pixels = image(30, 30, 1, Uint8Array, noise);
  const deep = { ...pixels, data: Uint16Array.from(pixels.data, (value) => value * 257) };
  const window = { left: 4, top: 5, size: 20, ...upright };
  assertNear(turned(pixels, window, 28), turned(deep, window, 28));
});

test('a sample of 256 x 256 is turned in less than 5 ms', () => {
  const pixels = image(256, 256, 1, Uint8Array, noise);
  const out = new Float32Array(256 * 256);
  const times = Array.from({ length: 20 }, () => {
    const start = performance.now();
    turnInto(out, pixels, { left: 0, top: 0, size: 256, ...upright }, 20);
    return performance.now() - start;
  });
  assert.ok(Math.min(...times) < 5, `took ${Math.min(...times)} ms`);
});

test('samples are turned by angles of the whole range, each by its own, the same ones every time', async () => {
  // A ramp says by its slope how far it is turned.
  const file = at('ramp.png');
  await png(image(120, 120, 1, Uint8Array, (x) => 2 * x)).toFile(file);
  const batchSize = 50;
  const expand = (options) =>
    config.expandConfig({ preset: 'nano', channels: 'gray', size: 32, batchSize, backbone: null, ...options });
  const angles = async (data, step = 0) => {
    const batch = await data.batch(step);
    const side = Math.sqrt(batch.length / batchSize);
    return Array.from({ length: batchSize }, (_, i) => {
      const middle = i * side * side + (side / 2) * side + side / 2;
      const [dx, dy] = [batch[middle + 1] - batch[middle - 1], batch[middle + side] - batch[middle - side]];
      return (Math.atan2(dy, dx) * 180) / Math.PI;
    });
  };
  for (const mode of ['crop', 'resize']) {
    const found = await angles(new TrainingData([[file]], expand({ mode, rotation: 30 })));
    assert.ok(
      found.every((angle) => Math.abs(angle) <= 31),
      String(found),
    );
    assert.ok(Math.min(...found) < -22 && Math.max(...found) > 22, String(found));
    assert.ok(new Set(found.map((angle) => Math.round(10 * angle))).size > 40, 'each its own');
    const plain = await angles(new TrainingData([[file]], expand({ mode })));
    assert.ok(plain.every((angle) => angle === 0));
  }
  const make = (options) => new TrainingData([[file]], expand({ mode: 'crop', flip: 'both', ...options }));
  const [one, again, other] = [make({ rotation: 9 }), make({ rotation: 9 }), make({ rotation: 9, seed: 1 })];
  const [, second] = [await one.batch(0), await one.batch(1)];
  assert.deepEqual(await again.batch(1), second);
  assert.notDeepEqual(await other.batch(1), second);
  assert.deepEqual(await make({ rotation: 0 }).batch(1), await make({}).batch(1));
});

test('a run with rotation keeps it in the model, goes on with the same samples and refuses another angle', async () => {
  const parts = await makeDataset(at('parts'), 6);
  const checkpoint = at('left.ckpt.safetensors');
  const options = { rotation: 12.5, mode: 'resize' };
  await trainTiny({ Trainer }, parts, at('whole.safetensors'), options);
  const trainer = new Trainer({ ...tiny, ...options });
  for await (const { step } of trainer.fit(parts, { checkpoint })) if (step === 3) break;
  const resumed = new Trainer({ threads: 1 });
  for await (const progress of resumed.fit(parts, { resume: checkpoint })) void progress;
  await resumed.save(at('resumed.safetensors'));
  resumed.dispose();
  const [whole, after] = [
    await readSafetensors(at('whole.safetensors')),
    await readSafetensors(at('resumed.safetensors')),
  ];
  assert.deepEqual(after, whole);
  assert.equal(JSON.parse(whole.header.__metadata__.config).training.rotation, 12.5);
  await assert.rejects(new Trainer({ rotation: 5 }).fit(parts, { resume: checkpoint }).next(), {
    code: 'ERR_OPTION',
    message: 'option "rotation": the checkpoint was trained with 12.5, got 5',
  });
  for (const rotation of [-1, 181, '5']) assert.throws(() => new Trainer({ rotation }), { code: 'ERR_OPTION' });
});

test('train --rotation', async () => {
  const parts = await makeDataset(at('few'), 2);
  const args = ['train', parts, ...tinyFlags, '--steps', '1'];
  const out = at('cli.safetensors');
  const { code, stderr } = await run([...args, '--out', out, '--rotation', '15']);
  assert.equal(code, 0, stderr);
  assert.equal(JSON.parse((await readSafetensors(out)).header.__metadata__.config).training.rotation, 15);
  const refused = await run([...args, '--out', at('x'), '--rotation', '200']);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /--rotation: .*got 200/);
});
