// What provokes the errors about calls and options: by code, then by the message as docs/errors.md has it.
import engineJson from '../../dist/config/engine-json.js';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Detector, evaluate, exportOnnx, exportSafetensors, importModel, Trainer } from '../../dist/index.js';
import {
  addon,
  configOf,
  file as addonFile,
  grayImage,
  options as engine,
  pixelsOf,
  small,
  token,
} from '../helpers/addon.mjs';
import {
  at,
  changed,
  checkpoint,
  cli,
  file,
  fit,
  good,
  load,
  model,
  parts,
  plain,
  products,
  unbuiltPackage,
  unified,
} from './kit.mjs';
import { pattern, root, tiny } from '../helpers/common.mjs';

/** A view whose memory has been transferred elsewhere. */
function gone(view) {
  structuredClone(view.buffer, { transfer: [view.buffer] });
  return view;
}

const detector = await load();
const several = await load(unified);
const scored = (scoring, from = model) => load(from, { scoring });
const all = async (images) => {
  for await (const result of detector.scoreAll(images)) void result;
};

/** A trainer of the engine, opened unless told otherwise; gone when `use` has ended. */
async function withTrainer(use, { config = configOf(small), opened = true, settings = engine } = {}) {
  const trainer = new addon.NativeTrainer(config, settings);
  try {
    if (opened) await trainer.open(token());
    await use(trainer);
  } finally {
    trainer.dispose();
  }
}

const withDetector = (use) =>
  withTrainer(async (trainer) => {
    const native = await trainer.toDetector(configOf(small));
    await use(native);
  });

/** A model whose weights are so large that its output overflows. */
const overflowing = () =>
  changed(model, ({ tensors, data }) => {
    const [begin, end] = tensors['out.2.weight'].data_offsets;
    for (let byte = begin; byte < end; byte += 4) data.writeFloatLE(3e38, byte);
  });

/** A configuration of the engine with classes. */
const classes = () => {
  const config = JSON.parse(configOf(small));
  config.unet.numClasses = 2;
  return JSON.stringify(config);
};

