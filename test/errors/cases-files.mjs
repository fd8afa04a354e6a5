// What provokes the errors about images, datasets and files: by code, then by the message as docs/errors.md has it.
import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { cp, readFile, rename, rm, truncate, readdir, readlink, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { checkModel, Detector, evaluate, Trainer } from '../../dist/index.js';
import {
  at,
  changed,
  checkpoint,
  cli,
  file,
  fit,
  folder,
  folderOf,
  good,
  load,
  model,
  parts,
  products,
  unified,
  withMetadata,
} from './kit.mjs';
import { makeDataset, pattern, png, root, run, tiny, trainTiny } from '../helpers/common.mjs';

const detector = await load();
const raw = (more) => detector.score({ data: new Uint8Array(16), width: 4, height: 4, channels: 1, ...more });
const small = await png(pattern(20, 20)).toBuffer();

/** A pipe that nobody writes to. */
async function pipe(name) {
  await rm(at(name), { force: true });
  const { status, stderr } = spawnSync('mkfifo', [at(name)], { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  return at(name);
}

/** Rejects with the error that the command line reports when its standard output goes to a file. */
async function cliTo(name, args) {
  const fd = openSync(name, 'w');
  const { status, stderr } = spawnSync(process.execPath, [path.join(root, 'bin', 'ddad-native.js'), ...args], {
    stdio: ['ignore', fd, 'pipe'],
    encoding: 'utf8',
  });
  closeSync(fd);
  const [, code, message] = /^ddad-native: (ERR_[A-Z_]+): (.+)$/m.exec(stderr) ?? [];
  if (status !== 1 || !code) throw new Error(`expected an error, got status ${status}: ${stderr}`);
  throw Object.assign(new Error(message), { code });
}

/** A dataset to evaluate, with a mask of this size and value. */
async function masked(size, value) {
  const mask = await png({ data: new Uint8Array(size * size).fill(value), width: size, height: size, channels: 1 });
  return folderOf({
    'test/good/0.png': small,
    'test/dent/0.png': small,
    'ground_truth/dent/0_mask.png': await mask.toBuffer(),
  });
}

export const image = {
  ERR_IMAGE: {
    '<file>: no such file': () => detector.score(at('nowhere.png')),
    '<file>: expected an image, got a <kind>': [
      () => detector.score(parts),
      async () => detector.score(await pipe('pipe.jpg')),
    ],
    '<file>: cannot be read: <reason>': () => detector.score(path.join(good, 'inside.png')),
    '<image>: expected an image, got an empty file': async () => detector.score(await file('', 'png')),
    '<image>: not an image that can be read': async () => detector.score(await file('hello', 'png')),
    '<image>: damaged or truncated: <reason>': async () => detector.score((await readFile(good)).subarray(0, 200)),
    '<image>: expected a photograph (PNG, JPEG, TIFF, WebP), got <format>': () =>
      detector.score(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')),
    '<image>: expected 8 or 16 bits a channel, got <depth>': () => detector.score(floatTiff()),
    '<image>: expected at most <n> pixels (limitInputPixels), got <w> x <h>': () =>
      detector.score(good, { limitInputPixels: 10 }),
    '<image>: expected a path, an encoded image or pixels, got <what>': [
      () => detector.score(7),
      () => detector.score(new URL('file:///part.png')),
      () => detector.score([]),
      () => detector.score({}),
    ],
    'the image: expected a path, got an empty text': () => detector.score(''),
    'the image: expected a path without NUL characters, got <text>': () => detector.score('part\0.png'),
    '<image>: expected a whole width and height of at least 1, got <w> x <h>': [
      () => raw({ width: 0 }),
      () => raw({ width: 1.5 }),
    ],
    '<image>: expected 1 to 4 channels, got <n>': () => raw({ channels: 5 }),
    '<image>: expected data as Uint8Array, Uint16Array or Float32Array, got <what>': () => raw({ data: [1, 2] }),
    '<image>: expected <n> values of data, got <n>': () => raw({ width: 5 }),
    '<image>: expected float pixels from 0 to 1, got <value>': () => raw({ data: new Float32Array(16).fill(255) }),
    '<file>: has changed since it was scored: expected the file that was scored, <what>, got another, <what>':
      async () => {
        const name = await file(small, 'png');
        const result = await detector.score(name);
        await rename(await file(small), name);
        await result.heatmap();
      },
    '<file>: has changed since it was scored: expected <w> x <h>, the size of its map, got <w> x <h>': async () => {
      // written in place, as long as before and with the time of before
      const other = await png(pattern(30, 20)).toBuffer();
      const name = await file(Buffer.concat([small, Buffer.alloc(1000)]), 'png');
      await utimes(name, 1e9, 1e9);
      const result = await detector.score(name);
      await writeFile(name, Buffer.concat([other, Buffer.alloc(small.length + 1000 - other.length)]));
      await utimes(name, 1e9, 1e9);
      await result.heatmap();
    },
    'image: Gaussians of places need the whole image at once, at most <n> pixels a side, got <w> x <h>': () =>
      asTexture(600),
    'image: per-image normalisation needs the whole image at once, at most <n> pixels a side, got <w> x <h>':
      async () => {
        const other = await load(model, { scoring: { normalization: 'per-image' } });
        await other.score({ data: new Uint8Array(600 * 20), width: 600, height: 20, channels: 1 });
      },
    '<mask>: expected a mask in black and white; its brightest value is <value> of <n>': async () =>
      evaluate(detector, await masked(20, 1)),
    '<mask>: expected <w> x <h>, the size of <file>, got <w> x <h>': async () =>
      evaluate(detector, await masked(21, 255)),
  },
};

/** A TIFF of one pixel, a float of 32 bits. */
function floatTiff() {
  const bytes = Buffer.alloc(8 + 4 + 2 + 10 * 12 + 4);
  bytes.write('II*\0', 'latin1');
  bytes.writeUInt32LE(12, 4);
  bytes.writeFloatLE(0.5, 8);
  const one = [256, 257, 259, 262, 277, 278].map((tag) => [tag, 1]);
  const tags = [...one, [258, 32], [273, 8], [279, 4], [339, 3]].sort(([a], [b]) => a - b);
  let position = bytes.writeUInt16LE(tags.length, 12);
  for (const [tag, value] of tags) {
    position = bytes.writeUInt16LE(tag, position);
    position = bytes.writeUInt16LE(4, position);
    position = bytes.writeUInt32LE(1, position);
    position = bytes.writeUInt32LE(value, position);
  }
  return bytes;
}

export const dataset = {
  ERR_DATASET: {
    '<folder>: no such folder': () => fit({}, at('nowhere')),
    '<folder>: expected a folder, got a file': () => fit({}, good),
    '<folder>: expected good images in train/good beside <folders>; there is no such folder': async () =>
      fit({}, await folderOf({ 'test/good/0.png': small })),
    '<folder>: expected good images (PNG, JPEG, TIFF, WebP) in it or in its train/good, found <what>': async () =>
      fit({}, await folderOf({ 'notes.txt': 'none' })),
    'expected a list of good images, got an empty one': () => fit({}, []),
    '<file>: no such file': () => fit({}, [good, at('nowhere.png')]),
    '<folder>: expected good images, or folders of at least two products; only <folder> has train/good: name that folder':
      async () => fit({}, await folderOf({ 'screw/train/good/0.png': small, 'bolt/0.png': small })),
    '<checkpoint>: was trained on <n> other images; found <n> whose names or sizes differ, such as <file>': async () =>
      fit({}, await folderOf({ '0.png': small }), { resume: checkpoint }),
    '<checkpoint>: was trained on <n> other images; found <n> whose names or sizes differ': async () => {
      const fewer = at('fewer');
      await cp(path.join(parts, 'train', 'good'), fewer, { recursive: true });
      await rm(path.join(fewer, '00.png'));
      await fit({}, fewer, { resume: checkpoint });
    },
    '<checkpoint>: was trained on other images; <file> has the name and size of one of them, and other contents':
      async () => {
        const other = at('other-contents');
        await cp(path.join(parts, 'train', 'good'), other, { recursive: true });
        const image = path.join(other, '03.png');
        const bytes = await readFile(image);
        bytes[bytes.length - 20] ^= 1;
        await writeFile(image, bytes);
        await fit({}, other, { resume: checkpoint });
      },
    '<file>: expected an image, got a <kind>': [
      () => fit({}, [good, parts]),
      async () => fit({}, [await pipe('pipe.png')]),
    ],
    '<folder>: expected products of other names, got "__proto__"': async () =>
      fit({}, await folderOf({ '__proto__/train/good/0.png': small, 'screw/train/good/0.png': small })),
    '<folder>: expected images, found <what>': [
      async () => cli(['score', model, await folderOf()]),
      async () => {
        const overlays = await folderOf();
        await run(['score', model, good, '--out', overlays, '--threads', '1']);
        await cli(['score', model, overlays]);
      },
    ],
    '<folder>: expected a folder test/ as in the MVTec AD layout, found <what>': async () =>
      evaluate(detector, await folderOf({ 'train/good/0.png': small })),
    '<folder>: none of the test images (<n>) can be read: <reason>': async () =>
      cli(['evaluate', model, await folderOf({ 'test/good/0.png': 'none', 'test/dent/0.png': 'none' })]),
    '<folder>: expected images in test/good and in a folder of each defect, found none': async () =>
      evaluate(detector, await folderOf({ 'test/0.png': small })),
    '<folder>: expected a folder test/ as in the MVTec AD layout, for a model of a single product; found folders of products (<names>): name one of them':
      () => evaluate(detector, products),
  },
};

/** Cuts the evaluation's temporary file, which has no name, through the list of this process's open files. */
async function cutSpool() {
  for (const number of await readdir('/proc/self/fd')) {
    const target = await readlink(`/proc/self/fd/${number}`).catch(() => '');
    if (target.includes('ddad-') && target.includes('.tmp')) await truncate(`/proc/self/fd/${number}`);
  }
}

export const disk = {
  ERR_FILE_READ: {
    'cannot read <file>: <reason>': [
      () => Detector.load(at('nowhere.safetensors')),
      () => Detector.load(folder),
      async () => Detector.load(await pipe('model.pipe')),
    ],
    '<file>: cannot be read: <reason>': [
      () => fit({}, parts, { resume: at('nowhere.safetensors') }),
      () => fit({}, parts, { resume: folder }),
      () => cli(['bench', '--compare', at('nowhere.json')]),
      async () => cli(['bench', '--compare', await pipe('pipe.json')]),
      async () => fit({}, parts, { resume: await pipe('pipe.safetensors') }),
    ],
    '<file>: cannot be read: it has become shorter': async () =>
      evaluate(detector, await masked(20, 255), { memoryBytes: 4096, temporaryFolder: folder, onImage: cutSpool }),
  },
  ERR_FILE_WRITE: {
    'cannot write <file>: <reason>': async () => {
      const trainer = new Trainer(tiny);
      for await (const progress of trainer.fit(parts)) void progress;
      await trainer.save(at('nowhere', 'model.safetensors')).finally(() => trainer.dispose());
    },
    '<file>: cannot be written: <reason>': () =>
      cli(['train', parts, '--out', path.join(good, 'model.safetensors'), '--preset', 'nano']),
    '<folder>: cannot be written: expected a folder, found <what>': [
      () => cli(['score', model, good, '--out', good]),
      () => cli(['evaluate', model, parts, '--out', path.join(good, 'inside')]),
    ],
    '<file>: cannot be written: expected a file, found a folder': () =>
      cli(['train', parts, '--out', folder, '--preset', 'nano']),
    '<file>: cannot be written: expected a regular file or none, got a <kind>': async () =>
      cli(['train', parts, '--out', await pipe('out.safetensors'), '--preset', 'nano']),
    '<file>: cannot be written: it exists, and is no <what>; --force replaces it': [
      () => cli(['train', parts, '--out', good, '--preset', 'nano']),
      () => cli(['import', good, '--out', good]),
      () => cli(['export', model, '--onnx', good]),
    ],
    '<file>: cannot be written: process <n> on <host> has been training to it since <time>; remove <lock> where that process is gone':
      async () => {
        const checkpoint = at('locked.safetensors');
        const trainer = new Trainer(tiny);
        try {
          for await (const progress of trainer.fit(parts, { checkpoint })) {
            void progress;
            await fit({}, parts, { checkpoint });
          }
        } finally {
          trainer.dispose();
        }
      },
    '<file>: cannot be written: <lock> is there, and is no lock of ddad-native': async () => {
      await writeFile(at('foreign.safetensors.lock'), 'mine');
      await fit({}, parts, { checkpoint: at('foreign.safetensors') });
    },
    '<file>: cannot be written: its lock <lock> cannot be read: <reason>': async () => {
      await pipe('piped.safetensors.lock');
      await fit({}, parts, { checkpoint: at('piped.safetensors') });
    },
    'standard output: cannot be written: <reason>': () => cliTo('/dev/full', ['score', model, good]),
    '<file>: cannot be written: it exists, and holds no metrics of a training run': () =>
      fit({}, parts, { metrics: good }),
    '<file>: cannot be written: <reason>; the evaluation keeps the pixels there; TMPDIR names another folder':
      async () => evaluate(detector, await masked(20, 255), { memoryBytes: 4096, temporaryFolder: at('nowhere') }),
  },
};

let withEvidence;
/** A model that is judged by evidence; it takes four held-back images. */
async function judging() {
  withEvidence ??= (async () => {
    const file = at('judging.safetensors');
    await trainTiny({ Trainer }, parts, file, { steps: 2, holdOut: 0.7 });
    return file;
  })();
  return withEvidence;
}

/** One whose places have Gaussians; it takes sixteen images that are trained on. */
async function aligned() {
  withPlaces ??= trainAligned();
  return withPlaces;
}
let withPlaces;
async function trainAligned() {
  const file = at('aligned.safetensors');
  const options = { mode: 'resize', size: 32, featureScale: 1, holdOut: 0.3, positions: true, steps: 2 };
  await trainTiny({ Trainer }, await makeDataset(at('aligned-parts'), 28), file, options);
  return file;
}

/** Such a model, changed to see images in crops, looks at one of `side` pixels. */
async function asTexture(side) {
  const detector = await loaded(({ config }) => (config.input.mode = 'crop'), await aligned());
  try {
    await detector.score({ data: new Uint8Array(side * side), width: side, height: side, channels: 1 });
  } finally {
    detector.dispose();
  }
}

const loaded = async (change, from = model) => Detector.load(await changed(from, change), { threads: 1 });
const resumed = async (change) => fit({}, parts, { resume: await changed(checkpoint, change) });
const withHeader = async (text, length = text.length) => {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(length));
  return file(Buffer.concat([prefix, Buffer.from(text)]), 'safetensors');
};
const verified = async (spec) => cli(['verify', await withMetadata(spec === undefined ? {} : { spec })]);
const firstOf = (tensors) => Object.keys(tensors)[0];

export const modelFile = {
  ERR_MODEL_FORMAT: {
    '<file>: expected a safetensors file of at least 8 bytes, got <n>': [
      async () => Detector.load(await file('x')),
      async () => checkModel(await file('x')),
    ],
    '<file>: expected a safetensors header of at most <n> bytes, got a length of <n> (not a safetensors file?)': [
      () => Detector.load(good),
      () => fit({}, parts, { resume: good }),
    ],
    '<file>: expected a header of <n> bytes, got a file of <n> bytes (the file is truncated)': [
      async () => Detector.load(await file((await readFile(model)).subarray(0, 500))),
      async () => checkModel(await file((await readFile(model)).subarray(0, 500))),
    ],
    "<file>: expected a JSON header that starts with '{'": async () => Detector.load(await withHeader('null')),
    '<file>: expected a JSON header, got a syntax error at its byte <n>': async () =>
      Detector.load(await withHeader('{"a": x}')),
    '<file>: expected <n> bytes of data after the header, got <n> (the file is truncated)': async () =>
      Detector.load(await file((await readFile(model)).subarray(0, -1000))),
    '<file>: tensor "<name>": expected <what>, got <what>': [
      () => loaded(({ tensors, data }) => data.writeFloatLE(NaN, tensors[firstOf(tensors)].data_offsets[0])),
      () => loaded(({ tensors }) => tensors['out.2.bias'].shape.push(1)),
    ],
    '<file>: expected a tensor "<name>", got none of that name': () =>
      loaded(({ tensors }) => {
        tensors.renamed = tensors['out.2.bias'];
        delete tensors['out.2.bias'];
      }),
    '<file>: expected a ddad-native model, got a safetensors file without that format in its metadata': async () =>
      Detector.load(await withMetadata({})),
    '<file>: expected format version 1 to 3, got "<version>"': () =>
      loaded(({ metadata }) => (metadata.formatVersion = '4')),
    '<file>: expected a model, got <kind>': () => Detector.load(checkpoint),
    '<file>: expected a configuration in the metadata': () => loaded(({ metadata }) => delete metadata.config),
    '<file>: its configuration is not valid: <reason>': [
      () => loaded(({ config }) => (config.unet.modelChannels = 33)),
      () => resumed(({ config }) => (config.unet.outChannels = 4)),
      () => loaded(({ config }) => delete config.perProduct.screw, unified),
    ],
    '<file>: in its configuration, <reason>': [
      () => loaded(({ config }) => (config.preset = 7)),
      () => resumed(({ config }) => (config.training.quantile = 7)),
      () => resumed(({ config }) => (config.training.lr = -1)),
      () => loaded(({ config }) => (config.calibration.quantile = 7)),
      () => loaded(({ config }) => (config.products[1] = config.products[0]), unified),
    ],
    '<file>: feature_std: expected positive numbers': () =>
      loaded(({ tensors, data }) => data.writeFloatLE(0, tensors.feature_std.data_offsets[0])),
    "<file>: <name>: expected residuals of the model's features": async () => {
      const resized = at('resized.safetensors');
      await trainTiny({ Trainer }, parts, resized, { mode: 'resize', steps: 2 });
      await loaded(({ tensors }) => {
        const name = Object.keys(tensors).find((one) => one.includes('memory'));
        tensors[name].shape = [1, tensors[name].shape[0] * tensors[name].shape[1]];
      }, resized);
    },
    '<file>: <name>: expected a matrix of <n> columns, got <shape>': async () =>
      loaded(
        ({ tensors }) => {
          const { shape } = tensors['evidence.0.bank0'];
          tensors['evidence.0.bank0'].shape = [1, shape[0] * shape[1]];
        },
        await judging(),
      ),
    '<file>: evidence: expected positive deviations': async () =>
      loaded(({ tensors, data }) => data.writeFloatLE(0, tensors['evidence.0.std'].data_offsets[0]), await judging()),
    'evidence: expected Gaussians of <n> places, got <n>': () => asTexture(200),
    '<file>: <name>: expected positive diagonals': async () =>
      loaded(
        ({ tensors, data }) => data.writeFloatLE(-1, tensors['evidence.0.place_precision'].data_offsets[0]),
        await aligned(),
      ),
    '<file>: batchNormEps: expected a number between 0 and 1, got <text>': () => damagedBackbone('eps'),
    '<file>: paddingMode: expected same or symmetric, got <text>': () => damagedBackbone('paddingMode'),
    '<file>: activationFunction: expected relu6 or swish, got <text>': () => damagedBackbone('activationFunction'),
    '<file>: expected stages at stride 2 to <n>, got <n> of them': () => damagedBackbone('blocks'),
    '<file>: <name>.weight: expected <shape>, got <shape>': () => damagedBackbone('shape'),
    '<file>: not a safetensors file: <reason>': async () => fit({}, parts, { resume: await withHeader('null') }),
    '<file>: expected a checkpoint of ddad-native, got another safetensors file': async () =>
      fit({}, parts, { resume: await withMetadata({}) }),
    '<file>: expected a checkpoint, got <kind>': () => fit({}, parts, { resume: model }),
    '<file>: its configuration is not JSON': () =>
      resumed(({ metadata }) => Object.assign(metadata, { config: '{', verbatim: 'yes' })),
    '<file>: in its checkpoint, <reason>': [
      () => resumed(({ config }) => (config.checkpoint.step = -5)),
      () => resumed(({ config }) => (config.checkpoint.step = 1)),
      () => resumed(({ config }) => delete config.checkpoint.elapsedMs),
      () => resumed(({ config }) => (config.checkpoint.fingerprint = 'x')),
      () => resumed(({ config }) => config.checkpoint.digests.pop()),
    ],
    '<file>: the checkpoint does not say where its run stands': () => resumed(({ config }) => delete config.checkpoint),
    '<file>: expected a ddad-native checkpoint of format version 1 to 3, got <what>': () =>
      resumed(({ metadata }) => (metadata.formatVersion = '4')),
    '<file>: expected a step number in the metadata, got "<text>"': () =>
      resumed(({ metadata }) => (metadata.step = 'x')),
    '<file>: expected a golden file with a spec in its metadata, got none': () => verified(),
    '<file>: expected the spec to be a JSON object with a kind, got <what>': () => verified('[]'),
    '<file>: a golden file of unknown kind <kind>': () => verified('{"kind":"poem"}'),
    '<file>: its spec lacks something: <reason>': () => verified('{"kind":"unet"}'),
    '<file>: <field>: expected <what>': () => verified('{"kind":"features","model":"other"}'),
  },
};

/** Trains with a damaged copy of the package's backbone. */
async function damagedBackbone(what) {
  const own = path.join(root, 'weights', 'efficientnet-lite0-backbone.safetensors');
  const backbone = await changed(own, ({ tensors, metadata }) => {
    if (what === 'eps') metadata.batchNormEps = '2';
    if (what === 'paddingMode' || what === 'activationFunction') metadata[what] = 'other';
    if (what === 'shape') tensors['_blocks.0._project_conv.weight'].shape = [32, 16, 1, 1];
    if (what !== 'blocks') return;
    for (const name of Object.keys(tensors).filter((name) => name.startsWith('_blocks.3.'))) {
      tensors[`unused.${name}`] = tensors[name];
      delete tensors[name];
    }
  });
  await fit({ backbone });
}
