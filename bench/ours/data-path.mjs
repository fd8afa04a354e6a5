// Whether the data keep up with the network in training: the time of a batch of samples beside that of a training step,
// for photographs of 1024 x 1024 pixels, whole and in tiles, turned and not, for the first pass over them and the next.
//   node bench/ours/data-path.mjs [--images 48] [--preset lite]
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { expandConfig } from '../../dist/config/config.js';
import { TrainingData } from '../../dist/data/dataset.js';
import { Trainer } from '../../dist/index.js';

const { values } = parseArgs({
  options: { images: { type: 'string', default: '48' }, preset: { type: 'string', default: 'lite' } },
});
const count = Number(values.images);
const side = 1024;
const folder = await mkdtemp(path.join(tmpdir(), 'ddad-data-path-'));

async function photograph(i) {
  const data = Buffer.alloc(side * side * 3);
  let noise = i + 1;
  for (let p = 0; p < data.length; p++) {
    noise = (Math.imul(noise, 1103515245) + 12345) >>> 0;
    data[p] = 128 + 60 * Math.sin((p % (3 * side)) / 200 + i) + (noise >>> 28);
  }
  const file = path.join(folder, `${i}.png`);
  await sharp(data, { raw: { width: side, height: side, channels: 3 } })
    .png()
    .toFile(file);
  return file;
}

const median = (times) => [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];

async function timesOf(files, given) {
  const config = expandConfig({ preset: values.preset, channels: 'rgb', seed: 1, ...given });
  const data = new TrainingData([files], config);
  const { batchSize } = config.training;
  const passes = [[], []];
  for (const [pass, times] of passes.entries()) {
    for (let i = 0; i * batchSize < count; i++) {
      const start = performance.now();
      await data.batch(Math.floor((pass * count) / batchSize) + i);
      times.push(performance.now() - start);
    }
  }
  const trainer = new Trainer({ preset: values.preset, channels: 'rgb', seed: 1, steps: 14, ...given });
  const steps = [];
  let last;
  try {
    for await (const { phase, step } of trainer.fit(files)) {
      const now = performance.now();
      if (phase === 'train' && step > 4) steps.push(now - last);
      last = now;
      if (phase === 'calibrate') break;
    }
  } finally {
    trainer.dispose();
  }
  return { first: median(passes[0]), next: median(passes[1]), step: median(steps) };
}

try {
  const files = [];
  for (let i = 0; i < count; i++) files.push(await photograph(i));
  console.log(`${count} PNG files of ${side} x ${side}, preset ${values.preset}; ms, medians`);
  console.log('mode    rotation   batch, first pass   batch, next passes   training step');
  for (const mode of ['resize', 'crop']) {
    for (const rotation of [0, 180]) {
      const { first, next, step } = await timesOf(files, { mode, rotation });
      const columns = [first, next, step].map((ms) => ms.toFixed(1));
      console.log(
        `${mode.padEnd(8)}${String(rotation).padEnd(11)}${columns[0].padEnd(20)}${columns[1].padEnd(21)}${columns[2]}`,
      );
    }
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
