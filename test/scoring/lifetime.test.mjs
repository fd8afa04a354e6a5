// Detectors come and go: memory after many of them, collected ones, two at once, beside sharp, in forked processes.
import assert from 'node:assert/strict';
import { execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { Detector, Trainer } from '../../dist/index.js';
import { makeDataset, pattern, root, temporaryFolder, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 6);
const model = at('model.safetensors');
await trainTiny({ Trainer }, parts, model, { mode: 'resize', size: 32 });
const library = path.join(root, 'dist', 'index.js');
const image = path.join(parts, 'train', 'good', '00.png');

/** Runs code in a process of its own, where `Detector`, `model` and `image` are known; resolves to what it printed. */
async function inProcess(body, flags = [], before = '') {
  const code = `
    ${before}
    const { Detector } = require(${JSON.stringify(library)});
    const [model, image] = ${JSON.stringify([model, image])};
    (async () => { ${body} })();
  `;
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [...flags, '-e', code]);
  assert.equal(stderr, '');
  return stdout.trim();
}

test('100 times loaded, used and disposed of: memory stays', async () => {
  const grown = await inProcess(
    `
    let tenth = 0;
    for (let i = 1; i <= 100; i++) {
      const detector = await Detector.load(model, { threads: 2 });
      await Promise.all([detector.score(image), detector.score(image), detector.score(image)]);
      await detector[Symbol.asyncDispose]();
      global.gc(); // else it is the heap's idle peak that is measured
      if (i === 10 || i === 100) {
        for (let j = 0; j < 3; j++) { global.gc(); await new Promise((resolve) => setTimeout(resolve, 20)); }
        const now = process.memoryUsage.rss();
        if (i === 10) tenth = now;
        else console.log((now - tenth) / 1e6);
      }
    }
    `,
    ['--expose-gc'],
  );
  assert.ok(Number(grown) < 5, `grew by ${grown} MB from the tenth to the hundredth`);
});

test('detectors that are let go are collected, with the memory of the engine', async () => {
  const printed = await inProcess(
    `
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    for (let i = 0; i < 10; i++) {
      const detector = await Detector.load(model);
      await detector.score(image);
      registry.register(detector);
    }
    for (let i = 0; i < 100 && collected < 9; i++) { global.gc(); await new Promise((r) => setTimeout(r, 10)); }
    console.log(collected);
    `,
    ['--expose-gc'],
  );
  assert.ok(Number(printed) >= 9, `${printed} of 10 were collected`);
});

test('two detectors take turns, and neither waits for the other to be done', async () => {
  const [busy, other] = [await Detector.load(model, { maxBatch: 4 }), await Detector.load(model, { maxBatch: 4 })];
  const alone = (await other.score(image)).score;
  let done = 0;
  const many = Array.from({ length: 60 }, () => busy.score(pattern(200, 200)).then(() => (done += 1)));
  const { score } = await other.score(image);
  assert.equal(score, alone);
  assert.ok(done < 60, 'the other one had its turn before all of the first were done');
  await Promise.all(many);
  busy.dispose();
  assert.equal((await other.score(image)).score, alone, 'it lives on');
  other.dispose();
});

test('sharp may be loaded before and after, and used at the same time', async () => {
  const sharp = JSON.stringify(path.join(root, 'node_modules', 'sharp'));
  const body = `
    const detector = await Detector.load(model);
    const sharp = require(${sharp});
    const blur = () => sharp(image).resize(900, 900).blur(4).png().toBuffer();
    const found = await Promise.all([detector.score(image), blur(), detector.score(image), blur(), detector.score(image)]);
    detector.dispose();
    console.log(found[0].score === found[4].score, found[1].equals(found[3]));
  `;
  for (const before of [`require(${sharp});`, `require(${JSON.stringify(library)}); require(${sharp});`]) {
    assert.equal(await inProcess(body, [], before), 'true true');
  }
});

test('forked processes have detectors of their own', async () => {
  const detector = await Detector.load(model);
  const expected = (await detector.score(image)).score;
  const script = at('child.cjs');
  await writeFile(
    script,
    `const { Detector } = require(${JSON.stringify(library)});
    process.on('message', async ({ model, image }) => {
      const detector = await Detector.load(model);
      const results = await Promise.all(Array.from({ length: 6 }, () => detector.score(image)));
      process.send(results.map(({ score }) => score), () => process.disconnect());
      detector.dispose();
    });`,
  );
  const children = [fork(script), fork(script)];
  const scores = Promise.all(children.map(async (child) => (await once(child, 'message'))[0]));
  const ends = Promise.all(children.map(async (child) => (await once(child, 'exit'))[0]));
  for (const child of children) child.send({ model, image });
  const own = await Promise.all(Array.from({ length: 20 }, () => detector.score(image)));
  detector.dispose();
  for (const found of await scores) assert.deepEqual(found, Array(6).fill(expected));
  assert.deepEqual(await ends, [0, 0], 'they end by themselves');
  assert.ok(own.every(({ score }) => score === expected));
});

test('a process ends by itself with calls that wait, once they are answered', async () => {
  const printed = await inProcess(`
    const detector = await Detector.load(model, { maxDelayMs: 200 });
    detector.score(image).then(({ score }) => console.log(Number.isFinite(score)));
  `);
  assert.equal(printed, 'true');
});
