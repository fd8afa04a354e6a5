// What the TypeScript tests share: generated images, a place for files, and the command line in a process of its own.
import { spawn, spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';

export const root = fileURLToPath(new URL('../../', import.meta.url));
const ownBin = path.join(root, 'bin', 'ddad-native.js');

/** A folder that is removed after the tests of the file. */
export async function temporaryFolder() {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'ddad-test-'));
  after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Files below the folder that this process has open, unlinked ones too; null where the system does not tell. */
export async function openFiles(folder) {
  const links = await readdir('/proc/self/fd').catch(() => null);
  const targets = await Promise.all((links ?? []).map((link) => readlink(`/proc/self/fd/${link}`).catch(() => '')));
  return links && targets.filter((target) => target.startsWith(folder)).length;
}

/** A gray wave pattern, 8 bits; `defect` puts a bright square into it. */
export function pattern(width, height, shift = 0, defect = false) {
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const inDefect = defect && Math.abs(x - width / 2) < width / 8 && Math.abs(y - height / 2) < height / 8;
      data[y * width + x] = inDefect
        ? 250
        : Math.round(120 + 40 * Math.sin((x + shift) / 4) * Math.cos((y - shift) / 5));
    }
  }
  return { data, width, height, channels: 1 };
}

export function png({ data, width, height, channels }) {
  const image = sharp(data, { raw: { width, height, channels } });
  return (channels === 1 ? image.toColourspace('b-w') : image).png();
}

/** `count` good images as `train/good/NN.png` under `folder`, and one with a defect as `test/bad/00.png`. */
export async function makeDataset(folder, count = 10, width = 72, height = 66) {
  await mkdir(path.join(folder, 'train', 'good'), { recursive: true });
  await mkdir(path.join(folder, 'test', 'bad'), { recursive: true });
  for (let i = 0; i < count; i++) {
    const name = `${String(i).padStart(2, '0')}.png`;
    await png(pattern(width, height, i)).toFile(path.join(folder, 'train', 'good', name));
  }
  await png(pattern(width, height, 3, true)).toFile(path.join(folder, 'test', 'bad', '00.png'));
  return folder;
}

/** Starts the command line; resolves to its exit status (or signal) and what it printed. */
export function start(args, { env = {}, cwd, bin = ownBin } = {}) {
  const child = spawn(process.execPath, [bin, ...args], { cwd, env: { ...process.env, ...env } });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => (output[name] += text));
  }
  const finished = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code: code ?? signal, ...output }));
  });
  return { child, finished };
}

export const run = (args, options) => start(args, options).finished;

/** Waits until `check` holds. */
export async function until(check, timeoutMs = 20_000) {
  const end = performance.now() + timeoutMs;
  while (!(await check())) {
    if (performance.now() > end) throw new Error('it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Options of a network that trains in no time. */
export const tiny = {
  preset: 'nano',
  size: 16,
  batchSize: 2,
  steps: 6,
  threads: 1,
  unet: { channelMult: [1, 1, 1], numHeadChannels: 32 },
};

/** The same for the command line, but for the steps. */
export const tinyFlags = ['--preset', 'nano', '--size', '16', '--batch-size', '2', '--threads', '1'];

/** A file system of a few bytes ("8k") at a folder that is made, until the test ends; false where none can be mounted. */
export async function smallDisk(t, folder, size) {
  await mkdir(folder);
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder], { stdio: 'ignore' });
  if (mounted.status === 0) t.after(() => spawnSync('umount', [folder]));
  return mounted.status === 0;
}

/** Trains a tiny model to `file`. */
export async function trainTiny({ Trainer }, dataset, file, options = {}, fitOptions = {}) {
  const trainer = new Trainer({ ...tiny, ...options });
  try {
    for await (const progress of trainer.fit(dataset, fitOptions)) void progress;
    await trainer.save(file);
    return trainer.config;
  } finally {
    trainer.dispose();
  }
}

/** A safetensors file taken apart: its header and the bytes behind it. */
export async function readSafetensors(file) {
  const bytes = await readFile(file);
  const length = Number(bytes.readBigUInt64LE());
  return { header: JSON.parse(bytes.toString('utf8', 8, 8 + length)), data: bytes.subarray(8 + length) };
}

/** Without the digest of what it was, as files of earlier versions are. */
export async function writeSafetensors(file, { header, data }) {
  const metadata = { ...header.__metadata__ };
  for (const name of ['digest', 'digestAlgorithm', 'signature', 'signatureKey']) delete metadata[name];
  const text = Buffer.from(JSON.stringify(header.__metadata__ ? { ...header, __metadata__: metadata } : header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  await writeFile(file, Buffer.concat([prefix, text, data]));
}

/**
 * A dataset of products in the MVTec AD layout: `products` has the number of good images of each. The products look
 * different: their waves are of another width. Each has a good test image, one with a defect, and its mask.
 */
export async function makeProducts(folder, products, width = 40, height = 36) {
  for (const [p, [name, count]] of Object.entries(products).entries()) {
    const wave = (shift, defect) => {
      const image = pattern(width, height, shift, defect);
      image.data = image.data.map((value) => (value === 250 ? 250 : Math.round(value / (1 + p) + 30 * p)));
      return image;
    };
    const write = async (image, ...to) => {
      await mkdir(path.join(folder, name, ...to.slice(0, -1)), { recursive: true });
      await png(image).toFile(path.join(folder, name, ...to));
    };
    for (let i = 0; i < count; i++) await write(wave(i), 'train', 'good', `${String(i).padStart(2, '0')}.png`);
    await write(wave(50), 'test', 'good', '00.png');
    const bad = wave(3, true);
    await write(bad, 'test', 'bad', '00.png');
    const mask = { ...bad, data: bad.data.map((value) => (value === 250 ? 255 : 0)) };
    await write(mask, 'ground_truth', 'bad', '00_mask.png');
  }
  return folder;
}

/** Numbers between 0 and 1 that are the same in every run. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
