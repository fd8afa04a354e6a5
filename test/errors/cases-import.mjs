// What provokes the errors of import and of training from a model: by code, then by the message as docs/errors.md has it.
import engineJson from '../../dist/config/engine-json.js';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { Detector, importModel } from '../../dist/index.js';
import native from '../../dist/engine/native.js';
import { at, changed, checkpoint, file, fit, good, model, plain, products } from './kit.mjs';
import { root } from '../helpers/common.mjs';

const fixtures = path.join(root, 'test', 'fixtures', 'checkpoints');
const pt = await file(gunzipSync(await readFile(path.join(fixtures, 'unet-zip.pt.gz'))), 'pt');
const small = await readFile(path.join(fixtures, 'parts-zip.pt'));
const old = await readFile(path.join(fixtures, 'parts-legacy.pt'));
const imported = at('imported.safetensors');
await importModel(pt, imported);

const importing = async (contents, options) => importModel(await file(contents, 'pt'), at('none.safetensors'), options);
/** A file with some of its bytes replaced by as many others. */
const replaced = (bytes, from, to) => {
  const text = bytes.toString('latin1');
  if (!text.includes(from) || from.length !== to.length) throw new Error(`${from} is not there`);
  return Buffer.from(text.replaceAll(from, to), 'latin1');
};
const importChanged = async (change) => importModel(await changed(plain, change), at('none.safetensors'));
const token = () => new (native.addon().CancelToken)();
const importer = (name = pt) => new (native.addon().NativeImporter)(name);

async function initializeLate() {
  const config = engineJson.toEngineJson((await Detector.load(plain)).config);
  const trainer = new (native.addon().NativeTrainer)(config, '{"threads":1}');
  try {
    await trainer.open(token());
    const { input, training } = JSON.parse(config);
    const pixels = new Float32Array(training.batchSize * input.size ** 2 * input.channels);
    await trainer.step(pixels, null, 0.001, token());
    await trainer.initialize(plain, true, token());
  } finally {
    trainer.dispose();
  }
}

export const imports = {
  ERR_ARGUMENT: {
    'importModel: expected a path, got <what>': () => importModel(pt),
    'expected an open importer; wait for open() first': () => importer().write(token()),
    'begin: expected an inspected checkpoint; call inspect first': async () => {
      const one = importer();
      await one.open('{"prefix":"x"}', token()).catch(() => undefined);
      await one.begin(at('none.safetensors'), '{}', '', token());
    },
    'write: expected a file that has been begun; call begin first': async () => {
      const one = importer();
      await one.open('{}', token());
      await one.write(token());
    },
    'initialize: expected a trainer before its first step': initializeLate,
  },
  ERR_MODEL_FORMAT: {
    '<file>: expected a checkpoint of PyTorch or a safetensors file, got neither': () => importing('hello'),
    '<file>: its pickle: refused, since it asks for "<name>", which no state dict needs; nothing of the file was run': [
      () => importing(replaced(small, '_rebuild_tensor_v2', '_rebuild_tensor_v9')),
      () => importing(replaced(old, 'torch\nLongStorage', 'posix\nFileHandler')),
    ],
    '<file>: its pickle: <reason>': () => importing(old.subarray(0, 300)),
    '<file>: its zip archive: <reason>': () => importing(small.subarray(0, 3000)),
    '<file>: storage "<name>": expected <what>, got <what>': () => importing(replaced(small, 'data/0', 'data/x')),
    '<file>: expected <what>, got <what>': [
      () => importing(small),
      () =>
        importChanged(({ tensors }) => {
          tensors['output_blocks.6.0.in_layers.0.weight'] = tensors['out.2.bias'];
          delete tensors['out.2.bias'];
        }),
    ],
    '<file>: <field>: expected <what>, got <what>': () =>
      importChanged(({ tensors, data }) => {
        // 16 channels, of which norms of 32 groups cannot be
        const { data_offsets: at } = tensors['time_embed.0.weight'];
        if (at[1] - at[0] > data.length) throw new Error('not that large');
        tensors['time_embed.0.weight'].shape = [64, 16];
        tensors.rest = { dtype: 'F32', shape: [128 * 32 - 64 * 16], data_offsets: [at[0] + 64 * 16 * 4, at[1]] };
        tensors['time_embed.0.weight'].data_offsets = [at[0], at[0] + 64 * 16 * 4];
      }),
    '<file>: expected the parameters of one network, got several; prefix says which: one of <names>': () =>
      importChanged(({ tensors }) => {
        tensors['other.time_embed.0.weight'] = tensors['out.2.bias'];
        delete tensors['out.2.bias'];
      }),
  },
  ERR_OPTION: {
    'option "<kind or alpha>": the feature head is not trained, so the model has a pixel-level score only': [
      () => Detector.load(imported, { scoring: { kind: 'feature' } }),
      () => Detector.load(imported, { scoring: { alpha: 0.5 } }),
    ],
    'option "product": the network is told one of <n> classes, and its file names no products for them; import --drop-label-emb makes a model without them':
      async () => (await Detector.load(imported)).score(good),
    'option "init": the checkpoint has weights of its own; expected none beside it': () =>
      fit({ init: model }, undefined, { resume: checkpoint }),
    'option "unet": the network is that of <file>; expected none beside "init"': () => fit({ init: model }),
    'option "channels": the network of <file> is <gray or rgb>, got "<value>"': () =>
      fit({ init: model, unet: undefined, channels: 'rgb' }),
    'option "init": the network of <file> is told one of <n> classes, and the images are of <products>; import --drop-label-emb makes a model without them':
      [() => fit({ init: imported, unet: undefined }), () => fit({ init: imported, unet: undefined }, products)],
  },
};
