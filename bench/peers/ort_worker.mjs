// onnxruntime-node's side of the peer benchmark: answers JSON lines on stdin with JSON lines on stdout (protocol:
// README.md). `node ort_worker.mjs FOLDER NAME`: FOLDER holds the installed package, NAME says which of the graphs to run.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { answerRequests, sessionOptions } from './answer.mjs';
import { readTensors } from './safetensors.mjs';

const [folder, graphName] = process.argv.slice(2);
const require = createRequire(join(folder, 'package.json'));
const ort = require('onnxruntime-node');

let work;

async function setup({ workload, preset, size, images, threads, graphs }) {
  if (workload !== 'score') throw new Error(`workload: expected score, got ${workload}`);
  const options = sessionOptions(threads);
  const shape = [images, preset.inChannels, size, size];
  const x0 = Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, () => Math.random() * 2 - 1);
  // The path, so that the weights never pass through JavaScript; the input's memory is read in place.
  const session = await ort.InferenceSession.create(graphs[graphName].timed, options);
  work = {
    session,
    feeds: { x0: new ort.Tensor('float32', x0, shape) },
    check: { path: graphs[graphName].check, options },
  };
  return { ok: true, engine: `onnxruntime-node ${require('onnxruntime-node/package.json').version}` };
}

/** Runs the graph that takes the noise instead of drawing it; its session lives no longer than that. */
async function output({ inputs }) {
  const session = await ort.InferenceSession.create(work.check.path, work.check.options);
  const tensors = readTensors(inputs);
  const feeds = Object.fromEntries(
    session.inputNames.map((name) => [name, new ort.Tensor('float32', tensors[name].values, tensors[name].shape)]),
  );
  const results = await session.run(feeds);
  const encode = ({ data, dims }) => ({
    shape: dims,
    data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
  });
  const reply = Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, encode(tensor)]));
  await session.release();
  return { tensors: reply };
}

async function run({ iterations, warmup = 0 }) {
  const seconds = [];
  for (let i = 0; i < warmup + iterations; i++) {
    const start = performance.now();
    await work.session.run(work.feeds);
    if (i >= warmup) seconds.push((performance.now() - start) / 1000);
  }
  return { seconds };
}

function rss() {
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)[1]);
  return { peakKb: field('VmHWM'), currentKb: field('VmRSS') };
}

await answerRequests({ setup, output, run, rss });
