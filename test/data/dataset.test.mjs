import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import config from '../../dist/config/config.js';
import outputs from '../../dist/cli/outputs.js';
import dataset from '../../dist/data/dataset.js';
import randomness from '../../dist/numeric/random.js';
import sample from '../../dist/data/crop.js';
import { makeDataset, pattern, png, temporaryFolder } from '../helpers/common.mjs';

const { allGray, findImages, splitHeldBack, TrainingData } = dataset;
const { cropInto, reflect } = sample;
const { permutation, random } = randomness;
const folder = await temporaryFolder();
const parts = await makeDataset(path.join(folder, 'parts'), 10);
const expand = (options) => config.expandConfig({ preset: 'nano', channels: 'gray', batchSize: 4, ...options });

test('random streams depend on seed, purpose and counter alone', () => {
  const draw = (...key) => Array.from({ length: 4 }, random(...key));
  assert.deepEqual(draw(1, 2, 3), draw(1, 2, 3));
  const keys = [
    [1, 2, 3],
    [2, 1, 3],
    [1, 3, 2],
    [1, 2, 4],
    [1 + 2 ** 32, 2, 3],
    [1, 2, 3 + 2 ** 32],
  ];
  assert.equal(new Set(keys.map((key) => draw(...key).join())).size, keys.length);
  let sum = 0;
  for (let i = 0; i < 10_000; i++) sum += random(5, 1, i)();
  assert.ok(Math.abs(sum / 10_000 - 0.5) < 0.02, 'the first draws of neighbouring streams are uniform');
});

test('a permutation holds every number once', () => {
  const order = permutation(100, random(1, 1, 1));
  assert.deepEqual(
    [...order].sort((a, b) => a - b),
    [...Array(100).keys()],
  );
  assert.notDeepEqual(permutation(100, random(2, 1, 1)), order);
});

test('finds train/good in the MVTec AD layout, and the images of a plain folder', async () => {
  const mvtec = await findImages(parts);
  assert.equal(mvtec.files.length, 10);
  assert.ok(mvtec.files.every((file) => file.includes(path.join('train', 'good'))));
  const plain = await findImages(path.join(parts, 'train', 'good'));
  assert.deepEqual(plain, mvtec);
  const list = await findImages([...mvtec.files].reverse());
  assert.deepEqual(list.files, mvtec.files);
});

test('skips hidden files, other files and folders, and follows links to images', async () => {
  const mixed = path.join(folder, 'mixed');
  await mkdir(path.join(mixed, 'more'), { recursive: true });
  await png(pattern(8, 8)).toFile(path.join(mixed, 'b.PNG'));
  await png(pattern(8, 8)).toFile(path.join(mixed, '.hidden.png'));
  await png(pattern(8, 8)).toFile(path.join(mixed, 'more', 'c.png'));
  await writeFile(path.join(mixed, 'notes.txt'), 'hello');
  await symlink(path.join(mixed, 'b.PNG'), path.join(mixed, 'a.png'));
  const { files } = await findImages(mixed);
  assert.deepEqual(
    files.map((file) => path.basename(file)),
    ['a.png', 'b.PNG'],
  );
});

test('says what was expected and what is there when there are no images', async () => {
  const make = async (name, ...entries) => {
    const at = path.join(folder, name);
    await mkdir(at);
    for (const entry of entries) {
      if (entry.endsWith('/')) await mkdir(path.join(at, entry), { recursive: true });
      else await writeFile(path.join(at, entry), '');
    }
    return at;
  };
  for (const [at, message] of [
    [path.join(folder, 'nowhere'), /nowhere: no such folder/],
    [path.join(parts, 'train', 'good', '00.png'), /00\.png: expected a folder, got a file/],
    [await make('empty'), /empty: expected good images .*, found an empty folder/],
    [await make('texts', 'a.txt', 'b.txt'), /found 2 other files/],
    [await make('products', 'bottle/', 'screw/'), /found 2 folders \(bottle, screw\)/],
    [await make('defects', 'test/'), /expected good images in train\/good/],
    [await make('hollow', 'train/good/'), /hollow.*good: expected good images/],
  ]) {
    await assert.rejects(findImages(at), { name: 'DdadError', code: 'ERR_DATASET', message });
  }
  await assert.rejects(findImages([]), { code: 'ERR_DATASET' });
  await assert.rejects(findImages([path.join(folder, 'no.png')]), { code: 'ERR_DATASET', message: /no\.png/ });
});

test('the fingerprint follows names and sizes, not the place', async () => {
  const { fingerprint } = await findImages(parts);
  const again = await makeDataset(path.join(folder, 'elsewhere'), 10);
  assert.equal((await findImages(again)).fingerprint, fingerprint);
  const fewer = await makeDataset(path.join(folder, 'fewer'), 9);
  assert.notEqual((await findImages(fewer)).fingerprint, fingerprint);
  await writeFile(path.join(again, 'train', 'good', '00.png'), 'changed');
  assert.notEqual((await findImages(again)).fingerprint, fingerprint);
});

test('gray is decided over all images, and non-images are found', async () => {
  const { files } = await findImages(parts);
  assert.equal(await allGray(files), true);
  const colour = path.join(folder, 'colour.png');
  await png({ data: new Uint8Array(3 * 64).map((_, i) => i), width: 8, height: 8, channels: 3 }).toFile(colour);
  assert.equal(await allGray([...files, colour]), false);
  const fake = path.join(folder, 'fake.png');
  await writeFile(fake, 'not an image');
  await assert.rejects(allGray([...files, fake]), { code: 'ERR_IMAGE', message: /fake\.png/ });
});

