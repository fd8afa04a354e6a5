// What an image is judged by beside the ensemble: how far its features are from those of good images.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import config from '../../dist/config/config.js';
import calibration from '../../dist/model/calibration.js';
import dataset from '../../dist/data/dataset.js';
import evidence from '../../dist/config/evidence.js';
import { Detector, Trainer } from '../../dist/index.js';
import memory from '../../dist/training/memory-bank.js';
import {
  makeDataset,
  makeProducts,
  pattern,
  readSafetensors,
  run,
  temporaryFolder,
  tiny,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';
import { startApp } from '../helpers/service.mjs';

const { evidenceBanks, evidenceNames } = evidence;
const { expandConfig, optionsOf } = config;
const { combineEvidence, evidenceStatistics, standardised } = calibration;
const { findImages, splitHeldBack } = dataset;
const { bankViews } = memory;
const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 14);
// 32 pixels that the backbone sees: taps down to stride 32; five of the images are held back
const whole = { mode: 'resize', size: 32, featureScale: 1, holdOut: 0.36, evidence: { rows: 30 } };
const model = at('whole.safetensors');
const trained = await trainTiny({ Trainer }, parts, model, whole);
const good = pattern(72, 66, 5);
const bad = pattern(72, 66, 3, true);

test('the score is made of named values, which the calibration explains', async (t) => {
  const detector = await Detector.load(model, { threads: 1 });
  t.after(() => detector.dispose());
  assert.deepEqual(evidenceNames(trained.score), ['ensemble', 'local', 'localDeep', 'regional', 'global']);
  const { mean, std, mapMean, mapStd } = trained.calibration.evidence;
  assert.deepEqual([mean.length, std.length, mapMean.length, mapStd.length], [5, 5, 3, 3]);
  const [one, other] = [await detector.score(good), await detector.score(bad)];
  assert.deepEqual(Object.keys(one.scores), evidenceNames(trained.score));
  for (const { score, scores } of [one, other]) {
    const z = Object.values(scores);
    const expected = 2 * Math.log(z.reduce((sum, value) => sum + Math.exp(value / 2), 0) / z.length);
    assert.ok(Math.abs(score - expected) <= 1e-9 * Math.max(1, Math.abs(score)), `${score} instead of ${expected}`);
  }
  assert.ok(other.score > one.score);
  for (const name of ['local', 'localDeep', 'regional', 'global'])
    assert.ok(other.scores[name] > one.scores[name], name);
  assert.equal(other.anomalous, true);
});

test('aligned images have Gaussians of places, which count as much as the rest; others have none', async (t) => {
  const many = await makeDataset(at('many'), 28);
  const options = { ...whole, holdOut: 0.3 };
  const aligned = await trainTiny({ Trainer }, many, at('aligned.safetensors'), { ...options, positions: true });
  const names = evidenceNames(aligned.score, aligned.calibration);
  assert.deepEqual(names, ['ensemble', 'local', 'localDeep', 'regional', 'global', 'place']);
  const { mean, mapMean } = aligned.calibration.evidence;
  assert.deepEqual([mean.length, mapMean.length], [6, 4]);
  const { header } = await readSafetensors(at('aligned.safetensors'));
  assert.equal(header.__metadata__.formatVersion, '3');
  assert.deepEqual(header['evidence.0.place_mean'].shape, [4, 112]);
  const detector = await Detector.load(at('aligned.safetensors'), { threads: 1 });
  t.after(() => detector.dispose());
  const { score, scores } = await detector.score(bad);
  const weight = (name) => (name === 'place' ? 5 : 1);
  const sum = Object.entries(scores).reduce((all, [name, z]) => all + weight(name) * Math.exp(z / 2), 0);
  assert.ok(Math.abs(score - 2 * Math.log(sum / 10)) <= 1e-9 * Math.abs(score));
  const again = await trainTiny({ Trainer }, many, at('again.safetensors'), {
    ...options,
    positions: true,
    threads: 2,
  });
  assert.deepEqual(again.calibration, aligned.calibration);

  for (const given of [{ positions: false }, { rotation: 180 }]) {
    const loose = await trainTiny({ Trainer }, many, at('loose.safetensors'), { ...options, ...given });
    assert.ok(!evidenceNames(loose.score, loose.calibration).includes('place'));
    assert.equal(loose.calibration.evidence.mapMean.length, 3);
    const { header: written } = await readSafetensors(at('loose.safetensors'));
    assert.ok(!written['evidence.0.place_mean']);
  }
  const products = await makeProducts(at('uneven'), { cup: 28, lid: 12 });
  const unified = await trainTiny({ Trainer }, products, at('uneven.safetensors'), { ...options, positions: true });
  const lengths = Object.values(unified.perProduct).map(({ calibration }) => calibration.evidence.mean.length);
  assert.deepEqual(lengths, [6, 5], 'eight lids are too few for Gaussians');
  const both = await Detector.load(at('uneven.safetensors'), { threads: 1 });
  t.after(() => both.dispose());
  const [cup, lid] = [await both.score(bad, { product: 'cup' }), await both.score(bad, { product: 'lid' })];
  assert.deepEqual(['place' in cup.scores, 'place' in lid.scores], [true, false]);
});

