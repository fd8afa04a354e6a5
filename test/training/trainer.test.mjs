import assert from 'node:assert/strict';
import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import engineJson from '../../dist/config/engine-json.js';
import { DdadError, Detector, Trainer } from '../../dist/index.js';
import { makeDataset, readSafetensors, temporaryFolder, tiny, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const parts = await makeDataset(path.join(folder, 'parts'), 10);
const at = (name) => path.join(folder, name);

/** Fits to the end, or until `stop` says so; returns the progress seen. */
async function fit(trainer, options = {}, stop = () => false) {
  const seen = [];
  for await (const progress of trainer.fit(parts, options)) {
    seen.push(progress);
    if (stop(progress)) break;
  }
  return seen;
}

test('trains, calibrates and reports both', async () => {
  const trainer = new Trainer(tiny);
  const seen = await fit(trainer);
  const training = seen.filter(({ phase }) => phase === 'train');
  assert.deepEqual(
    training.map(({ step }) => step),
    [1, 2, 3, 4, 5, 6],
  );
  assert.ok(training.every(({ loss, mse, vb }) => [loss, mse, vb].every(Number.isFinite)));
  assert.deepEqual(
    training.map(({ lr }) => Number((lr / 5e-4).toFixed(6))),
    [1, 5, 4, 3, 2, 1].map((n, i) => (i === 0 ? 1 : Number((n / 6).toFixed(6)))),
  );
  assert.deepEqual([training.at(-1).done, training.at(-1).remainingMs], [1, 0]);
  const scoring = seen.filter(({ phase }) => phase === 'calibrate');
  assert.deepEqual(
    scoring.map(({ step, steps }) => [step, steps]),
    [
      [1, 2],
      [2, 2],
    ],
  );
  const { calibration, threshold, unet } = trainer.config;
  assert.equal(unet.inChannels, 1, 'all images are gray');
  assert.deepEqual([calibration.pixelMean.length, calibration.pixelStd.length, calibration.images], [3, 3, 1]);
  assert.ok(calibration.pixelStd.every((std) => std > 0));
  assert.ok(Number.isFinite(threshold));
  assert.match(trainer.warnings[0], /quantile 0\.99 of only 1 held-back image/);
  assert.ok(trainer.memoryUsage.parameters > 0);
  await trainer.save(at('model.safetensors'));
  const { header } = await readSafetensors(at('model.safetensors'));
  const metadata = header.__metadata__;
  assert.deepEqual([metadata.format, metadata.formatVersion, metadata.kind], ['ddad-native', '1', 'model']);
  assert.deepEqual(engineJson.fromEngineJson(metadata.config), trainer.config);
  trainer.dispose();
  await assert.rejects(trainer.save(at('x.safetensors')), { code: 'ERR_ARGUMENT' });
});

test('the same seed gives the same bytes, another seed others', async () => {
  await trainTiny({ Trainer }, parts, at('a.safetensors'));
  await trainTiny({ Trainer }, parts, at('b.safetensors'), { threads: 2 });
  await trainTiny({ Trainer }, parts, at('c.safetensors'), { seed: 1 });
  const [a, b, c] = await Promise.all(['a', 'b', 'c'].map((name) => readFile(at(`${name}.safetensors`))));
  assert.ok(a.equals(b), 'whatever the number of threads');
  assert.ok(!a.equals(c));
});

test('a run that is left and resumed ends in the bytes of one never stopped', async () => {
  await trainTiny({ Trainer }, parts, at('whole.safetensors'), {}, { checkpoint: at('whole.ckpt.safetensors') });
  for (const left of [1, 4]) {
    const checkpoint = at(`left-${left}.ckpt.safetensors`);
    await fit(new Trainer(tiny), { checkpoint }, ({ step }) => step === left);
    const { header } = await readSafetensors(checkpoint);
    assert.equal(header.__metadata__.kind, 'checkpoint');
    assert.equal(JSON.parse(header.__metadata__.config).checkpoint.step, left);
    // No option is repeated: the checkpoint knows them.
    const trainer = new Trainer({ threads: 1 });
    const seen = await fit(trainer, { resume: checkpoint, checkpoint });
    assert.equal(seen[0].step, left + 1);
    await trainer.save(at('resumed.safetensors'));
    trainer.dispose();
    assert.ok((await readFile(at('resumed.safetensors'))).equals(await readFile(at('whole.safetensors'))));
    assert.ok((await readFile(checkpoint)).equals(await readFile(at('whole.ckpt.safetensors'))));
  }
});

test('an abort stops soon, keeps a checkpoint and gives the reason', async () => {
  const controller = new AbortController();
  const checkpoint = at('aborted.ckpt.safetensors');
  const reason = new Error('the shift is over');
  const trainer = new Trainer({ ...tiny, steps: 100_000 });
  let abortedAt = 0;
  await assert.rejects(
    fit(trainer, { signal: controller.signal, checkpoint }, ({ step }) => {
      if (step === 3) setTimeout(() => ((abortedAt = performance.now()), controller.abort(reason)), 1);
    }),
    (error) => error instanceof DdadError && error.code === 'ERR_ABORTED' && error.cause === reason,
  );
  assert.ok(performance.now() - abortedAt < 1000);
  const { header } = await readSafetensors(checkpoint);
  assert.ok(JSON.parse(header.__metadata__.config).checkpoint.step >= 3);
  const before = new AbortController();
  before.abort();
  await assert.rejects(fit(trainer, { signal: before.signal }), { code: 'ERR_ABORTED' });
});

test('a time limit ends training and is counted across resumes', async () => {
  const { steps: _, ...others } = tiny;
  const options = { ...others, earlyStopping: false };
  const checkpoint = at('timed.ckpt.safetensors');
  // Long against a step, also where other work slows it down; nothing below says how many steps there are.
  const timeLimitMs = 2500;
  const first = await fit(new Trainer(options), { timeLimitMs, checkpoint }, ({ elapsedMs }) => elapsedMs > 150);
  assert.ok(first.every(({ steps, done }) => steps === null && done <= 1));
  const { elapsedMs: before } = first.at(-1);
  const trainer = new Trainer({ threads: 1 });
  const start = performance.now();
  const rest = (await fit(trainer, { resume: checkpoint })).filter(({ phase }) => phase === 'train');
  assert.ok(rest[0].elapsedMs >= before, 'the time before counts');
  assert.ok(performance.now() - start >= timeLimitMs - rest[0].elapsedMs, 'it takes its time');
  // what is on its way is ended, nothing is begun any more
  assert.ok(rest.slice(0, -1).every(({ elapsedMs }) => elapsedMs < timeLimitMs));
  // the learning rate falls over the whole limit, with the time that a step begins at
  for (const [i, { lr }] of rest.entries()) {
    const begun = i === 0 ? before : rest[i - 1].elapsedMs;
    assert.ok(lr > 0 && lr <= 5e-4 * (1 - begun / timeLimitMs) + 1e-12, `step ${i}: ${lr}`);
  }
  assert.equal(trainer.config.training.timeLimitMs, timeLimitMs);
  trainer.dispose();
});

test('resuming refuses other images, other options and files that are no checkpoints', async () => {
  const checkpoint = at('mine.ckpt.safetensors');
  await trainTiny({ Trainer }, parts, at('mine.safetensors'), {}, { checkpoint });
  const others = await makeDataset(at('others'), 7);
  const tryOut = async (dataset, options, resume) => {
    for await (const progress of new Trainer(options).fit(dataset, { resume })) void progress;
  };
  for (const [dataset, options, resume, code, message] of [
    [others, {}, checkpoint, 'ERR_DATASET', /trained on 10 other images; found 7/],
    [
      parts,
      { lr: 1e-4 },
      checkpoint,
      'ERR_OPTION',
      /option "lr": the checkpoint was trained with 0\.0005, got 0\.0001/,
    ],
    [parts, {}, at('mine.safetensors'), 'ERR_MODEL_FORMAT', /expected a checkpoint, got a model/],
    [parts, {}, at('nowhere.safetensors'), 'ERR_FILE_READ', /nowhere/],
    [parts, {}, path.join(parts, 'train', 'good', '00.png'), 'ERR_MODEL_FORMAT', /not a safetensors file/],
  ]) {
    await assert.rejects(tryOut(dataset, options, resume), { name: 'DdadError', code, message });
  }
  await assert.rejects(Detector.load(checkpoint), { code: 'ERR_MODEL_FORMAT' });
});

test('writing where it cannot be done fails with ERR_FILE_WRITE and leaves nothing', async () => {
  const missing = at('no/such/folder/x.safetensors');
  await assert.rejects(fit(new Trainer(tiny), { checkpoint: missing }), { code: 'ERR_FILE_WRITE' });
  const trainer = new Trainer(tiny);
  await fit(trainer);
  await assert.rejects(trainer.save(missing), { code: 'ERR_FILE_WRITE' });
  await rm(at('into'), { recursive: true, force: true });
  await trainer.save(at('again.safetensors'));
  await trainer.save(at('again.safetensors'));
  trainer.dispose();
  const names = await readdir(folder);
  assert.deepEqual(
    names.filter((name) => name.includes('tmp') || name.includes('temp')),
    [],
  );
});

test('a single image trains and calibrates, with a warning', async () => {
  const one = await makeDataset(at('one'), 1, 1, 1);
  const trainer = new Trainer({ ...tiny, mode: 'resize' });
  for await (const progress of trainer.fit(one)) void progress;
  assert.match(trainer.warnings[0], /single image/);
  assert.ok(Number.isFinite(trainer.config.threshold));
  trainer.dispose();
});

test('a trainer trains one dataset at a time', async () => {
  const trainer = new Trainer(tiny);
  const running = trainer.fit(parts);
  await running.next();
  await assert.rejects(trainer.fit(parts).next(), { code: 'ERR_ARGUMENT', message: /training already/ });
  await running.return();
});

test('unknown options of fit are refused', async () => {
  await assert.rejects(fit(new Trainer(tiny), { timeLimit: 5 }), { code: 'ERR_OPTION', message: /"timeLimitMs"/ });
});
