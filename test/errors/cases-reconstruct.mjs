// What provokes the errors of reconstructions and of the Gaussian of features, as cases-calls.mjs does for others.
import { Trainer } from '../../dist/index.js';
import { addon, configOf, grayImage, small, token } from '../helpers/addon.mjs';
import { at, changed, cli, folderOf, good, load, model, parts, plain, products, unified } from './kit.mjs';
import { readFile } from 'node:fs/promises';
import { pattern, trainTiny } from '../helpers/common.mjs';

const detector = await load();
const several = await load(unified);

/** A model that takes images whole, with a Gaussian at each place; and one of two products with features. */
const [whole, featured, placed] = [at('whole.safetensors'), at('featured.safetensors'), at('placed.safetensors')];
await trainTiny({ Trainer }, parts, whole, { steps: 2, mode: 'resize', memoryBank: null });
await trainTiny({ Trainer }, products, featured, { steps: 2, memoryBank: null });
const fitted = await load(whole);
await fitted.fitPadim(parts, { channels: 8 });
await fitted.save(placed);

const raw = (width, height) => pattern(width, height);
const few = { method: 'ddim', respacing: '4', step: 1 };

/** A detector of the engine with a reconstruction of `steps` steps. */
async function withReconstruction(use) {
  const trainer = new addon.NativeTrainer(configOf(small), JSON.stringify({ device: 'cpu', threads: 1 }));
  await trainer.open(token());
  const native = await trainer.toDetector(configOf(small));
  try {
    const options = JSON.stringify({ method: 'ddim', respacing: '4', step: 0 });
    await use(native, JSON.parse(await native.reconstruct([grayImage()], options, token())));
  } finally {
    native.dispose();
    trainer.dispose();
  }
}

export const reconstruction = {
  ERR_ARGUMENT: {
    'reconstructAll: expected an array of 1 to 64 images, got <what>': [
      () => detector.reconstructAll(good, few),
      () => detector.reconstructAll([], few),
    ],
    'images: expected one size, got <w> x <h> and <w> x <h>': () =>
      detector.reconstructAll([raw(16, 16), raw(16, 20)], few),
    'fitPadim: expected a folder, got <what>': () => detector.fitPadim(7),
    "save: expected a model's path, got <what>": () => detector.save(7),
    'advance: expected a reconstruction in progress, got number <n>': () =>
      withReconstruction((native, { id }) => native.advance(id + 1, 0, token())),
    'advance: expected room for <n> values, got <n>': () =>
      withReconstruction((native, { id }) => native.advance(id, 7, token())),
    'the reconstruction has ended': () =>
      withReconstruction(async (native, { id }) => {
        await native.advance(id, 0, token());
        await native.advance(id, 0, token());
      }),
    'no Gaussian is being fitted; expected beginGaussian before': () =>
      withReconstruction((native) => native.finishGaussian(0)),
  },
  ERR_DATASET: {
    '<folder>: expected good images in <folders or of one product>': [
      () => fitted.fitPadim(products),
      async () => (await load(featured)).fitPadim(parts),
    ],
    '<folder>: no good images of "<product>"': async () => {
      const other = await changed(featured, ({ config }) => {
        config.products[1] = 'nut';
        config.perProduct.nut = config.perProduct.screw;
        delete config.perProduct.screw;
      });
      await (await load(other)).fitPadim(products);
    },
  },
  ERR_IMAGE: {
    'image: a reconstruction takes an image whole, at most <n> pixels (<w> x <h>), got <w> x <h>; give it the part that matters':
      () => detector.reconstruct(raw(600, 600), few),
    'image: the model has a Gaussian for each place of images of <w> x <h> pixels, got <w> x <h>': async () =>
      (await load(await changed(placed, ({ config }) => (config.input.size = 32)))).reconstruct(good),
  },
  ERR_NUMERIC: {
    'a Gaussian needs at least 2 good images, got <n>': async () =>
      (await load(whole)).fitPadim(await folderOf({ 'one.png': await readFile(good) })),
  },
  ERR_OPTION: {
    'option "<kind or method>": the model has no Gaussian of good features; "ddad-native fit-padim <model> <dataset> --out <file>" adds one':
      [() => detector.reconstruct(good, { method: 'gradient' }), () => load(model, { scoring: { kind: 'padim' } })],
    'option "<name>": goes with method "<method>" only, got "<method>"': [
      () => detector.reconstruct(good, { method: 'ddpm', eta: 0.5 }),
      () => detector.reconstruct(good, { method: 'ddim', rounds: 5 }),
      () => cli(['reconstruct', model, good, '--out', at('never'), '--method', 'ddpm', '--step-size', '0.1']),
    ],
    'option "places": goes with a model of mode "resize" only, got "crop"': () =>
      detector.fitPadim(parts, { places: true }),
    'fit-padim: expected a model with features, got one that was trained without': [
      async () => (await load(plain)).fitPadim(parts),
      () => several.fitPadim(products),
    ],
  },
};