test('the threshold is the quantile of the held-back scores, as the engine gives them', async (t) => {
  // without places: with them each held-back image is scored by the places of others
  const file = at('largest.safetensors');
  const { training, threshold } = await trainTiny({ Trainer }, parts, file, {
    ...whole,
    positions: false,
    quantile: 1,
  });
  const { heldBack } = splitHeldBack((await findImages(parts)).files, training.holdOut, training.seed);
  const detector = await Detector.load(file, { threads: 1 });
  t.after(() => detector.dispose());
  const scores = [];
  for await (const { score } of detector.scoreAll(heldBack)) scores.push(score);
  assert.equal(scores.length, 5);
  assert.ok(Math.abs(Math.max(...scores) - threshold) <= 1e-9, `${Math.max(...scores)} and ${threshold}`);
});

test('values are standardised by good images, and combined', () => {
  const values = Array.from({ length: 5 }, (_, i) => Float64Array.of(i, -i, 3));
  const found = evidenceStatistics(values);
  assert.deepEqual(found.mean, [2, -2, 3]);
  assert.ok(Math.abs(found.std[0] - Math.sqrt(2.5)) < 1e-12);
  assert.equal(found.std[2], 1, 'what never varies is not divided by');
  assert.deepEqual(standardised(found, Float64Array.of(2, -2, 4)), [0, 0, 1]);
  const far = combineEvidence(found, Float64Array.of(2, -2, 2003), [1, 1, 1]);
  assert.ok(Math.abs(far - (2000 - 2 * Math.log(3))) < 1e-6);
});

test('another way to score is the ensemble alone, and so is a model without evidence', async (t) => {
  const ensemble = await Detector.load(model, { threads: 1, scoring: { kind: 'ensemble' } });
  t.after(() => ensemble.dispose());
  const judged = await ensemble.score(bad);
  assert.deepEqual([judged.scores, judged.threshold], [null, null]);
  const without = at('without.safetensors');
  const bare = await trainTiny({ Trainer }, parts, without, { ...whole, evidence: null });
  assert.equal(bare.score.evidence, null);
  const { header } = await readSafetensors(without);
  assert.equal(header.__metadata__.formatVersion, '1', 'as builds of before read it');
  assert.ok(!Object.keys(header).some((name) => name.startsWith('evidence.')));
  const alone = await Detector.load(without, { threads: 1 });
  t.after(() => alone.dispose());
  const plain = await alone.score(bad);
  assert.equal(plain.scores, null);
  assert.equal((await readSafetensors(model)).header.__metadata__.formatVersion, '2');
});

