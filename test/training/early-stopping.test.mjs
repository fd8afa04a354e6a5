// Training that ends by itself: what it looks at, when it decides, and that nothing of it hangs on the clock.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import damage from '../../dist/data/damage.js';
import { Trainer } from '../../dist/index.js';
import random from '../../dist/numeric/random.js';
import {
  makeDataset,
  readSafetensors,
  run,
  temporaryFolder,
  tiny,
  tinyFlags,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 10);
const { steps: _, ...free } = tiny;
/** Gains little after some hundred steps. */
const quick = { ...free, size: 32, batchSize: 1, lr: 2e-3 };

test('a piece of the image is pasted within the box that is told, and nowhere else', () => {
  const [size, channels] = [64, 3];
  const before = Float32Array.from({ length: size * size * channels }, (_, i) => Math.sin(i * i) / 2);
  let thin = 0;
  for (let n = 0; n < 40; n++) {
    const after = before.slice();
    const [left, top, width, height] = damage.cutPaste(after, size, channels, random.random(3, 8, n));
    assert.ok(left >= 0 && top >= 0 && left + width <= size && top + height <= size);
    assert.ok(width >= 2 && height >= 2);
    if (Math.max(width / height, height / width) > 3) thin += 1;
    let changed = 0;
    after.forEach((value, i) => {
      assert.ok(value >= -1 && value <= 1);
      const [x, y] = [Math.floor(i / channels) % size, Math.floor(i / channels / size)];
      if (value === before[i]) return;
      changed += 1;
      assert.ok(x >= left && x < left + width && y >= top && y < top + height, `changed at ${x}, ${y}`);
    });
    assert.ok(changed > 0.9 * width * height * channels);
    const again = before.slice();
    damage.cutPaste(again, size, channels, random.random(3, 8, n));
    assert.deepEqual(again, after);
  }
  assert.ok(thin > 8 && thin < 32, `${thin} of 40 are thin`);
});

/** Trains; resolves to the looks and the last step. `stop` says where the loop is left. */
async function watch(trainer, options, stop = () => false) {
  const looks = [];
  let last;
  for await (const progress of trainer.fit(parts, options)) {
    if (progress.phase !== 'train') continue;
    if (progress.separation !== undefined) looks.push([progress.step - 1, progress.separation]);
    last = progress;
    if (stop(progress)) break;
  }
  return { looks, last };
}

test('training ends a quarter after the look that shows no gain, with the rate at 0; a resumed run has the same bytes', async () => {
  const whole = at('whole.safetensors');
  const trainer = new Trainer(quick);
  const { looks, last } = await watch(trainer);
  await trainer.save(whole);
  trainer.dispose();
  assert.deepEqual(
    looks.map(([step]) => step),
    looks.map((_, i) => 128 * 2 ** i),
  );
  assert.ok(looks.length >= 2 && looks.every(([, separation]) => separation > 0.4 && separation <= 1));
  const [before, now] = looks.slice(-2);
  assert.ok(now[1] >= 0.75 && now[1] - before[1] < 0.01, JSON.stringify(looks));
  for (let i = 1; i < looks.length - 1; i++)
    assert.ok(looks[i][1] < 0.75 || looks[i][1] - looks[i - 1][1] >= 0.01, JSON.stringify(looks));
  assert.deepEqual([last.step, last.steps], [1.25 * now[0], 1.25 * now[0]]);
  assert.ok(last.lr < 0.02 * quick.lr, `the last rate is ${last.lr}`);

  // left before the first look, at one, and after the last
  const checkpoint = at('run.ckpt.safetensors');
  let options = { checkpoint };
  for (const leave of [100, looks[0][0], now[0] + 3]) {
    await watch(new Trainer(quick), options, ({ step }) => step === leave);
    options = { checkpoint, resume: checkpoint };
  }
  const resumed = new Trainer({ threads: 1 });
  await watch(resumed, options);
  await resumed.save(at('resumed.safetensors'));
  resumed.dispose();
  const [one, other] = [await readSafetensors(whole), await readSafetensors(at('resumed.safetensors'))];
  assert.equal(other.header.__metadata__.config, one.header.__metadata__.config);
  assert.ok(other.data.equals(one.data));
});

