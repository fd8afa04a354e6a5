// The methods that the suite judges. Each gives, for a set's images, one map an image and one or more scores.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Detector, Trainer } from '../../../dist/index.js';
import { openPython, requirements, scoreWithPeer, script } from './peers.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const addon = process.env.DDAD_ADDON ?? path.join(root, 'build', 'Release', 'ddad.node');
/** Patches that PatchCore remembers, as the package does; features of PaDiM's Gaussians, as published. */
const defaultBank = 20_000;
const channels = 100;

/** Ours by the score that judges; `kind` as in the package's `scoring`. One model serves them all. */
const ours = {
  ours: { title: 'ours', kind: undefined },
  'ours-feature': { title: 'ours, feature level alone', kind: 'feature' },
  'ours-pixel': { title: 'ours, pixel level alone', kind: 'pixel' },
};
const peers = {
  patchcore: {
    rows: [
      { row: 'patchcore-mean', score: 'mean', title: 'PatchCore, mean' },
      { row: 'patchcore-largest', score: 'largest', title: 'PatchCore, largest' },
    ],
    job: ({ bank = defaultBank }) => ({ bank }),
  },
  padim: { rows: [{ row: 'padim', score: 'largest', title: 'PaDiM' }], job: () => ({ channels }) },
};
export const methodNames = [...Object.keys(ours), ...Object.keys(peers)];

async function hashOf(files) {
  const hash = createHash('sha256');
  for (const file of files) hash.update(`${path.basename(file)}\0`).update(await readFile(file));
  return hash.digest('hex').slice(0, 16);
}

async function filesBelow(folder, pattern) {
  const names = await readdir(folder, { recursive: true });
  return names
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => path.join(folder, name));
}

/** What made a result, so that another build does not take it for its own. */
export async function builds() {
  return {
    ours: await hashOf([addon, ...(await filesBelow(path.join(root, 'dist'), /\.js$/))]),
    peers: await hashOf([script, path.join(path.dirname(path.dirname(script)), 'patchcore.py'), requirements]),
  };
}

async function* scoreOneByOne(detector, files) {
  // The first image of a detector sets things up, and counts for no time.
  if (files.length > 0) await detector.score(files[0]);
  for (const file of files) {
    const start = performance.now();
    const { score, map } = await detector.score(file);
    yield { scores: { score }, seconds: (performance.now() - start) / 1000, map };
  }
}

/** Trains a model, or takes the one that an earlier run has left; goes on where it was interrupted. */
async function trained(file, { options, limit, images, say }) {
  if (existsSync(file)) return;
  await mkdir(path.dirname(file), { recursive: true });
  const checkpoint = file.replace(/\.safetensors$/, '.checkpoint.safetensors');
  const trainer = new Trainer({ ...options, ...(limit.steps && { steps: limit.steps }) });
  const resume = existsSync(checkpoint) ? checkpoint : undefined;
  const { timeLimitMs } = limit;
  try {
    for await (const { phase, done, step } of trainer.fit(images.all, { timeLimitMs, checkpoint, resume })) {
      say(phase, done, `step ${step}`);
    }
    await trainer.save(file);
  } finally {
    trainer.dispose();
  }
  await rm(checkpoint, { force: true });
}

/**
 * A method ready for `judge`: `{ rows, settings, open }`. `settings` decide whether an earlier result holds; `open` gives
 * `{ score, threshold, close }`.
 * `wanted`: `options` of training are those of the set and of the candidate; `limit` ends training; `bank` is what
 * PatchCore remembers; `made` says which data they are.
 */
export function methodFor(name, wanted) {
  const { candidate, options, limit, seed, side, threads, folder, set, images, made, build, python } = wanted;
  if (ours[name]) {
    const { title, kind } = ours[name];
    const count = images.all.length;
    const training = { options: { ...options, seed, threads }, limit, images: count, build: build.ours, made };
    const key = createHash('sha256').update(JSON.stringify(training)).digest('hex').slice(0, 12);
    const file = path.join(folder, 'models', `${set}-${key}.safetensors`);
    const called = candidate ? { row: `${candidate}/${name}`, title: `${title} (${candidate})` } : { row: name, title };
    return {
      rows: [{ ...called, score: 'score' }],
      settings: { ...training, kind: kind ?? 'default' },
      open: async (say) => {
        await trained(file, { options: training.options, limit, images, say });
        const detector = await Detector.load(file, { threads, ...(kind && { scoring: { kind } }) });
        return {
          score: (files) => scoreOneByOne(detector, files),
          threshold: detector.threshold ?? null,
          close: () => detector.dispose(),
        };
      },
    };
  }
  const { rows, job } = peers[name];
  const settings = {
    method: name,
    ...job(wanted),
    side,
    seed,
    threads,
    images: images.train.length,
    build: build.peers,
  };
  return {
    rows,
    settings,
    open: (say) => ({
      score: (files) => {
        say('fit', 0, `${images.train.length} images`);
        return scoreWithPeer(openPython(python), { ...settings, train: images.train, images: files });
      },
      threshold: null,
      close: () => undefined,
    }),
  };
}