test('the share of the map is what tells damage in held-back images best, or near the usual one', async () => {
  const { share } = trained.calibration.evidence;
  assert.ok([0, 0.2, 0.4, 0.6, 0.8, 1].includes(share), `${share}`);
  const detector = await Detector.load(model, { threads: 1 });
  const ensemble = await Detector.load(model, { threads: 1, scoring: { kind: 'ensemble' } });
  const [mixed, plain] = [await detector.score(bad), await ensemble.score(bad)];
  assert.equal(
    mixed.map.data.every((value, i) => value === plain.map.data[i]),
    share === 0,
  );
  for (const one of [detector, ensemble]) one.dispose();
  const { header, data } = await readSafetensors(model);
  const { config } = header.__metadata__;
  for (const wrong of [1.5, -0.1, '"much"']) {
    const changed = config.replace(/"share":[\d.]+}/, `"share":${wrong}}`);
    assert.notEqual(changed, config);
    const file = at('share.safetensors');
    const { digest: _, digestAlgorithm: __, ...rest } = header.__metadata__;
    await writeSafetensors(file, { header: { ...header, __metadata__: { ...rest, config: changed } }, data });
    await assert.rejects(Detector.load(file), { code: 'ERR_MODEL_FORMAT', message: /share/ });
  }
});

test('the same training gives the same bytes, and a saved model scores the same', async (t) => {
  const again = at('again.safetensors');
  await trainTiny({ Trainer }, parts, again, { ...whole, threads: 2 });
  const [first, second] = [await readSafetensors(model), await readSafetensors(again)];
  assert.deepEqual(second.header, first.header);
  assert.ok(second.data.equals(first.data));
  const detector = await Detector.load(model, { threads: 1 });
  t.after(() => detector.dispose());
  await detector.save(at('saved.safetensors'));
  const saved = await Detector.load(at('saved.safetensors'), { threads: 1 });
  t.after(() => saved.dispose());
  assert.equal((await saved.score(bad)).score, (await detector.score(bad)).score);
});

test('textures have banks and no comparison of whole images; products have evidence each', async (t) => {
  const crops = at('crops.safetensors');
  const texture = await trainTiny({ Trainer }, parts, crops, { size: 32, holdOut: 0.36 });
  assert.deepEqual(evidenceNames(texture.score), ['ensemble', 'localFine', 'local', 'regional']);
  const detector = await Detector.load(crops, { threads: 1 });
  t.after(() => detector.dispose());
  assert.ok((await detector.score(bad)).score > (await detector.score(good)).score);

  const products = await makeProducts(at('products'), { cup: 12, lid: 12 });
  const unified = await trainTiny({ Trainer }, products, at('both.safetensors'), { ...whole, steps: 4 });
  const both = await Detector.load(at('both.safetensors'), { threads: 1 });
  t.after(() => both.dispose());
  assert.notDeepEqual(unified.perProduct.cup.calibration.evidence, unified.perProduct.lid.calibration.evidence);
  const image = path.join(products, 'cup', 'test', 'good', '00.png');
  const [own, foreign] = [await both.score(image, { product: 'cup' }), await both.score(image, { product: 'lid' })];
  assert.ok(foreign.scores.localDeep > own.scores.localDeep + 3, 'a cup is no lid');
});

test('where parts may lie in several ways, what is kept of them is seen in several ways', () => {
  const files = Array.from({ length: 20 }, (_, i) => `${i}.png`);
  const views = (options) => bankViews(expandConfig({ channels: 'gray', ...options }), files);
  assert.equal(views({}).length, 20);
  for (const options of [{ rotation: 180 }, { flip: 'horizontal' }]) {
    assert.equal(views(options).length, 80);
    assert.deepEqual(new Set(views(options).map(({ view }) => view)), new Set([0, 1, 2, 3]));
  }
  assert.equal(views({ rotation: 180, mode: 'crop' }).length, 20);
  const many = Array.from({ length: 600 }, (_, i) => String(i));
  assert.equal(bankViews(expandConfig({ channels: 'gray', rotation: 180 }), many).length, 600, 'a thousand at most');
});

test('with few held-back images the ensemble judges, and it is said', async () => {
  const trainer = new Trainer({ ...tiny, mode: 'resize', size: 32, featureScale: 1 });
  for await (const progress of trainer.fit(parts)) void progress;
  assert.equal(trainer.config.score.evidence, null);
  assert.ok(trainer.warnings.some((text) => /^the ensemble alone judges: 4 held-back images or more/.test(text)));
  trainer.dispose();
});

