import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, rename, truncate, utimes, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import sharp from 'sharp';
import { Detector, Trainer } from '../../dist/index.js';
import {
  makeDataset,
  pattern,
  readSafetensors,
  temporaryFolder,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 6);
const [good, bad] = [path.join(parts, 'train', 'good', '00.png'), path.join(parts, 'test', 'bad', '00.png')];
const model = at('model.safetensors');
await trainTiny({ Trainer }, parts, model);
await trainTiny({ Trainer }, parts, at('resize.safetensors'), { mode: 'resize', topPixels: { share: 0.5 } });

/** A detector that is freed at the end of the test. */
async function load(t, file, options) {
  const detector = await Detector.load(file, options);
  t.after(() => detector.dispose());
  return detector;
}

test('results can be cloned, and posted from a worker', async (t) => {
  const detector = await load(t, model, { threads: 1 });
  for (const image of [bad, await readFile(bad), pattern(72, 66, 3, true)]) {
    const result = await detector.score(image);
    const clone = structuredClone(result);
    // the clone of a Buffer is a Uint8Array
    assert.deepEqual({ ...clone, image: 0 }, { ...result, image: 0 });
    assert.equal(clone.heatmap, undefined, 'it needs the image that was scored');
    assert.equal((await result.heatmap()).toString('latin1', 1, 4), 'PNG');
  }
  const [sample] = await detector.sample({ respacing: '3', previews: 1 });
  assert.deepEqual(structuredClone(sample).image, sample.image);
  assert.equal((await sample.png()).toString('latin1', 1, 4), 'PNG');
});

test('a worker scores and posts its results', async () => {
  const index = fileURLToPath(new URL('../../dist/index.js', import.meta.url));
  const code = `const { Detector } = require(${JSON.stringify(index)});
    const { parentPort } = require('node:worker_threads');
    Detector.load(${JSON.stringify(model)}, { threads: 1 }).then(async (detector) => {
      parentPort.postMessage(await detector.score(${JSON.stringify(bad)}));
      await detector[Symbol.asyncDispose]();
    });`;
  const worker = new Worker(code, { eval: true });
  const [posted] = await once(worker, 'message');
  await once(worker, 'exit');
  assert.equal(posted.map.data.length, 72 * 66);
  assert.equal(typeof posted.score, 'number');
});

test('scores paths, encoded images and pixels alike, again and again', async (t) => {
  const detector = await load(t, model, { threads: 1 });
  const encoded = await readFile(good);
  const first = await detector.score(good);
  assert.deepEqual([first.map.width, first.map.height, first.map.data.length], [72, 66, 72 * 66]);
  assert.equal(first.threshold, detector.threshold);
  assert.equal(first.anomalous, first.score > first.threshold);
  for (const image of [
    good,
    encoded,
    new Uint8Array(encoded),
    encoded.buffer.slice(encoded.byteOffset, encoded.byteOffset + encoded.length),
    pattern(72, 66, 0),
  ]) {
    const { score, map } = await detector.score(image);
    assert.equal(score, first.score);
    assert.deepEqual(map, first.map);
  }
});

test('the map has the size of any image, in both modes', async (t) => {
  for (const file of [model, at('resize.safetensors')]) {
    const detector = await load(t, file, { threads: 1 });
    for (const [width, height] of [
      [1, 1],
      [3, 200],
      [300, 17],
      [333, 257],
    ]) {
      const { map, score } = await detector.score(pattern(width, height));
      assert.deepEqual([map.width, map.height, map.data.length], [width, height, width * height]);
      assert.ok(Number.isFinite(score) && map.data.every(Number.isFinite));
    }
  }
});

test('colour, alpha and 16-bit images score', async (t) => {
  const detector = await load(t, model, { threads: 1 });
  const gray = pattern(40, 30);
  const rgba = {
    ...gray,
    channels: 4,
    data: Uint8Array.from({ length: 4800 }, (_, i) => (i % 4 === 3 ? 9 : gray.data[i >> 2])),
  };
  const deep = { ...gray, data: Uint16Array.from(gray.data, (v) => v * 257) };
  const { score } = await detector.score(gray);
  for (const image of [rgba, deep]) {
    const other = (await detector.score(image)).score;
    assert.ok(Math.abs(other - score) <= 1e-3 * Math.max(1, Math.abs(score)), `${other} instead of ${score}`);
  }
});

test('an image scores the same in 8 and in 16 bits', async (t) => {
  const of = pattern(90, 70, 3, true);
  const deep = { ...of, data: Uint16Array.from(of.data, (value) => 257 * value) };
  for (const file of [model, at('resize.safetensors')]) {
    const detector = await load(t, file);
    const [one, other] = [await detector.score(of), await detector.score(deep)];
    assert.ok(Math.abs(other.score - one.score) < 1e-4, `${file}: ${other.score}, ${one.score}`);
    const apart = other.map.data.map((value, i) => Math.abs(value - one.map.data[i]));
    assert.ok(Math.max(...apart) < 1e-3, `${file}: ${Math.max(...apart)}`);
  }
});