test('the split is seeded, disjoint and never empty', () => {
  const images = Array.from({ length: 40 }, (_, i) => `${i}`);
  const { train, heldBack } = splitHeldBack(images, 0.1, 3);
  assert.equal(heldBack.length, 4);
  assert.deepEqual([...train, ...heldBack].sort(), [...images].sort());
  assert.deepEqual(splitHeldBack(images, 0.1, 3), { train, heldBack });
  assert.notDeepEqual(splitHeldBack(images, 0.1, 4).heldBack, heldBack);
  assert.deepEqual(splitHeldBack(images.slice(0, 2), 0.1, 0).heldBack.length, 1);
  assert.deepEqual(splitHeldBack(images.slice(0, 2), 0.99, 0).train.length, 1);
  assert.deepEqual(splitHeldBack(['a'], 0.1, 0), { train: ['a'], heldBack: ['a'] });
});

test('reflection mirrors at the edges without repeating them', () => {
  assert.deepEqual(
    Array.from({ length: 11 }, (_, i) => reflect(i - 4, 3)),
    [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2],
  );
  assert.deepEqual(
    [-5, 0, 7].map((i) => reflect(i, 1)),
    [0, 0, 0],
  );
});

test('a window reads the right pixels, mirrored when asked', () => {
  const data = Uint8Array.from({ length: 16 }, (_, i) => i * 17);
  const pixels = { data, width: 4, height: 4, channels: 1 };
  const read = (window) => {
    const out = new Float32Array(4);
    cropInto(out, pixels, { size: 2, flipX: false, flipY: false, ...window });
    return [...out].map((v) => Math.round(((v + 1) * 127.5) / 17));
  };
  assert.deepEqual(read({ left: 1, top: 2 }), [9, 10, 13, 14]);
  assert.deepEqual(read({ left: 1, top: 2, flipX: true }), [10, 9, 14, 13]);
  assert.deepEqual(read({ left: 1, top: 2, flipY: true }), [13, 14, 9, 10]);
  assert.deepEqual(read({ left: 3, top: 0 }), [3, 2, 7, 6]);
  const deep = { ...pixels, data: Uint16Array.from(data, (v) => v * 257) };
  const [a, b] = [new Float32Array(16), new Float32Array(16)];
  cropInto(a, pixels, { left: 0, top: 0, size: 4, flipX: false, flipY: false });
  cropInto(b, deep, { left: 0, top: 0, size: 4, flipX: false, flipY: false });
  assert.deepEqual([a[0], a[15]], [-1, 1]);
  assert.ok(a.every((v, i) => Math.abs(v - b[i]) < 1e-6));
});

test('a batch is a function of seed and step, cached or not', async () => {
  const { files } = await findImages(parts);
  for (const mode of ['crop', 'resize']) {
    const make = (seed, cacheBytes) => new TrainingData([files], expand({ mode, seed, flip: 'both' }), cacheBytes);
    const one = make(1);
    const batches = [];
    for (let step = 0; step < 8; step++) batches.push(await one.batch(step));
    assert.ok(batches.every((batch) => batch.length === 4 * 64 * 64 && batch.every((v) => v >= -1 && v <= 1)));
    const uncached = make(1, 0);
    for (const step of [7, 3, 0]) assert.deepEqual(await uncached.batch(step), batches[step]);
    assert.notDeepEqual(await make(2).batch(0), batches[0]);
  }
});

test('every pass shows every image once', async () => {
  const folderOfFlat = path.join(folder, 'flat');
  await mkdir(folderOfFlat);
  for (let i = 0; i < 6; i++) {
    const flat = { data: new Uint8Array(64 * 64).fill(40 * i), width: 64, height: 64, channels: 1 };
    await png(flat).toFile(path.join(folderOfFlat, `${i}.png`));
  }
  const { files } = await findImages(folderOfFlat);
  const data = new TrainingData([files], expand({ batchSize: 4 }));
  const seen = [];
  for (let step = 0; step < 9; step++) {
    const batch = await data.batch(step);
    for (let i = 0; i < 4; i++) seen.push(Math.round(((batch[i * 64 * 64] + 1) * 127.5) / 40));
  }
  for (let pass = 0; pass < 6; pass++) {
    assert.deepEqual(seen.slice(6 * pass, 6 * pass + 6).sort(), [0, 1, 2, 3, 4, 5]);
  }
});

test('images smaller than the window, down to 1 x 1, are filled by reflection', async () => {
  const small = path.join(folder, 'small');
  await mkdir(small);
  await png(pattern(1, 1)).toFile(path.join(small, 'one.png'));
  await png(pattern(5, 90)).toFile(path.join(small, 'tall.png'));
  const { files } = await findImages(small);
  for (const mode of ['crop', 'resize']) {
    const batch = await new TrainingData([files], expand({ mode })).batch(0);
    assert.ok(batch.every((v) => v >= -1 && v <= 1));
  }
});

test('overlays that ddad-native has written are no good images', async () => {
  const mixed = await makeDataset(path.join(folder, 'mixed'), 4);
  const good = path.join(mixed, 'train', 'good');
  const before = await findImages(mixed);
  const overlay = await png(pattern(32, 32)).toBuffer();
  await outputs.writePicture(path.join(good, '00.heatmap.png'), overlay);
  await writeFile(path.join(good, 'photo.heatmap.png'), overlay); // by that name, of somebody else
  const { files, overlays } = await findImages(mixed);
  assert.deepEqual(files, [...before.files, path.join(good, 'photo.heatmap.png')].sort());
  assert.deepEqual([before.overlays, overlays], [0, 1]);
});
