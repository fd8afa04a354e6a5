// What the provocations of errors share: a dataset, models, ways to damage them, and the command line's errors.
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import {
  makeDataset,
  makeProducts,
  readSafetensors,
  root,
  run,
  temporaryFolder,
  tiny,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

export const folder = await temporaryFolder();
export const at = (...names) => path.join(folder, ...names);
export const parts = await makeDataset(at('parts'), 6);
export const products = await makeProducts(at('products'), { bottle: 3, screw: 3 });
export const [good, bad] = [path.join(parts, 'train', 'good', '00.png'), path.join(parts, 'test', 'bad', '00.png')];

/** A model with features, its checkpoint, one without features, and one of several products. */
export const [model, checkpoint] = [at('model.safetensors'), at('checkpoint.safetensors')];
export const [plain, unified] = [at('plain.safetensors'), at('unified.safetensors')];
const few = { steps: 2 };
await trainTiny({ Trainer }, parts, model, few, { checkpoint });
await trainTiny({ Trainer }, parts, plain, { ...few, backbone: null, memoryBank: null });
await trainTiny({ Trainer }, products, unified, { ...few, backbone: null, memoryBank: null });

export async function load(file = model, options = {}) {
  const detector = await Detector.load(file, { threads: 1, ...options });
  after(() => detector.dispose());
  return detector;
}

/** Trains a tiny model as far as it goes. */
export async function fit(options = {}, dataset = parts, fitOptions = {}) {
  const trainer = new Trainer({ ...tiny, steps: 2, ...options });
  try {
    for await (const progress of trainer.fit(dataset, fitOptions)) void progress;
  } finally {
    trainer.dispose();
  }
}

let files = 0;

/** A new file with these contents. */
export async function file(contents, extension = 'bin') {
  const name = at(`${(files += 1)}.${extension}`);
  await writeFile(name, contents);
  return name;
}

/** A new folder with these files in it. */
export async function folderOf(contents = {}) {
  const name = at(`folder-${(files += 1)}`);
  await mkdir(name);
  for (const [inside, text] of Object.entries(contents)) {
    await mkdir(path.dirname(path.join(name, inside)), { recursive: true });
    await writeFile(path.join(name, inside), text);
  }
  return name;
}

/**
 * A changed copy of a model or checkpoint: `change` gets the tensors' entries, their data, the metadata and the
 * configuration in it.
 */
export async function changed(from, change) {
  const { header, data } = await readSafetensors(from);
  const { __metadata__: metadata = {}, ...tensors } = header;
  const config = JSON.parse(metadata.config ?? '{}');
  await change({ tensors, data, metadata, config });
  if (metadata.config !== undefined && !metadata.verbatim) metadata.config = JSON.stringify(config);
  const name = at(`${(files += 1)}.safetensors`);
  await writeSafetensors(name, { header: { __metadata__: metadata, ...tensors }, data });
  return name;
}

/** A safetensors file of one number with this metadata. */
export async function withMetadata(metadata) {
  const name = at(`${(files += 1)}.safetensors`);
  const header = { __metadata__: metadata, x: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } };
  await writeSafetensors(name, { header, data: Buffer.alloc(4) });
  return name;
}

/** The status that a code ends with, as docs/command-line.md has it. */
const statusOf = (code) => ({ ERR_USAGE: 2, ERR_OPTION: 2, ERR_ABORTED: 130 })[code] ?? 1;

/** Rejects with the error that the command line reports. */
export async function cli(args, options) {
  const { code, stderr } = await run(args, options);
  const line = /^ddad-native: (ERR_[A-Z_]+): (.+)$/m.exec(stderr);
  if (!line) throw new Error(`expected an error, got status ${code}: ${stderr}`);
  const error = Object.assign(new Error(line[2]), { code: line[1] });
  if (code !== statusOf(error.code)) throw new Error(`${error.code} ended with status ${code}: ${stderr}`);
  throw error;
}

/** A copy of the package without its native half. */
export async function unbuiltPackage() {
  const name = at(`package-${(files += 1)}`);
  for (const part of ['bin', 'dist', 'package.json'])
    await cp(path.join(root, part), path.join(name, part), { recursive: true });
  await symlink(path.join(root, 'node_modules'), path.join(name, 'node_modules'));
  return name;
}

export const json = async (name) => JSON.parse(await readFile(name, 'utf8'));