test('the banks that a backbone and a size allow; options lead to the same configuration', () => {
  assert.deepEqual(evidenceBanks(32, true), [
    [4, 8],
    [8, 16],
    [8, 16, 32],
  ]);
  assert.deepEqual(evidenceBanks(16, true), [
    [4, 8],
    [8, 16],
  ]);
  assert.deepEqual(evidenceBanks(8, true), []);
  const small = expandConfig({ preset: 'nano', size: 48 });
  assert.deepEqual([small.features.depth, small.score.evidence.banks.length], [16, 2], '48 is no multiple of 32');
  for (const options of [
    {},
    { evidence: null },
    { evidence: { rows: 7 } },
    { normalization: 'none' },
    { backbone: null },
  ]) {
    const expanded = expandConfig({ channels: 'gray', ...options });
    assert.deepEqual(expandConfig(optionsOf(expanded)), expanded);
  }
  assert.equal(expandConfig({ normalization: 'per-image' }).score.evidence, null);
  for (const evidence of [{ rows: 0 }, { rows: 1.5 }, {}, 4000]) {
    assert.throws(() => new Trainer({ evidence }), { code: 'ERR_OPTION', message: /option "evidence/ });
  }
});

test('a run goes on from its checkpoint with evidence or without, and starts from a model of another size', async () => {
  const checkpoint = at('run.ckpt.safetensors');
  const fit = async (options, given) => {
    const trainer = new Trainer({ ...tiny, ...whole, ...options });
    for await (const progress of trainer.fit(parts, given)) void progress;
    const { score, features } = trainer.config;
    trainer.dispose();
    return { evidence: score.evidence, depth: features.depth };
  };
  const first = await fit({}, { checkpoint });
  assert.deepEqual(await fit({ steps: 7 }, { resume: checkpoint }), first);
  assert.equal((await fit({ steps: 7, evidence: null }, { resume: checkpoint })).evidence, null);
  assert.equal((await fit({ steps: 7, evidence: { rows: 9 } }, { resume: checkpoint })).evidence.rows, 9);
  const own = { ...tiny, holdOut: 0.36, steps: 2 };
  delete own.unet;
  delete own.preset;
  const from = new Trainer({ ...own, init: model, mode: 'crop', size: 48 });
  for await (const progress of from.fit(parts)) void progress;
  assert.deepEqual([from.config.features.depth, from.config.score.evidence.banks.length], [16, 2]);
  from.dispose();
});

test('the command line and the service say what a score is made of', async (t) => {
  const image = path.join(parts, 'test', 'bad', '00.png');
  const detector = await Detector.load(model, { threads: 1 });
  t.after(() => detector.dispose());
  const { score, scores } = await detector.score(image);
  const { code, stdout, stderr } = await run(['score', model, image, '--json', '--threads', '1']);
  assert.equal(code, 0, stderr);
  assert.deepEqual(JSON.parse(stdout).scores, scores);
  const { upload } = await startApp(t, detector);
  const { body } = await upload(await readFile(image));
  assert.deepEqual([body.score, body.scores], [score, scores]);
  const alone = await run(['score', model, image, '--json', '--threads', '1', '--score', 'pixel']);
  assert.equal(JSON.parse(alone.stdout).scores, null);
});

test('the command line: --evidence, and a graph of the ensemble', async () => {
  const out = at('flag.safetensors');
  const flags = ['--preset', 'nano', '--size', '32', '--batch-size', '2', '--threads', '1', '--steps', '3'];
  const { code, stderr } = await run(['train', parts, '--out', out, '--evidence', '0', ...flags]);
  assert.equal(code, 0, stderr);
  assert.equal(JSON.parse((await readSafetensors(out)).header.__metadata__.config).score.evidence, null);
  const exported = await run(['export', model, '--onnx', at('graph.onnx'), '--graph', 'score', '--json']);
  assert.equal(exported.code, 0, exported.stderr);
});