test('a threshold can be given to the detector and to a call', async (t) => {
  const detector = await load(t, model, { threshold: 1e9 });
  assert.equal((await detector.score(bad)).anomalous, false);
  assert.equal((await detector.score(bad, { threshold: -1e9 })).anomalous, true);
  const none = await detector.score(bad, { threshold: null });
  assert.deepEqual([none.threshold, none.anomalous], [null, null]);
});

test('the overlay has the size of the image and marks what the range says', async (t) => {
  const detector = await load(t, model);
  const result = await detector.score(bad);
  const overlay = await result.heatmap();
  const { width, height, format } = await sharp(overlay).metadata();
  assert.deepEqual([width, height, format], [72, 66, 'png']);
  const plain = await sharp(await result.heatmap({ range: [1e9, 2e9] }))
    .raw()
    .toBuffer();
  const original = await sharp(bad).toColourspace('srgb').raw().toBuffer();
  assert.ok(plain.equals(original), 'nothing above the range: the image as it is');
  const marked = await sharp(await result.heatmap({ range: [-2e9, -1e9], opacity: 1 }))
    .raw()
    .toBuffer();
  assert.deepEqual([...marked.subarray(0, 3)], [...marked.subarray(3, 6)], 'all above: one colour');
});

test('an overlay is never drawn upon another file than was scored', async (t) => {
  const detector = await load(t, model);
  const photo = at('photo.png');
  const [one, other] = [pattern(72, 66, 1), pattern(72, 66, 9)];
  const tiff = (of) => sharp(of.data, { raw: { width: 72, height: 66, channels: 1 } }).tiff({ compression: 'none' });
  const bytes = await tiff(one).toBuffer();
  const others = await tiff(other).toBuffer();
  assert.equal(bytes.length, others.length);
  const refused = { code: 'ERR_IMAGE', message: /photo\.png: has changed since it was scored: expected the file that/ };
  const changes = {
    // by one of its size and time
    replaced: async () => {
      await writeFile(at('next.png'), others);
      await utimes(at('next.png'), 1e9, 1e9);
      await rename(at('next.png'), photo);
    },
    written: () => writeFile(photo, others),
  };
  for (const change of Object.values(changes)) {
    await writeFile(photo, bytes);
    await utimes(photo, 1e9, 1e9);
    const result = await detector.score(photo);
    assert.ok((await result.heatmap()).length > 0, 'a file that is as it was');
    await change();
    await assert.rejects(result.heatmap(), refused);
  }
  // what is held is nobody else's
  const result = await detector.score(bytes);
  assert.ok((await result.heatmap()).length > 0);
});

test('scoreAll yields in order and ends with the first error', async (t) => {
  const detector = await load(t, model);
  const images = [good, bad, pattern(20, 20), good];
  const seen = [];
  for await (const { image } of detector.scoreAll(images)) seen.push(image);
  assert.deepEqual(seen, images);
  async function* stream() {
    yield good;
    yield at('nowhere.png');
  }
  const scored = [];
  await assert.rejects(
    async () => {
      for await (const { score } of detector.scoreAll(stream())) scored.push(score);
    },
    { code: 'ERR_IMAGE', message: /nowhere\.png: no such file/ },
  );
  assert.equal(scored.length, 1);
});

test('many calls at once all come back with their own result', async (t) => {
  const detector = await load(t, model);
  const [g, b] = [(await detector.score(good)).score, (await detector.score(bad)).score];
  const found = await Promise.all(Array.from({ length: 20 }, (_, i) => detector.score(i % 2 ? bad : good)));
  assert.deepEqual(
    found.map(({ score }) => score),
    found.map((_, i) => (i % 2 ? b : g)),
  );
});

test('an aborted call rejects with ERR_ABORTED and the others go on', async (t) => {
  const detector = await load(t, model);
  const controller = new AbortController();
  const large = pattern(900, 900);
  const [stopped, kept] = [detector.score(large, { signal: controller.signal }), detector.score(good)];
  setTimeout(() => controller.abort(new Error('enough')), 30);
  await assert.rejects(stopped, (error) => error.code === 'ERR_ABORTED' && error.cause.message === 'enough');
  assert.ok(Number.isFinite((await kept).score));
  await assert.rejects(detector.score(good, { signal: controller.signal }), { code: 'ERR_ABORTED' });
});

