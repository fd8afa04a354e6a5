import { spawn } from 'node:child_process';
import { unlink } from 'node:fs/promises';
import path from 'node:path';
import { packageRoot } from '../../base/package.js';
import { pixelSize } from '../../config/config.js';
import { decodeImage, resizePixels } from '../../image/decode.js';
import { addon, callNative } from '../../engine/native.js';
import { cropInto } from '../../data/crop.js';
import { imageFile, modelFile, syntheticJpeg } from '../synthetic.js';
import type { Figure, Task } from '../types.js';
import { budget, configOf, engineOptions, type Suite, timeFigure, timesOf } from './common.js';

const photo = { width: 1280, height: 960 };

/** What tinybench says of a function: milliseconds of each call. */
async function callTimes(run: () => Promise<void>, seconds: number): Promise<number[]> {
  const { Bench } = await import('tinybench');
  const bench = new Bench({ time: 1000 * seconds, iterations: 5, warmupTime: 50, retainSamples: true, throws: true });
  bench.add('call', run);
  const [task] = await bench.run();
  const result = task?.result;
  return result && 'latency' in result ? [...(result.latency.samples ?? [])] : [];
}

/** Runs a command line of this build in a process of its own, which ends with this one. */
function runProcess(args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const bin = path.join(packageRoot, 'bin', 'ddad-native.js');
    const child = spawn(process.execPath, [bin, ...args], { stdio: 'ignore' });
    const stop = (): unknown => child.kill('SIGKILL');
    process.once('exit', stop);
    child.on('error', reject).on('close', (code) => {
      process.off('exit', stop);
      if (code === 0) resolve();
      else reject(new Error(`ddad-native ${args[0]}: ended with ${code}`));
    });
  });
}

/** Images and models from and to files, and how long a process takes until it is of use. */
export const ioSuite: Suite = async (task: Task) => {
  const { preset, folder, threads } = task;
  const config = configOf(task);
  const size = pixelSize(config);
  const jpeg = await syntheticJpeg(photo.width, photo.height, 1);
  const input = new Float32Array(3 * size * size);
  const image = await callTimes(async () => {
    const pixels = await resizePixels(await decodeImage(jpeg, { channels: 3 }), size);
    cropInto(input, pixels, { left: 0, top: 0, size, flipX: false, flipY: false });
  }, budget(task));

  const model = modelFile(folder, preset);
  const engine = JSON.stringify(engineOptions(task));
  const load = () => callNative(undefined, (token) => addon().loadDetector(model, engine, token));
  const loading = await timesOf(async () => (await load()).dispose(), budget(task) / 2);
  const detector = await load();
  const copy = path.join(folder, `copy-${process.pid}.safetensors`);
  const stored = detector.config();
  const saving = await timesOf(
    () => {
      return callNative(undefined, (token) => detector.save(copy, stored, token));
    },
    budget(task) / 2,
  );
  detector.dispose();
  await unlink(copy);

  const started = await timesOf(() => runProcess(['info', '--json']), 0);
  const first = ['score', model, imageFile(folder, preset), '--json', '--threads', String(threads)];
  const scored = await timesOf(() => runProcess(first), 0);
  const figures: Figure[] = [
    timeFigure(`${preset} decode, resize, normalise ${photo.width}x${photo.height} JPEG`, image),
    timeFigure(`${preset} load model`, loading),
    // flushed to the disk, which others use as well
    timeFigure(`${preset} save model`, saving, { informative: true }),
    timeFigure(`${preset} start of a process`, started),
    timeFigure(`${preset} start to first score`, scored),
  ];
  return figures;
};