export const calls = {
  ERR_ABORTED: {
    'the operation was aborted': [
      () => detector.score(good, { signal: AbortSignal.abort() }),
      () => Detector.load(model, { signal: AbortSignal.abort() }),
      () => fit({}, parts, { signal: AbortSignal.abort() }),
      () => evaluate(several, products, { signal: AbortSignal.abort() }),
      () => exportOnnx(model, at('never.onnx'), { signal: AbortSignal.abort() }),
    ],
  },
  ERR_BUSY: {
    'expected at most <n> calls waiting (maxQueue), got one more': async () => {
      const busy = await load(model, { maxQueue: 1 });
      await Promise.all(Array.from({ length: 9 }, () => busy.score(good)));
    },
    'expected room for a copy of <n> MB in the memoryBudget of <n> MB, of which images take <n> MB': async () => {
      const busy = await load(model, { memoryBudget: 2 ** 20, whenFull: 'wait' });
      await Promise.all(Array.from({ length: 99 }, () => busy.score(pattern(70, 70))));
    },
  },
  ERR_DISPOSED: {
    'the detector has been disposed': async () => {
      const gone = await load();
      gone.dispose();
      await gone.score(good);
    },
    'the trainer has been disposed': () =>
      withTrainer(
        (trainer) => {
          trainer.dispose();
          return trainer.open(token());
        },
        { opened: false },
      ),
  },
  ERR_ARGUMENT: {
    "load: expected a model's path, got <what>": () => Detector.load(7),
    '<call>: path: expected <what>, got <what>': [() => Detector.load(''), () => Detector.load('a\0b'), () => saved(7)],
    'scoreAll: expected an iterable of images, got <what>': [() => all(good), () => all(null)],
    'transfer: expected a view of its whole ArrayBuffer, got <n> of its <n> bytes': [
      () => detector.score(Buffer.from('a few bytes'), { transfer: true }),
      () => detector.reconstruct(Buffer.from('a few bytes'), { transfer: true }),
    ],
    'transfer: expected a view of an ArrayBuffer, got one of a SharedArrayBuffer, which others keep': () =>
      detector.score(new SharedArrayBuffer(9), { transfer: true }),
    'score: expected an image, got memory that was transferred elsewhere': [
      () => detector.score(gone(new Uint8Array(8))),
      () => detector.score(gone(new Uint8Array(8)), { transfer: true }),
      () => detector.score(gone(new Uint8Array(8)).buffer),
      () => detector.score({ data: gone(new Uint8Array(4)), width: 2, height: 2, channels: 1 }),
    ],
    'transfer: the ArrayBuffer cannot be taken over: <reason>': () =>
      detector.score(new WebAssembly.Memory({ initial: 1 }).buffer, { transfer: true }),
    'fit: expected a folder or a list of image files, got <what>': [() => fit({}, 7), () => fit({}, [7])],
    'fit: this trainer is training already': async () => {
      const trainer = new Trainer(tiny);
      const first = trainer.fit(parts);
      await first.next();
      await trainer
        .fit(parts)
        .next()
        .finally(() => first.return());
    },
    'save: expected a trained model; let fit run to its end first': () => new Trainer(tiny).save(at('never')),
    'evaluate: expected a detector, got <what>': () => evaluate(null, parts),
    'evaluate: expected a folder, got <what>': () => evaluate(detector, null),
    '<call>: <argument>: expected <what>, got <what>': () => addon.loadDetector('x', 'null', token()),
    'open: this trainer is open already': () => withTrainer((trainer) => trainer.open(token())),
    'expected an open trainer; wait for open() first': () =>
      withTrainer((trainer) => trainer.step(pixelsOf(small), null, 1e-4, token()), { opened: false }),
    'NativeDetector cannot be constructed; use loadDetector()': () =>
      withDetector((native) => new native.constructor()),
    "observe: the features' statistics are fixed by the first step": () => observed(),
    'labels: a model with classes needs a label for each sample': () =>
      withTrainer((trainer) => trainer.step(pixelsOf(small), null, 1e-4, token()), { config: classes() }),
    'labels: expected 0 to <n>, got <n>': () =>
      withTrainer((trainer) => trainer.step(pixelsOf(small), Int32Array.of(0, 2), 1e-4, token()), {
        config: classes(),
      }),
    'label: expected 0 to <n>, got <n>': () =>
      withTrainer(
        async (trainer) => {
          const native = await trainer.toDetector(classes());
          await native.score({ ...grayImage(), label: 2 }, token());
        },
        { config: classes() },
      ),
  },
  ERR_CONFIG: {
    '<field>: expected <what>, got <what>': () => withDetector((native) => native.setConfig('{}')),
    'unet: expected the network that the model has; its structure cannot change': () =>
      withDetector((native) => native.setConfig(configOf({ ...small, channels: 64 }))),
  },
  ERR_DEVICE: {
    // what else is missing shows test/engine/cuda-library.test.mjs, each in a process that has not loaded the library
    'DDAD_CUDA_LIBRARY names <file>, which does not exist': () =>
      cli(['score', model, good, '--device', 'cuda'], { env: { DDAD_CUDA_LIBRARY: at('nowhere.so') } }),
  },
  ERR_MEMORY: {
    '<image>: takes <n> MB of memory, expected at most <n> MB (three quarters of memoryBudget)': async () => {
      const small = await load(model, { memoryBudget: 2 ** 20 });
      await small.score(pattern(700, 700));
    },
    "training with a batch of <n> takes <n> GB of the device's memory, and it has <n> GB left; the largest batch that fits is <n>":
      () => fit({ size: 1024, batchSize: 1024 }),
    'no memory holds <tensor> for a batch of <n> at <n> x <n>': () =>
      fit({ preset: 'paper-256', size: 2048, batchSize: 1024, unet: {} }),
  },
  ERR_NUMERIC: {
    "the network's output is not finite: the model's weights are damaged or diverged": [
      async () => (await load(await overflowing())).score(good),
      async () => (await load(await overflowing())).reconstruct(good, { method: 'ddim', step: 3 }),
    ],
    'step <n>: the <value> is <number>; a lower learning rate may help': () =>
      withTrainer((trainer) => trainer.step(pixelsOf(small).fill(NaN), null, 1e-4, token())),
    '<file>: expected finite map values, got <number> at (<x>, <y>)': () =>
      evaluated((result) => (result.map.data[13] = NaN)),
    '<file>: expected a finite score, got <number>': () => evaluated((result) => (result.score = NaN)),
  },
  ERR_ADDON: {
    'the native addon is not built: expected <file>; run "npm run build" in a clone, "npm rebuild ddad-native" where it is installed':
      async () =>
        cli(['info'], { bin: path.join(await unbuiltPackage(), 'bin', 'ddad-native.js'), env: { DDAD_ADDON: '' } }),
    'the native addon is not built: expected <file>; DDAD_ADDON, which names it, has to be the path of a ddad.node':
      () => cli(['info'], { env: { DDAD_ADDON: at('nowhere.node') } }),
    'the native addon <file> does not load: <reason>; <remedy>': async () =>
      cli(['info'], { env: { DDAD_ADDON: await file('no addon', 'node') } }),
    '<build>, <suite>: <file>: expected a build that can profile, got an older one': async () =>
      cli(['bench', 'ops', '--quick', '--rounds', '1'], {
        env: {
          DDAD_ADDON: await file(
            `module.exports = { ...require(${JSON.stringify(path.resolve(addonFile))}), profile: undefined };`,
            'cjs',
          ),
        },
      }),
  },
  ERR_INTERNAL: {
    '<message of what was thrown>': () =>
      all({
        [Symbol.iterator]: () => {
          throw new Error('of the caller');
        },
      }),
    '<build>, <suite>: the process ended with <status>': async () =>
      cli(['bench', 'ops', '--quick', '--rounds', '1'], { env: { DDAD_ADDON: await file('process.exit(7);', 'cjs') } }),
  },
};

