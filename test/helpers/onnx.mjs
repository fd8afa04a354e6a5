// What tests of exported graphs share: onnxruntime, the engine's noise and the pixel-level score, each written once more.
import { createRequire } from 'node:module';
import path from 'node:path';
import { after } from 'node:test';
import { installOnnxruntime } from '../../bench/peers/onnxruntime.mjs';
import { root } from './common.mjs';

const home = installOnnxruntime(path.join(root, '.deps', 'onnxruntime'));
const ort = createRequire(path.join(home, 'package.json'))('onnxruntime-node');

/** A tensor for a graph: int64 where the values are BigInts. */
export const tensor = (values, shape) =>
  new ort.Tensor(typeof values[0] === 'bigint' ? 'int64' : 'float32', values, shape);

/** Opens a graph; its `run` takes tensors by name and returns { values, shape } by name. */
export async function openGraph(file) {
  const session = await ort.InferenceSession.create(file, { intraOpNumThreads: 1, interOpNumThreads: 1 });
  after(() => session.release());
  return {
    inputs: session.inputNames,
    outputs: session.outputNames,
    run: async (feeds) => {
      const results = await session.run(feeds);
      return Object.fromEntries(
        Object.entries(results).map(([name, { data, dims }]) => [name, { values: data, shape: [...dims] }]),
      );
    },
  };
}

/** ||out - ref|| / ||ref||; NaN where a value is. */
export function distance(out, ref) {
  if (out.length !== ref.length) return Number.NaN;
  let squares = 0;
  let size = 0;
  for (const [i, value] of ref.entries()) {
    squares += (out[i] - value) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(squares / size);
}

/** Philox4x32-10 of Random123. */
function philox(key, counter) {
  let [k0, k1] = key;
  let [c0, c1, c2, c3] = counter;
  const product = (a, b) => {
    const wide = BigInt(a) * BigInt(b);
    return [Number(wide >> 32n), Number(wide & 0xffffffffn)];
  };
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = product(c0, 0xd2511f53);
    const [high1, low1] = product(c2, 0xcd9e8d57);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The noise of seed 0 with which the engine scores at the scale number `scale`, [channels, height, width]. */
export function engineNoise(scale, channels, height, width) {
  const interleaved = [];
  for (let block = 0; interleaved.length < channels * height * width; block++) {
    const words = philox([0, 0], [block, 0, scale, 2]);
    for (const [a, b] of [words.slice(0, 2), words.slice(2)]) {
      const radius = Math.sqrt(-2 * Math.log((a >>> 1) * 2 ** -31 + 2 ** -32));
      const angle = 2 * Math.PI * (b >>> 8) * 2 ** -24;
      interleaved.push(radius * Math.cos(angle), radius * Math.sin(angle));
    }
  }
  return Float32Array.from({ length: channels * height * width }, (_, i) => {
    const [c, pixel] = [Math.floor(i / (height * width)), i % (height * width)];
    return interleaved[pixel * channels + c];
  });
}

/** Pixels of one image, interleaved, to x_0 [channels, height, width]. */
export function normalized({ data, width, height, channels }) {
  return Float32Array.from({ length: data.length }, (_, i) => {
    const [c, pixel] = [Math.floor(i / (width * height)), i % (width * height)];
    return data[pixel * channels + c] / 127.5 - 1;
  });
}

/** What the linear chain of 1000 steps says of step `t`. */
function step(t) {
  const beta = (i) => 1e-4 + ((0.02 - 1e-4) * i) / 999;
  let before = 1;
  for (let i = 0; i < t; i++) before *= 1 - beta(i);
  const abar = before * (1 - beta(t));
  return { beta: beta(t), abar, before, variance: (beta(t) * (1 - before)) / (1 - abar) };
}

/** x_t, equation (1). */
export function noised(x0, noise, t) {
  const { abar } = step(t);
  return x0.map((value, i) => Math.sqrt(abar) * value + Math.sqrt(1 - abar) * noise[i]);
}

/** The KL (9) in nats, mean over channels: `out` is the network's output [2 channels, pixels] for `xt`. */
export function klMap(x0, xt, out, t, channels) {
  const { beta, abar, before, variance } = step(t);
  const coefficient = (beta * Math.sqrt(before)) / (1 - abar);
  const pixels = x0.length / channels;
  const map = new Float64Array(pixels);
  for (let i = 0; i < x0.length; i++) {
    const xstart = Math.sqrt(1 / abar) * xt[i] - Math.sqrt(1 / abar - 1) * out[i];
    const difference = coefficient * (x0[i] - Math.min(1, Math.max(-1, xstart)));
    const share = (out[x0.length + i] + 1) / 2;
    const logVariance = share * Math.log(beta) + (1 - share) * Math.log(variance);
    const gap = Math.log(variance) - logVariance;
    map[i % pixels] += (0.5 * (-1 - gap + Math.exp(gap) + difference ** 2 * Math.exp(-logVariance))) / channels;
  }
  return map;
}