test('a disposed detector refuses work, and work in flight ends', async () => {
  const detector = await Detector.load(model);
  const running = detector.score(pattern(900, 900));
  setTimeout(() => detector[Symbol.dispose](), 20);
  await assert.rejects(running, { code: 'ERR_DISPOSED' });
  await assert.rejects(detector.score(good), { code: 'ERR_DISPOSED' });
  await assert.rejects(detector.scoreAll([good]).next(), { code: 'ERR_DISPOSED' });
  assert.throws(() => detector.memoryUsage, { code: 'ERR_DISPOSED' });
  detector.dispose();
  await detector[Symbol.asyncDispose]();
});

test('errors of the engine show the line that called', async () => {
  async function whereItWasCalled() {
    return Detector.load(at('nowhere.safetensors'));
  }
  await assert.rejects(whereItWasCalled(), ({ code, stack }) => {
    assert.equal(code, 'ERR_FILE_READ');
    assert.match(stack, /^DdadError \[ERR_FILE_READ\]: .*\n.*whereItWasCalled.*detector\.test\.mjs/);
    return true;
  });
});

test('bad arguments are refused', async (t) => {
  await assert.rejects(Detector.load(5), { code: 'ERR_ARGUMENT' });
  await assert.rejects(Detector.load(model, { treads: 2 }), { code: 'ERR_OPTION', message: /did you mean "threads"/ });
  await assert.rejects(Detector.load(model, { device: 'tpu' }), { code: 'ERR_OPTION', message: /"device".*"tpu"/ });
  const detector = await load(t, model);
  await assert.rejects(detector.score(good, { treshold: 1 }), { code: 'ERR_OPTION', message: /"threshold"/ });
  await assert.rejects(detector.score(good, { limitInputPixels: 10 }), {
    code: 'ERR_IMAGE',
    message: /at most 10 pix/,
  });
});

test('CommonJS gets the same classes', () => {
  const required = createRequire(import.meta.url)('../../dist/index.js');
  assert.equal(required.Detector, Detector);
});

test('damaged models fail with ERR_MODEL_FORMAT', async () => {
  const { header, data } = await readSafetensors(model);
  const name = Object.keys(header).find((key) => key !== '__metadata__');
  const change = async (file, edit) => {
    const copy = structuredClone({ header, data: Buffer.from(data) });
    copy.data = Buffer.from(copy.data);
    edit(copy.header, copy.data);
    await writeSafetensors(at(file), copy);
  };
  const configOf = (changed, edit) => {
    const config = JSON.parse(changed.__metadata__.config);
    edit(config);
    changed.__metadata__.config = JSON.stringify(config);
  };
  await change('missing', (changed) => delete changed[name]);
  await change('shape', (changed) => changed[name].shape.push(1, 2));
  await change('overlap', (changed) => (changed[name].data_offsets = [0, data.length]));
  await change('beyond', (changed) => (changed[name].data_offsets = [data.length, 2 * data.length]));
  await change('nan', (_, bytes) => bytes.writeFloatLE(NaN, header[name].data_offsets[0]));
  await change('no-config', (changed) => delete changed.__metadata__.config);
  await change('bad-config', (changed) => (changed.__metadata__.config = '{'));
  await change('no-metadata', (changed) => delete changed.__metadata__);
  await change('wide', (changed) => configOf(changed, (config) => (config.unet.modelChannels = 64)));
  await change('huge', (changed) => configOf(changed, (config) => (config.unet.modelChannels = 2 ** 40)));
  await change('wrong-type', (changed) => configOf(changed, (config) => (config.input.size = 'large')));
  await writeFile(at('empty'), '');
  await writeFile(at('text'), 'this is not a model at all');
  await writeFile(at('cut'), (await readFile(model)).subarray(0, 5000));
  await writeFile(at('gigabyte'), Buffer.from([0, 0, 0, 64, 0, 0, 0, 0, 0x7b, 0x7d]));
  await writeFile(at('sparse'), Buffer.from([0, 0, 0, 64, 0, 0, 0, 0, 0x7b]));
  await truncate(at('sparse'), 2 ** 30 + 100);
  for (const file of [
    'missing',
    'shape',
    'overlap',
    'beyond',
    'nan',
    'no-config',
    'bad-config',
    'no-metadata',
    'wide',
    'huge',
    'wrong-type',
    'empty',
    'text',
    'cut',
    'gigabyte',
    'sparse',
  ]) {
    await assert.rejects(
      Detector.load(at(file)),
      ({ code, message }) => {
        assert.equal(code, 'ERR_MODEL_FORMAT', `${file}: ${code}: ${message}`);
        assert.ok(message.includes(file), `names the file: ${message}`);
        return true;
      },
      file,
    );
  }
  await assert.rejects(Detector.load(folder), ({ code }) => code === 'ERR_FILE_READ' || code === 'ERR_MODEL_FORMAT');
});
