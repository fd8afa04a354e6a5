import assert from 'node:assert/strict';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { test } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import sharp from 'sharp';
import heatmap from '../../dist/image/heatmap.js';
import image from '../../dist/image/decode.js';
import slices from '../../dist/base/slices.js';
import { random } from '../helpers/common.mjs';

const { renderHeatmap, mapRange, quantile } = heatmap;
const { interpolateInferno } = await import('d3-scale-chromatic');

/** An image and a map with values below, within and above the range of the colours. */
function scene(width, height, channels = 3, Type = Uint8Array) {
  const next = random(width);
  const white = Type === Uint16Array ? 65535 : 255;
  const data = Type.from({ length: width * height * channels }, () => next() * white);
  const map = Float32Array.from({ length: width * height }, (_, i) => 2 * Math.sin(i / 100) + next() / 10);
  return [
    { data, width, height, channels },
    { data: map, width, height },
  ];
}

const colours = Array.from({ length: 256 }, (_, i) =>
  Buffer.from(interpolateInferno(0.45 + 0.45 * (i / 255)).slice(1), 'hex'),
);

/** The colours in one go. */
function coloured(bytes, map, [low, high], opacity) {
  for (let i = 0; i < map.data.length; i++) {
    const excess = map.data[i] - low;
    if (!(excess > 0)) continue;
    const heat = Math.min(1, excess / (high - low));
    const colour = colours[Math.round(255 * heat)];
    for (let c = 0; c < 3; c++) {
      const under = bytes[3 * i + c];
      bytes[3 * i + c] = Math.round(under + opacity * Math.sqrt(heat) * (colour[c] - under));
    }
  }
  return bytes;
}

test('an overlay has the colours that its map says, whatever the image', async () => {
  for (const [channels, Type] of [
    [3, Uint8Array],
    [1, Uint8Array],
    [4, Uint8Array],
    [3, Uint16Array],
  ]) {
    const [photo, map] = scene(150, 101, channels, Type);
    const before = photo.data.slice();
    const { data } = await image.decodeImage(photo, { channels: 3 });
    const bytes = Uint8Array.from(data, (value) => (Type === Uint16Array ? value / 257 : value));
    const expected = coloured(bytes, map, [0.2, 1.5], 0.6);
    const png = await renderHeatmap(photo, map, [0.2, 1.5], { opacity: 0.6 });
    assert.ok((await sharp(png).raw().toBuffer()).equals(expected), `${channels} channels, ${Type.name}`);
    assert.deepEqual(photo.data, before, "the caller's pixels are untouched");
  }
});

test('the range of a map is that of its sorted values', async () => {
  for (const length of [1, 2, 3, 1000, 65_536, 65_537, 200_000]) {
    const next = random(length);
    const map = Float32Array.from({ length }, () => 10 * (next() - 0.5));
    map[length >> 1] = -0;
    const stride = Math.ceil(length / 65_536);
    const sorted = map.filter((_, i) => i % stride === 0).sort();
    assert.deepEqual(await mapRange(map), [quantile(sorted, 0.5), quantile(sorted, 0.995)]);
  }
});

test('a large overlay leaves JavaScript its thread', async () => {
  const [photo, map] = scene(3000, 2000);
  const start = performance.now();
  coloured(Uint8Array.from(photo.data), map, [0.2, 2], 0.85);
  const inOneGo = performance.now() - start;
  let longest = Infinity;
  // Other work on the machine can hold everything up; it will not do so three times.
  for (let attempt = 0; attempt < 3 && longest > inOneGo / 4; attempt++) {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    await setTimeout(20);
    await renderHeatmap(photo, map, [0.2, 2], {});
    await setTimeout(20);
    delay.disable();
    longest = Math.min(longest, delay.max / 1e6);
  }
  assert.ok(longest < inOneGo / 4, `${longest} ms at once, ${inOneGo} in one go`);
});

test('loops in slices take turns: one slice in a round of the event loop', async () => {
  let [round, running] = [0, true];
  const rounds = (async () => {
    for (; running; round++) await setImmediate();
  })();
  const seen = [];
  const work = () => {
    seen.push(round);
    const end = performance.now() + 1.2;
    while (performance.now() < end);
  };
  await Promise.all(Array.from({ length: 5 }, () => slices.inSlices(10_000, work)));
  running = false;
  await rounds;
  assert.equal(seen.length, 5 * 5);
  const most = Math.max(...seen.map((one) => seen.filter((other) => other === one).length));
  assert.ok(most <= 2, `${most} slices in a round`); // two where the counter's own turn lies between them
});

test('an overlay can be aborted, before it begins and on its way', async () => {
  const [photo, map] = scene(1500, 1000);
  await assert.rejects(renderHeatmap(photo, map, [0.2, 2], { signal: AbortSignal.abort() }), { code: 'ERR_ABORTED' });
  const controller = new AbortController();
  const work = renderHeatmap(photo, map, [0.2, 2], { signal: controller.signal });
  await setTimeout(5);
  controller.abort();
  await assert.rejects(work, { code: 'ERR_ABORTED' });
});
