// The synthetic defects of bench/accuracy/suite.
import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { generate } from '../../bench/accuracy/suite/generate.mjs';
import {
  apply,
  changeWithin,
  contrasts,
  fits,
  kindNames,
  makeDefect,
  maskOf,
} from '../../bench/accuracy/suite/kinds.mjs';
import { readPixels, smooth, toPng } from '../../bench/accuracy/suite/pixels.mjs';
import { drawPose, posed } from '../../bench/accuracy/suite/rotate.mjs';
import { stream } from '../../bench/accuracy/suite/streams.mjs';
import { tinyData } from '../helpers/accuracy.mjs';
import { png, temporaryFolder } from '../helpers/common.mjs';

/** Waves with a little noise, as floats; `channels` with brightness of their own. */
function picture(width, height, channels, name = 'picture') {
  const next = stream(7, name);
  const data = new Float32Array(width * height * channels);
  for (let i = 0; i < data.length; i++) {
    const at = Math.floor(i / channels);
    const [x, y] = [at % width, Math.floor(at / width)];
    const wave = Math.sin(x / 5) * Math.cos(y / 7);
    data[i] = Math.round(110 + 15 * (i % channels) + 35 * wave + 10 * next());
  }
  return { data, width, height, channels };
}

const gray = picture(120, 90, 1);
const coloured = picture(120, 90, 3);
const foreign = picture(80, 100, 1, 'foreign');
const bytesOf = ({ data }) => Buffer.from(Uint8Array.from(data));

/** A kind's defect at each contrast, by a seed. */
async function made(kind, image, seed) {
  const defect = await makeDefect(kind, image, stream(seed, kind), foreign);
  const images = [];
  for (const contrast of contrasts) images.push(await apply(image, defect, contrast));
  return { defect, images };
}

for (const image of [gray, coloured]) {
  for (const kind of kindNames.filter((name) => fits(name, image.channels))) {
    const called = `${kind}, ${image.channels === 1 ? 'gray' : 'colour'}`;

    test(`${called}: the same bytes for the same seed, others for another`, async () => {
      const [first, again, other] = [
        await made(kind, image, 1),
        await made(kind, image, 1),
        await made(kind, image, 2),
      ];
      for (const i of contrasts.keys()) {
        assert.deepEqual(bytesOf(first.images[i]), bytesOf(again.images[i]));
        assert.notDeepEqual(bytesOf(first.images[i]), bytesOf(other.images[i]));
      }
      assert.deepEqual(await toPng(first.images[2]), await toPng(again.images[2]));
      assert.deepEqual(maskOf(first.defect, image), maskOf(again.defect, image));
    });

    test(`${called}: the mask is where pixels change`, async () => {
      for (const seed of [1, 2, 3]) {
        const { defect, images } = await made(kind, image, seed);
        const mask = maskOf(defect, image);
        let inside = 0;
        let changed = 0;
        for (const [i, value] of mask.data.entries()) {
          assert.ok(value === 0 || value === 255);
          const differs = [...Array(image.channels).keys()].some((c) => {
            const at = i * image.channels + c;
            return images[2].data[at] !== image.data[at];
          });
          if (value === 0) assert.ok(!differs, `pixel ${i} changes outside of the mask`);
          else {
            inside += 1;
            if (differs) changed += 1;
          }
        }
        assert.ok(inside > 0 && inside < mask.data.length);
        assert.ok(changed > 0.6 * inside, `${changed} of ${inside} pixels of the mask change`);
      }
    });

    test(`${called}: more contrast changes more`, async () => {
      for (const seed of [1, 2, 3]) {
        const { defect, images } = await made(kind, image, seed);
        const changes = images.map((one) => changeWithin(image, one, defect));
        assert.ok(changes[0] > 0 && changes[0] < changes[1] && changes[1] < changes[2], changes.join(' < '));
      }
    });
  }
}

test('a defect has room on black and on white', async () => {
  const board = { ...gray, data: gray.data.map((_, i) => (i % 120 < 60 ? 0 : 255)) };
  const { defect, images } = await made('scratch-wide', board, 1);
  const changes = images.map((one) => changeWithin(board, one, defect));
  assert.ok(changes[2] > 40, `changed by ${changes[2]}`);
});

test('colour changes the hue and not the brightness', async () => {
  const { defect, images } = await made('colour', coloured, 1);
  let away = 0;
  let count = 0;
  const luminance = (data, i) => 0.299 * data[3 * i] + 0.587 * data[3 * i + 1] + 0.114 * data[3 * i + 2];
  for (const [i, value] of defect.alpha.entries()) {
    if (value === 0) continue;
    away += Math.abs(luminance(images[2].data, i) - luminance(coloured.data, i));
    count += 1;
  }
  assert.ok(away / count < 2, `the brightness changes by ${away / count}`);
});

test('an image that shows no change of a kind is refused', async () => {
  const flat = { ...gray, data: gray.data.map(() => 100) };
  await assert.rejects(makeDefect('blur', flat, stream(1, 'flat'), foreign), /blur: no place of the image shows it/);
});

