// Detectors that come and go: two at a time are loaded, score beside sharp, and are disposed of, one of them at work.
//   node test/soak/cycles.mjs [--cycles 100]
// For a build with sanitizers (DDAD_ADDON; npm run build:debug -- --addon tells the command) or valgrind:
//   DDAD_MAX_CPU_ISA=avx2 DDAD_AUTOTUNE=off valgrind --smc-check=all-non-file --undef-value-errors=no \
//     --suppressions=test/soak/valgrind.supp --error-exitcode=9 node --jitless test/soak/cycles.mjs --cycles 3
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { Detector } from '../../dist/index.js';
import { makeImages, makeModel } from './images.mjs';

const { values } = parseArgs({ options: { cycles: { type: 'string', default: '100' } } });
const model = await makeModel();
try {
  const images = await makeImages(6, 1);
  let expected;
  for (let cycle = 0; cycle < Number(values.cycles); cycle++) {
    const [one, other] = await Promise.all([1, 2].map((threads) => Detector.load(model.model, { threads })));
    const controller = new AbortController();
    const calls = images.map((image) => one.score(image));
    const aborted = one.score(images[0], { signal: controller.signal });
    const cut = images.map((image) => other.score(image));
    controller.abort();
    const [ends, scores] = await Promise.all([
      Promise.allSettled([aborted, ...cut.slice(3)]),
      Promise.all(calls),
      sharp(images[0]).resize(300, 300).png().toBuffer(),
      cut[2].then(() => other.dispose()),
    ]);
    await Promise.allSettled(cut);
    await one[Symbol.asyncDispose]();
    assert.ok(ends.every(({ reason }) => !reason || ['ERR_ABORTED', 'ERR_DISPOSED'].includes(reason.code)));
    const found = scores.map(({ score }) => score);
    assert.deepEqual(found, (expected ??= found));
  }
  console.log(`${values.cycles} cycles, ${Math.round(process.memoryUsage.rss() / 1e6)} MB resident in the end`);
} finally {
  await model.remove();
}