test('steps that are asked for are done; both can be asked for', async () => {
  const fixed = await trainTiny({ Trainer }, parts, at('fixed.safetensors'));
  assert.equal(fixed.training.earlyStopping, undefined);
  assert.equal(new Trainer(free).config, undefined);
  const { stdout, code } = await run(
    ['train', parts, '--out', at('cli.safetensors'), ...tinyFlags, '--steps', '130', '--early-stopping', '--json'],
    { timeout: 60_000 },
  );
  assert.equal(code, 0);
  assert.equal(JSON.parse(stdout).steps, 130, 'one look says nothing yet');
  const { header } = await readSafetensors(at('cli.safetensors'));
  assert.equal(JSON.parse(header.__metadata__.config).training.earlyStopping, true);
});

test('a run that ended by itself goes on where that is asked for, else it says so', async () => {
  const checkpoint = at('ended.ckpt.safetensors');
  const { last } = await watch(new Trainer(quick), { checkpoint });
  const again = new Trainer({ threads: 1 });
  const { last: none } = await watch(again, { resume: checkpoint });
  assert.equal(none, undefined);
  assert.ok(again.warnings.some((text) => new RegExp(`had ended by itself at ${last.step} steps`).test(text)));
  again.dispose();
  for (const [options, fit] of [
    [{ steps: last.step + 5, earlyStopping: true }, {}],
    [{}, { timeLimitMs: 60_000 }],
  ]) {
    const { last: more } = await watch(
      new Trainer({ threads: 1, ...options }),
      { resume: checkpoint, ...fit },
      ({ step }) => step > last.step + 4,
    );
    assert.equal(more.step, last.step + 5);
    assert.ok(more.lr >= 0);
  }
});

test('a time limit that passes while damage is looked for ends training in order', async () => {
  const { earlyStopping: _, ...options } = quick;
  const timed = new Trainer(options);
  let steps = 0;
  const start = performance.now();
  for await (const { phase } of timed.fit(parts, { timeLimitMs: 1e9 })) if (phase === 'train' && ++steps === 120) break;
  const limit = (performance.now() - start) * (128 / 120);
  for (const timeLimitMs of [limit, limit + 40, limit + 80]) {
    const { last } = await watch(timed, { timeLimitMs });
    assert.ok(last.lr >= 0 && timed.config.threshold !== null);
  }
  timed.dispose();
});

test('a checkpoint whose looks contradict it is refused', async () => {
  const checkpoint = at('sane.ckpt.safetensors');
  await watch(new Trainer(quick), { checkpoint }, ({ step }) => step === 140);
  const { header, data } = await readSafetensors(checkpoint);
  const config = JSON.parse(header.__metadata__.config);
  assert.equal(config.checkpoint.early.looks.length, 1);
  const look = (step) => ({ step, separation: 0.9 });
  for (const early of [
    { looks: [look(160)] },
    { looks: [look(128), look(64)] },
    { looks: [look(128)], total: 10 },
    { looks: [], total: 400 },
    { looks: [{ step: 128, separation: 2 }] },
  ]) {
    const { digest: _, digestAlgorithm: __, ...rest } = header.__metadata__;
    const changed = { ...config, checkpoint: { ...config.checkpoint, early } };
    const file = at('odd.ckpt.safetensors');
    const metadata = { ...rest, config: JSON.stringify(changed) };
    await writeSafetensors(file, { header: { ...header, __metadata__: metadata }, data });
    await assert.rejects(watch(new Trainer({ threads: 1 }), { resume: file }), {
      code: 'ERR_MODEL_FORMAT',
      message: /early/,
    });
  }
});