test('means beyond the border are of what is inside', () => {
  const flat = new Float32Array(12).fill(5);
  assert.deepEqual([...smooth(flat, 4, 3, 2)], [...flat]);
  const peak = new Float32Array(81);
  peak[40] = 9;
  const spread = smooth(peak, 9, 9, 1);
  assert.ok(spread[40] < 9 && spread[40] > spread[39] && Math.abs(spread[39] - spread[31]) < 1e-6);
});

test('a turned part lies within its picture, and its mask with it', async () => {
  const folder = await temporaryFolder();
  const [width, height] = [60, 40];
  const data = new Uint8Array(width * height).fill(90);
  const mask = new Uint8Array(width * height);
  for (let y = 8; y < 20; y++) {
    for (let x = 10; x < 26; x++) {
      data[y * width + x] = 20;
      mask[y * width + x] = 255;
    }
  }
  const files = [path.join(folder, 'part.png'), path.join(folder, 'mask.png')];
  await png({ data, width, height, channels: 1 }).toFile(files[0]);
  await png({ data: mask, width, height, channels: 1 }).toFile(files[1]);
  const angles = new Set();
  for (const seed of [1, 2, 3, 4]) {
    const pose = drawPose(stream(seed, 'pose'), { width, height });
    angles.add(pose.angle);
    const part = await posed(files[0], pose);
    assert.deepEqual(part, await posed(files[0], pose));
    const image = await readPixels(part);
    const { data: lies } = await readPixels(await posed(files[1], pose, true));
    assert.deepEqual([image.width, image.height, image.channels], [pose.side, pose.side, 1]);
    assert.equal(lies.length, pose.side ** 2);
    let area = 0;
    for (const [i, value] of lies.entries()) {
      assert.ok(value === 0 || value === 255);
      if (value === 255) {
        area += 1;
        assert.ok(image.data[i] < 70, `${image.data[i]} at pixel ${i} of the mask`);
      } else {
        assert.ok(image.data[i] > 40, `${image.data[i]} at pixel ${i} outside of the mask`);
      }
    }
    assert.ok(Math.abs(area - 12 * 16) < 20, `the mask has ${area} pixels`);
    const ground = image.data.filter((value) => value === 230).length;
    const outside = pose.side ** 2 - width * height;
    assert.ok(Math.abs(ground - outside) < 0.1 * outside, `${ground} pixels of the ground, ${outside} expected`);
  }
  assert.equal(angles.size, 4);
});

test('a set is a dataset whose defects are on images that nothing else has', async () => {
  const folder = await temporaryFolder();
  const data = await tinyData(path.join(folder, 'data'));
  const out = path.join(folder, 'out');
  const told = [];
  const options = { out, data, count: 2, seed: 5, say: (text) => told.push(text) };
  const set = await generate('boards', options);
  const names = (...at) => readdir(path.join(set, ...at)).then((list) => list.sort());
  const { images, skipped, real } = JSON.parse(await readFile(path.join(set, 'suite.json'), 'utf8'));

  assert.deepEqual(real, ['defect']);
  assert.deepEqual(skipped, ['colour: the images are gray']);
  assert.ok(told.some((line) => line.includes('colour: the images are gray')));
  const kinds = kindNames.filter((kind) => kind !== 'colour');
  const folders = kinds.flatMap((kind) => contrasts.map((contrast) => `${kind}-${contrast}`));
  assert.deepEqual(await names('test'), [...folders, 'defect', 'good'].sort());
  assert.deepEqual(await names('ground_truth'), [...folders, 'defect'].sort());
  for (const one of folders) {
    assert.deepEqual(await names('test', one), ['000.png', '001.png']);
    assert.deepEqual(await names('ground_truth', one), ['000_mask.png', '001_mask.png']);
  }
  const trained = await names('train', 'good');
  const bases = new Set(images.map(({ base }) => base));
  assert.equal(bases.size, 4);
  assert.equal(trained.length, 16);
  assert.ok(trained.every((name) => !bases.has(name)));
  assert.ok(
    [...bases].every((name) => name.startsWith('t')),
    'bases are of the training images',
  );
  assert.equal((await names('test', 'good')).length, 4);

  const [{ file, base, kind }] = images;
  const before = await readPixels(path.join(data, 'pcb', 'train', 'good', base));
  const after = await readPixels(path.join(set, file));
  const mask = await readPixels(path.join(set, 'ground_truth', `${kind}-low`, '000_mask.png'));
  for (const [i, value] of after.data.entries()) if (mask.data[i] === 0) assert.equal(value, before.data[i]);

  const written = (await stat(path.join(set, file))).mtimeMs;
  const bytes = await readFile(path.join(set, file));
  await generate('boards', options);
  assert.equal((await stat(path.join(set, file))).mtimeMs, written, 'what is there is left');
  await generate('boards', { ...options, out: path.join(folder, 'again') });
  assert.deepEqual(await readFile(path.join(folder, 'again', 'boards', file)), bytes);
  await generate('boards', { ...options, seed: 6 });
  assert.notDeepEqual(await readFile(path.join(set, file)), bytes, 'another seed makes others');
});
