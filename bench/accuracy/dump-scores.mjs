// What the scores of a gray model are made of, for the images of a dataset in MVTec layout: the held-back training
// images, some that were trained on, and all test images. For calibration-variants.py:
//   node bench/accuracy/dump-scores.mjs MODEL DATASET FOLDER [--steps 100] [--trained 120] [--limit N]
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { pixelSize } from '../../dist/config/config.js';
import { findImages, splitHeldBack } from '../../dist/data/dataset.js';
import { readMask } from '../../dist/evaluation/test-set.js';
import { decodeImage, resizePixels } from '../../dist/image/decode.js';
import { Detector } from '../../dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    steps: { type: 'string', default: '100' },
    trained: { type: 'string', default: '120' },
    limit: { type: 'string', default: 'Infinity' },
    worker: { type: 'string', default: 'build/ddad_bench' },
  },
});
const [model, dataset, folder] = positionals;
if (!folder) throw new Error('expected MODEL DATASET FOLDER');
const detector = await Detector.load(model);
const { config } = detector;
detector.dispose();

const { files } = await findImages(dataset);
const { train, heldBack } = splitHeldBack(files, config.training.holdOut, config.training.seed);
const every = Math.max(1, Math.floor(train.length / Number(values.trained)));
const entries = [
  ...heldBack.map((file) => ({ group: 'held-back', file })),
  ...train.filter((_, i) => i % every === 0).map((file) => ({ group: 'trained', file })),
];
for (const group of (await readdir(path.join(dataset, 'test'))).sort()) {
  const names = (await readdir(path.join(dataset, 'test', group))).sort().slice(0, Number(values.limit));
  for (const name of names) {
    const mask = path.join(dataset, 'ground_truth', group, `${path.parse(name).name}_mask.png`);
    entries.push({ group, file: path.join(dataset, 'test', group, name), mask: existsSync(mask) ? mask : null });
  }
}

await mkdir(folder, { recursive: true });
const lines = [];
for (const [i, entry] of entries.entries()) {
  const at = (suffix) => path.join(folder, `${i}.${suffix}`);
  const decoded = await decodeImage(entry.file, { channels: 1 });
  const seen = config.input.mode === 'resize' ? await resizePixels(decoded, pixelSize(config)) : decoded;
  Object.assign(entry, {
    width: decoded.width,
    height: decoded.height,
    seen: [seen.width, seen.height],
    out: at('safetensors'),
  });
  await writeFile(at('gray'), seen.data);
  if (entry.mask) {
    const { data } = await readMask(entry.mask, {});
    entry.mask = at('mask');
    await writeFile(entry.mask, data);
  }
  lines.push(`${seen.width} ${seen.height} ${at('gray')} ${entry.out}`);
}
await writeFile(path.join(folder, 'index.json'), JSON.stringify(entries));
const { status } = spawnSync(values.worker, ['scores', model, values.steps], {
  input: `${lines.join('\n')}\n`,
  stdio: ['pipe', 'inherit', 'inherit'],
});
process.exit(status ?? 1);
