// Writes the sets of the suite as datasets in the MVTec AD layout, with synthetic defects on good images:
//   node bench/accuracy/suite/generate.mjs FOLDER [--sets tiles,cells] [--seed 1] [--number 12] [--data ../shared/data]
// FOLDER/<set> has train/good, test/good, the set's own defects, test/<kind>-<contrast>/NNN.png with their masks, and
// suite.json, which says what was made of which image. What is there with the same settings is left as it is.
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { apply, contrasts, fits, kindNames, makeDefect, maskOf } from './kinds.mjs';
import { readPixels, toPng } from './pixels.mjs';
import { drawPose, posed } from './rotate.mjs';
import { defaultCache, defaultData, setNames, sets } from './sets.mjs';
import { shuffled, stream } from './streams.mjs';

/** Of what is made: another version makes it anew. */
const version = 2;
/** At most so many training images, and at most this share, are taken from training for defects. */
const mostBases = 120;
const shareOfBases = 0.2;

const ofContrast = new RegExp(`-(${contrasts.join('|')})/`);

const nameOf = (file) => path.basename(file);
const number = (i) => String(i).padStart(3, '0');

/** Splits the training images: those that stay, and those that get defects. Both depend on the seed and their names. */
function split(train, seed, set) {
  const count = Math.min(mostBases, Math.floor(train.length * shareOfBases));
  const bases = shuffled(train, stream(seed, `${set}/bases`)).slice(0, count);
  const taken = new Set(bases);
  return { bases, kept: train.filter((file) => !taken.has(file)) };
}

/** Writes an image as it is. */
async function copies(files, folder) {
  await mkdir(folder, { recursive: true });
  for (const file of files) await copyFile(file, path.join(folder, nameOf(file)));
}

async function copyReal({ defects }, folder) {
  for (const [defect, images] of Object.entries(defects)) {
    await copies(
      images.map(({ file }) => file),
      path.join(folder, 'test', defect),
    );
    const masks = images.flatMap(({ mask }) => mask ?? []);
    if (masks.length > 0) await copies(masks, path.join(folder, 'ground_truth', defect));
  }
}

/** The synthetic defects of a set: `{ images, skipped }`. */
export async function writeDefects(folder, { bases, foreign, seed, set, count }) {
  const images = [];
  const skipped = [];
  for (const [k, kind] of kindNames.entries()) {
    for (let i = 0; i < count; i++) {
      // Each base once before one is taken again.
      const at = k * count + i;
      const base = bases[at % bases.length];
      const image = await readPixels(base);
      if (!fits(kind, image.channels)) {
        skipped.push(`${kind}: the images are gray`);
        break;
      }
      const next = stream(seed, `${set}/${kind}`, i);
      const other = await readPixels(foreign[at % foreign.length]);
      const defect = await makeDefect(kind, image, next, other);
      const mask = await toPng(maskOf(defect, image));
      for (const contrast of contrasts) {
        const name = `${kind}-${contrast}`;
        const places = [path.join(folder, 'test', name), path.join(folder, 'ground_truth', name)];
        for (const place of places) await mkdir(place, { recursive: true });
        await writeFile(path.join(places[0], `${number(i)}.png`), await toPng(await apply(image, defect, contrast)));
        await writeFile(path.join(places[1], `${number(i)}_mask.png`), mask);
        images.push({ file: `test/${name}/${number(i)}.png`, kind, contrast, base: nameOf(base) });
      }
    }
  }
  return { images, skipped };
}

async function writePlain(set, folder, { seed, count, data, cache }) {
  const found = await sets[set].find(data, cache);
  const foreign = await sets[sets[set].foreign].find(data, cache);
  const { bases, kept } = split(found.train, seed, set);
  await copies(kept, path.join(folder, 'train', 'good'));
  await copies(found.good, path.join(folder, 'test', 'good'));
  await copyReal(found, folder);
  const made = await writeDefects(folder, { bases, foreign: foreign.good, seed, set, count });
  return { real: Object.keys(found.defects), ...made };
}

/** Every image of another set turned and moved. */
async function writeRotated(set, folder, { out, seed }) {
  const from = path.join(out, sets[set].rotated);
  const made = JSON.parse(await readFile(path.join(from, 'suite.json'), 'utf8'));
  const names = await readdir(from, { recursive: true });
  const images = names.filter((name) => /^(train|test)[/\\].*\.(png|jpe?g)$/i.test(name)).sort();
  for (const image of images) {
    const { dir, name } = path.parse(image);
    const { width, height } = await readPixels(path.join(from, image));
    // A defect's three contrasts lie the same way.
    const called = `${set}/${image.split(path.sep).join('/')}`.replace(ofContrast, '/');
    const pose = drawPose(stream(seed, called), { width, height });
    await mkdir(path.join(folder, dir), { recursive: true });
    await writeFile(path.join(folder, dir, `${name}.png`), await posed(path.join(from, image), pose));
    const mask = path.join(dir.replace(/^test/, 'ground_truth'), `${name}_mask.png`);
    if (!names.includes(mask)) continue;
    await mkdir(path.join(folder, path.dirname(mask)), { recursive: true });
    await writeFile(path.join(folder, mask), await posed(path.join(from, mask), pose, true));
  }
  return { real: made.real, images: made.images, skipped: made.skipped };
}

/**
 * Writes a set below `out`, and the one that it is a copy of; returns its folder. `say` hears what is made.
 */
export async function generate(set, { out, seed = 1, count = 12, data = defaultData, cache = defaultCache, say }) {
  const options = { out, seed, count, data, cache, say };
  const original = sets[set].rotated;
  if (original) await generate(original, options);
  const folder = path.join(out, set);
  const settings = { version, set, seed, count };
  const file = path.join(folder, 'suite.json');
  const there = await readFile(file, 'utf8').then(JSON.parse, () => null);
  if (there && JSON.stringify(there.settings) === JSON.stringify(settings)) return folder;
  say?.(`making ${folder} …`);
  await rm(folder, { recursive: true, force: true });
  const made = original ? await writeRotated(set, folder, options) : await writePlain(set, folder, options);
  for (const line of made.skipped) say?.(`  left out: ${line}`);
  await writeFile(file, `${JSON.stringify({ settings, ...made }, null, 1)}\n`);
  return folder;
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      sets: { type: 'string', default: setNames.join(',') },
      seed: { type: 'string', default: '1' },
      number: { type: 'string', default: '12' },
      data: { type: 'string', default: defaultData },
    },
  });
  const wanted = values.sets.split(',');
  const unknown = wanted.find((set) => !sets[set]);
  if (positionals.length !== 1 || unknown) {
    const why = unknown ? `unknown set ${unknown}, expected ${setNames.join(', ')}\n` : '';
    process.stderr.write(`${why}usage: generate.mjs FOLDER [--sets ${setNames.join(',')}] [--seed 1] [--number 12]\n`);
    process.exit(2);
  }
  const say = (text) => process.stderr.write(`${text}\n`);
  for (const set of wanted) {
    const { seed, number: count, data } = values;
    await generate(set, { out: positionals[0], seed: Number(seed), count: Number(count), data, say });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