async function saved(to) {
  const trainer = new Trainer({ ...tiny, steps: 1 });
  for await (const progress of trainer.fit(parts)) void progress;
  await trainer.save(to).finally(() => trainer.dispose());
}

/** Looks at a batch after a step, with a network that has features. */
async function observed() {
  const trainer = new Trainer({ ...tiny, steps: 1 });
  for await (const progress of trainer.fit(parts)) void progress;
  const backbone = path.join(root, 'weights', 'efficientnet-lite0-backbone.safetensors');
  const settings = JSON.stringify({ device: 'cpu', threads: 1, backbone });
  const { input, features, training } = trainer.config;
  const side = input.size * features.scale;
  const pixels = new Float32Array(training.batchSize * side * side * input.channels);
  const config = engineJson.toEngineJson(trainer.config);
  trainer.dispose();
  await withTrainer(
    async (native) => {
      await native.step(pixels, null, 1e-4, token());
      await native.observe(pixels, token());
    },
    { config, settings },
  );
}

/** Evaluates with a detector whose results are spoilt. */
function evaluated(spoil) {
  const score = async (...given) => {
    const result = await several.score(...given);
    spoil(result);
    return result;
  };
  return evaluate({ score, threshold: null, config: several.config }, products);
}

const trainer = (options) => new Trainer({ ...tiny, ...options });

