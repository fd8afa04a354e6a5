// How the time of scoring grows: with the pixels of an image, with the number of images, with threads, and beside other
// work in the same process.
//   node bench/ours/scaling.mjs [--json FILE] [--svg FILE] [--largest 2048]
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { syntheticPixels, writeDataset } from '../../dist/bench/synthetic.js';
import { Detector, Trainer } from '../../dist/index.mjs';
import { makeArtist } from '../../dist/report/charts.js';

const { values } = parseArgs({
  options: { json: { type: 'string' }, svg: { type: 'string' }, largest: { type: 'string', default: '2048' } },
});
const sides = [256, 512, 1024, 2048].filter((side) => side <= Number(values.largest));
const counts = [1, 2, 4, 8, 16, 32, 64];
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const pixelsOf = (side, number = 0) => ({
  data: syntheticPixels(side, side, number),
  width: side,
  height: side,
  channels: 3,
});

/** Milliseconds of each of `rounds` calls, after one that warms up. */
async function timesOf(rounds, work) {
  await work();
  const times = [];
  for (let i = 0; i < rounds; i++) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return times;
}

/** Runs `use` beside threads that never wait. */
async function besideBusyThreads(count, use) {
  const workers = Array.from({ length: count }, () => new Worker('for (;;);', { eval: true }));
  try {
    return await use();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** A model of windows of 64x64: larger images are scored in tiles, so that attention never sees more than a tile. */
async function makeModel(folder) {
  const dataset = path.join(folder, 'dataset');
  const model = path.join(folder, 'nano.safetensors');
  await writeDataset(dataset, 128, 8);
  const trainer = new Trainer({ preset: 'nano', mode: 'crop', channels: 'rgb', steps: 4 });
  for await (const progress of trainer.fit(dataset)) void progress;
  await trainer.save(model);
  trainer.dispose();
  return model;
}

async function measure(model) {
  const report = {
    processor: cpus()[0].model,
    processors: availableParallelism(),
    pixels: [],
    images: [],
    threads: [],
  };
  const detector = await Detector.load(model);
  for (const side of sides) {
    const image = pixelsOf(side);
    const milliseconds = median(await timesOf(side > 1024 ? 1 : 3, () => detector.score(image)));
    report.pixels.push({ side, milliseconds, perMegapixel: (milliseconds / side ** 2) * 1e6 });
  }
  const images = counts.map((_, number) => pixelsOf(128, number));
  for (const count of counts) {
    const batch = Array.from({ length: count }, (_, i) => images[i % images.length]);
    const all = async () => {
      for await (const { score } of detector.scoreAll(batch)) void score;
    };
    const milliseconds = median(await timesOf(3, all));
    report.images.push({ count, milliseconds, perImage: milliseconds / count });
  }
  detector.dispose();

  const image = pixelsOf(256);
  for (const threads of [1, 2, 4, 8].filter((n) => n <= availableParallelism())) {
    const one = await Detector.load(model, { threads });
    const milliseconds = median(await timesOf(5, () => one.score(image)));
    report.threads.push({ threads, milliseconds });
    if (threads === availableParallelism())
      report.beside = await besideBusyThreads(threads, async () => ({
        busyThreads: threads,
        milliseconds: median(await timesOf(5, () => one.score(image))),
      }));
    one.dispose();
  }
  const single = report.threads[0].milliseconds;
  for (const row of report.threads) row.efficiency = single / row.milliseconds / row.threads;
  report.beside.slowdown = report.beside.milliseconds / report.threads.at(-1).milliseconds;
  return report;
}

/** Both series over what grows, each relative to its first point: a straight line through the corner is linear. */
async function chart(report) {
  const { plot, draw } = await makeArtist();
  const points = [
    ...report.pixels.map(({ side, milliseconds }) => ({
      series: 'pixels of one image',
      amount: (side / report.pixels[0].side) ** 2,
      time: milliseconds / report.pixels[0].milliseconds,
    })),
    ...report.images.map(({ count, milliseconds }) => ({
      series: 'images of 128x128',
      amount: count,
      time: milliseconds / report.images[0].milliseconds,
    })),
  ];
  const line = { x: 'amount', y: 'time', stroke: 'series' };
  return draw({
    label: 'Time of scoring over the number of pixels and of images, both relative to the smallest',
    width: 520,
    x: { type: 'log', base: 2, label: 'times as much', grid: true },
    y: { type: 'log', base: 2, label: 'times as long', grid: true },
    color: { legend: false, domain: ['pixels of one image', 'images of 128x128'], range: ['#1f77b4', '#d62728'] },
    marks: [
      plot.line(
        [
          [1, 1],
          [64, 64],
        ],
        { stroke: '#999', strokeDasharray: '3 3' },
      ),
      plot.line(points, line),
      plot.dot(points, { ...line, fill: 'series' }),
      plot.text(
        points,
        plot.selectLast({ ...line, z: 'series', fill: 'series', stroke: null, text: 'series', dy: -10, dx: -60 }),
      ),
    ],
  });
}

const folder = await mkdtemp(path.join(tmpdir(), 'ddad-scaling-'));
try {
  const report = await measure(await makeModel(folder));
  const row = (...cells) => console.log(cells.map((cell) => String(cell).padEnd(18)).join(''));
  row('image', 'ms', 'ms a megapixel');
  for (const { side, milliseconds, perMegapixel } of report.pixels)
    row(`${side}x${side}`, milliseconds.toFixed(0), perMegapixel.toFixed(0));
  row('images', 'ms', 'ms an image');
  for (const { count, milliseconds, perImage } of report.images)
    row(count, milliseconds.toFixed(0), perImage.toFixed(1));
  row('threads', 'ms', 'efficiency');
  for (const { threads, milliseconds, efficiency } of report.threads)
    row(threads, milliseconds.toFixed(0), efficiency.toFixed(2));
  const { busyThreads, milliseconds, slowdown } = report.beside;
  row(`+${busyThreads} busy`, milliseconds.toFixed(0), `${slowdown.toFixed(2)} times as long`);
  if (values.json) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
  if (values.svg)
    await writeFile(
      values.svg,
      `${(await chart(report)).replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ')}\n`,
    );
} finally {
  await rm(folder, { recursive: true, force: true });
}