export const options = {
  ERR_OPTION: {
    'unknown option "<name>"': [() => trainer({ stps: 3 }), () => Detector.load(model, { gpu: true })],
    'option "<name>": expected <what>, got <value>': [
      () => trainer({ steps: 0 }),
      () => Detector.load(model, { threads: -1 }),
      () => detector.score(good, { limitInputPixels: 0 }),
      () => evaluate(detector, parts, { onImage: 1 }),
      () => exportOnnx(model, at('never'), { graph: 'everything' }),
      () => exportOnnx(model, at('never'), { graph: 'score', size: { width: 15, height: 16 } }),
      () => exportOnnx(model, at('never'), { graph: 'score', size: { width: 4096, height: 16 } }),
    ],
    'options: expected <what>, got <value>': () => Detector.load(model, 7),
    'option "size": expected a multiple of <n>, the <network\'s or features\'> coarsest stride, got <n>': () =>
      trainer({ size: 18 }),
    'option "backbone": expected the package ddad-native-backbones to be installed, which has "<name>", or a weights file':
      () => trainer({ backbone: 'lite2' }).fit(parts).next(),
    'option "positions": goes with mode "resize" only': () => trainer({ positions: true }),
    'option "memoryBank": goes with features only, which need a backbone': () =>
      trainer({ backbone: null, memoryBank: { patches: 9, weight: 0.5 } }),
    'option "evidence": goes with normalization "calibration" only, got "<value>"': () =>
      trainer({ normalization: 'none', evidence: { rows: 9 } }),
    'option "memoryBank": goes with normalization "calibration" only, got "<value>"': () =>
      trainer({ normalization: 'none', memoryBank: { patches: 9, weight: 0.5 } }),
    'option "unet.channelMult": expected at least 3 levels, which features need, got <n>': () =>
      trainer({ unet: { channelMult: [1, 1], numHeadChannels: 32 } }),
    'option "unet.attentionResolutions": expected divisors of <n>, got <n>': () =>
      trainer({ unet: { ...tiny.unet, attentionResolutions: [7] } }),
    'option "unet.numHeadChannels": expected a divisor of <n>, got <n>': () =>
      trainer({ unet: { ...tiny.unet, numHeadChannels: 24 } }),
    'option "respacing": goes with scaleIndexing "respaced" only': () => trainer({ respacing: '250' }),
    'option "scales": a noise scale is given twice': [
      () => trainer({ scales: [5, 5] }),
      () => scored({ scales: [5, 5] }),
    ],
    'option "scales": expected integers from 0 to <n>, got <n>': [
      () => fit({ scaleIndexing: 'respaced', scales: [300] }),
    ],
    'option "respacing": expected a number of steps ("250"), several ("10,15,20") or a fixed stride ("ddim50"), got "<text>": <reason>':
      () => fit({ scaleIndexing: 'respaced', respacing: 'half', scales: [3] }),
    'option "<name>": the checkpoint was trained with <value>, got <value>': () =>
      fit({ lr: 0.01 }, parts, { resume: checkpoint }),
    'option "scales": expected some of those that the model is calibrated for (<scales>), got <scales>': () =>
      scored({ scales: [7] }),
    'option "<kind or alpha>": the model has no features, so it has a pixel-level score only': [
      () => scored({ kind: 'feature' }, plain),
      () => scored({ alpha: 0.5 }, plain),
    ],
    'option "normalization": the reconstruction error has no per-image normalisation, got "per-image"': () =>
      scored({ kind: 'rgb', normalization: 'per-image' }),
    'option "normalization": the model has no calibration, got "calibration"': async () =>
      scored({ alpha: 1 }, await changed(plain, ({ config }) => (config.calibration = null))),
    'option "kind": the model was calibrated without the reconstruction error; train it again': async () =>
      scored({ kind: 'rgb' }, await changed(model, ({ config }) => delete config.calibration.rgbMean)),
    'option "product": the model is of a single product, expected none, got "<name>"': () =>
      detector.score(good, { product: 'screw' }),
    'option "product": expected one of the model\'s, <names>, got <what>': [
      () => several.score(good),
      () => several.score(good, { product: 'scew' }),
    ],
    'option "product": the folders of the dataset name the products, got "<name>"': () =>
      evaluate(several, products, { product: 'screw' }),
    'option "<name>": goes with graph "<graph>" only': [
      () => exportOnnx(model, at('never'), { scale: 50 }),
      () => exportOnnx(model, at('never'), { graph: 'score', head: false }),
    ],
    'option "graph": score needs a model, which is calibrated; of a checkpoint there is the graph unet': () =>
      exportOnnx(checkpoint, at('never'), { graph: 'score' }),
    'option "graph": score needs the products of a class-conditional model, and this one names none; expected "unet"':
      async () => {
        const anonymous = await changed(unified, ({ config }) => {
          delete config.products;
          delete config.perProduct;
        });
        await exportOnnx(anonymous, at('never'), { graph: 'score' });
      },
    'option "steps": the checkpoint is at step <n>, so there is nothing to do; expected <n> or more, got <n>': () =>
      fit({ steps: 1 }, parts, { resume: checkpoint }),
    '<file>: expected another file than the checkpoint itself': () => importModel(model, model),
    '<file>: expected another file than the model itself': [
      () => exportOnnx(model, model),
      () => exportSafetensors(model, path.join(path.dirname(model), '.', path.basename(model))),
    ],
    'option "against": expected the folder of a built ddad-native, or a ddad.node, got <path>: <reason>': () =>
      cli(['bench', 'ops', '--against', at('nowhere')]),
    "<build>: expected measurements of version <n>, got version <n>; use the same version of ddad-native, or give the build's addon":
      async () => cli(['bench', 'ops', '--quick', '--rounds', '1', '--against', await otherPackage()]),
    '<variable>: expected <values>, got <value>': [
      () => cli(['info'], { env: { DDAD_AUTOTUNE: 'maybe' } }),
      () => cli(['score', model, good], { env: { DDAD_CONV: 'fast' } }),
      () => cli(['info'], { env: { DDAD_MAX_CPU_ISA: 'mmx' } }),
      () => cli(['info'], { env: { DDAD_NICE: '-5' } }),
    ],
  },
};

/** A package whose measuring process speaks another version. */
async function otherPackage() {
  const name = await unbuiltPackage();
  await mkdir(path.join(name, 'build', 'Release'), { recursive: true });
  await writeFile(path.join(name, 'build', 'Release', 'ddad.node'), '');
  await writeFile(
    path.join(name, 'dist', 'bench', 'worker.js'),
    "process.once('message', () => process.send({ protocol: 99 }, () => process.exit()));",
  );
  return name;
}
