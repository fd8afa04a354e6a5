import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import {
  makeDataset,
  readSafetensors,
  root,
  run,
  smallDisk,
  start,
  temporaryFolder,
  tinyFlags,
  until,
  writeSafetensors,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 8);
const [good, bad] = [path.join(parts, 'train', 'good', '00.png'), path.join(parts, 'test', 'bad', '00.png')];
const model = at('model.safetensors');
const train = (out, ...more) => ['train', parts, '--out', out, ...tinyFlags, ...more];

const trained = await run(train(model, '--steps', '5', '--json'));

/** One line on stderr, no stack, the code and the message. */
function assertOneError({ code, stdout, stderr }, status, message) {
  assert.equal(code, status, stderr);
  assert.match(stderr, message);
  assert.equal(stderr.trim().split('\n').length, 1, stderr);
  assert.equal(stdout, '');
}

test('train writes a model and says what it did as JSON on stdout', async () => {
  assert.equal(trained.code, 0, trained.stderr);
  const { devices } = JSON.parse((await run(['info', '--json'])).stdout).engine;
  const { available, reason } = devices.find(({ name }) => name === 'cuda');
  assert.equal(trained.stderr.includes(`device: auto was the CPU: ${reason}`), !available, trained.stderr);
  const result = JSON.parse(trained.stdout);
  assert.deepEqual([result.model, result.steps, result.calibrationImages], [model, 5, 1]);
  assert.ok(Number.isFinite(result.loss) && Number.isFinite(result.threshold) && result.memoryUsage.peak > 0);
  assert.ok((await stat(model)).size > 1000);
  assert.equal(result.checkpoint, at('model.checkpoint.safetensors'));
  assert.ok((await stat(result.checkpoint)).size > (await stat(model)).size);
  assert.match(trained.stderr, /warning: the threshold is the quantile/);
});

test('score prints a JSON line an image and writes overlays', async () => {
  const { code, stdout, stderr } = await run(['score', model, parts, bad, '--json', '--out', at('found')]);
  assert.equal(code, 0, stderr);
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.equal(lines.length, 8 + 1 + 1);
  for (const { image, score, threshold, anomalous, map } of lines) {
    assert.ok(existsSync(image) && existsSync(map));
    assert.equal(anomalous, score > threshold);
  }
  assert.equal(new Set(lines.map(({ map }) => map)).size, lines.length, 'no overlay replaces another');
  assert.equal(lines[0].map, path.join(at('found'), 'test', 'bad', '00.heatmap.png'));
  assert.equal(await readFile(path.join(at('found'), 'scores.jsonl'), 'utf8'), stdout);
});

test('score without --json speaks to people; --fail-on-anomaly decides the exit status', async () => {
  const { code, stdout } = await run(['score', model, bad, '--threshold', '-1e9', '--fail-on-anomaly']);
  assert.equal(code, 3);
  assert.match(stdout, /^ANOMALOUS .*\(threshold -1000000000\) .*00\.png\n$/);
  const calm = await run(['score', model, bad, '--threshold', '1e9', '--fail-on-anomaly']);
  assert.equal(calm.code, 0);
  assert.match(calm.stdout, /^good /);
});

test('a bad image is reported and the others are scored', async () => {
  await writeFile(at('broken.png'), (await readFile(good)).subarray(0, 100));
  const { code, stdout, stderr } = await run(['score', model, at('broken.png'), at('nowhere.png'), good, '--json']);
  assert.equal(code, 1);
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.map(({ error }) => error?.code),
    ['ERR_IMAGE', 'ERR_IMAGE', undefined],
  );
  assert.match(stderr, /^ddad-native: ERR_IMAGE: .*broken\.png: damaged or truncated/m);
  assert.match(stderr, /^ddad-native: ERR_IMAGE: .*nowhere\.png: no such file$/m);
});

test('usage errors: one line, exit status 2, the nearest known word', async () => {
  for (const [args, message] of [
    [
      [],
      /expected a command: train, score, evaluate, reconstruct, sample, fit-padim, serve, import, export, sign, verify, bench, info/,
    ],
    [['trian'], /unknown command "trian"; did you mean "train"\?/],
    [['train'], /expected "ddad-native train <dataset>"/],
    [['train', parts], /expected --out/],
    [['train', parts, 'more', '--out', at('x')], /unexpected argument "more"/],
    [['train', parts, '--out', at('x'), '--stps', '3'], /unknown option "--stps"; did you mean "--steps"\?/],
    [['train', parts, '--out', at('x'), '--steps', 'many'], /--steps: expected a number, got "many"/],
    [['train', parts, '--out', at('x'), '--steps', '1', '--steps', '2'], /--steps: given twice/],
    [['train', parts, '--out', at('x'), '--steps', '0'], /ERR_OPTION: --steps: expected/],
    [
      ['train', parts, '--out', at('x'), '--preset', 'huge'],
      /--preset: expected "nano", "lite", "base", "paper-256", got "huge"/,
    ],
    [['train', parts, '--out', at('x'), '--preset', 'nano', '--size', '33'], /--size: expected a multiple of 4/],
    [['train', parts, '--out', at('x'), '--time-limit', '5 parsecs'], /--time-limit: expected a duration/],
    [['train', parts, '--out', at('x'), '--top-pixels', 'all'], /--top-pixels: expected a number/],
    [['score', model], /expected "ddad-native score <model> <images\.\.>"/],
    [['score', model, good, '--treshold', '3'], /unknown option "--treshold"; did you mean "--threshold"\?/],
    [['train', parts, '--out', at('x'), '--evidence', '-1'], /--evidence: expected a whole number from 0 to 1000000/],
    [
      ['train', parts, '--out', at('x'), '--memory-bank', '1.5'],
      /--memory-bank: expected a whole number from .*, got "1.5"/,
    ],
    [
      ['score', model, good, '--memory-budget', '2GiB'],
      /--memory-budget: expected a size in B, kB, MB or GB such as 50MB, got "2GiB"/,
    ],
    [
      ['score', model, good, '--fail-on-anomaly', '--score', 'pixel'],
      /a model's threshold holds for its own score alone/,
    ],
    [['score', model, good, '--fail-on-anomaly', '--alpha', '0.5'], /its own score alone; give one with --threshold/],
    [['verify'], /expected "ddad-native verify <golden\.\.>"/],
    [['info', '--jsn'], /did you mean "--json"\?/],
  ]) {
    assertOneError(await run(args), 2, message);
  }
  assert.ok(!existsSync(at('x')));
});

test('failures: one line with a code, exit status 1, nothing overwritten', async () => {
  await mkdir(at('empty'));
  const before = await readFile(model);
  for (const [args, message] of [
    [['train', at('nowhere'), '--out', model], /ERR_DATASET: .*nowhere: no such folder/],
    [['train', at('empty'), '--out', model], /ERR_DATASET: .*expected good images .* found an empty folder/],
    [['train', parts, '--out', folder], /ERR_FILE_WRITE: .*found a folder/],
    [['train', parts, '--out', path.join(good, 'x.safetensors')], /ERR_FILE_WRITE/],
    [['train', parts, '--out', '/proc/nowhere/x.safetensors'], /ERR_FILE_WRITE/],
    [train(model, '--resume', good), /ERR_MODEL_FORMAT: .*not a safetensors file/],
    [['score', at('nowhere.safetensors'), good], /ERR_FILE_READ/],
    [['score', good, good], /ERR_MODEL_FORMAT/],
    [['score', model, at('empty')], /ERR_DATASET: .*expected images, found none/],
    [
      ['score', model, good, '--out', model],
      /ERR_FILE_WRITE: .*model\.safetensors: .*expected a folder, found a file$/m,
    ],
    [
      ['sample', model, '--out', path.join(good, 'a', 'b')],
      /00\.png: cannot be written: expected a folder, found a file$/m,
    ],
    [['info', good], /ERR_MODEL_FORMAT/],
  ]) {
    assertOneError(await run(args), 1, message);
  }
  assert.ok((await readFile(model)).equals(before));
  const { code, stderr } = await run(['score', good, good, '--debug']);
  assert.equal(code, 1);
  assert.match(stderr, /\n {4}at /, 'a stack where it is asked for');
});

test('an export onto its own model is refused, and --force is no way round it', async () => {
  const beside = at('named.onnx.data');
  await copyFile(model, beside);
  const before = await readFile(model);
  for (const [args, file] of [
    [[model, '--onnx', model], model],
    [[model, '--safetensors', model], model],
    [[beside, '--onnx', at('named.onnx'), '--external-data'], beside],
  ]) {
    for (const more of [[], ['--force']]) {
      const result = await run(['export', ...args, ...more]);
      assertOneError(result, 2, /ERR_OPTION: .*: expected another file than the model itself$/m);
      assert.doesNotMatch(result.stderr, /--force/);
      assert.ok((await readFile(file)).equals(before));
    }
  }
});

test('the memory line names what takes memory, and nothing that takes none', async () => {
  const { code, stderr } = await run(['sample', model, '--out', at('samples'), '--respacing', '2']);
  assert.equal(code, 0, stderr);
  const line = /^memory: .*$/m.exec(stderr)[0];
  assert.match(line, /parameters [1-9]\d*\.\d MB/);
  assert.match(line, /peak of the process [1-9]\d*\.\d MB$/);
  assert.doesNotMatch(line, / 0\.0 MB/);
});

test('--heatmaps without --out writes to the folder that the help names', async () => {
  const help = await run(['score', '--help']);
  assert.match(help.stdout.replace(/\s+/g, ' '), /--heatmaps .*to --out, without it to heatmaps\//);
  await mkdir(at('here'));
  const { code, stderr } = await run(['score', model, bad, '--heatmaps'], { cwd: at('here') });
  assert.equal(code, 0, stderr);
  assert.deepEqual(await readdir(at('here')), ['heatmaps']);
  assert.deepEqual((await readdir(path.join(at('here'), 'heatmaps'))).sort(), ['00.heatmap.png', 'scores.jsonl']);
});

test('a folder with a damaged image trains nothing where all must be read', async () => {
  const broken = await makeDataset(at('broken'), 3);
  await writeFile(path.join(broken, 'train', 'good', '99.png'), 'not an image');
  const result = await run(['train', broken, '--out', at('never.safetensors'), '--strict-images', ...tinyFlags]);
  assertOneError(result, 1, /ERR_IMAGE: .*99\.png: not an image/);
  assert.ok(!existsSync(at('never.safetensors')));
});

test('info tells versions and what a model holds', async () => {
  const engine = JSON.parse((await run(['info', '--json'])).stdout);
  assert.equal(engine.version, JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8')).version);
  assert.equal(typeof engine.engine, 'object');
  const wanted = ['info', '--preset', 'nano', '--batch-size', '2', '--device', 'cpu', '--json'];
  const { trainingMemory: memory, largestBatch } = JSON.parse((await run(wanted)).stdout);
  const { parameters, optimizer, activations, packedWeights, total, available } = memory;
  assert.equal(total, parameters + optimizer + activations + packedWeights);
  assert.ok(total > 10e6 && available > total && largestBatch > 2, JSON.stringify(memory));
  assertOneError(await run(['info', model, '--preset', 'nano']), 2, /--preset: expected it without a model file/);
  assertOneError(await run(['info', '--batch-size', '2']), 2, /--batch-size: needs a --preset/);
  const { code, stdout } = await run(['info', model]);
  assert.equal(code, 0);
  assert.match(stdout, /preset: nano[\s\S]*threshold: -?\d/);
  assert.equal((await run(['--version'])).stdout.trim(), engine.version);
  for (const command of ['train', 'score', 'evaluate', 'verify', 'bench', 'info']) {
    const help = await run([command, '--help']);
    assert.equal(help.code, 0);
    assert.match(help.stdout, /--json/);
  }
});

test('measured kernels are noted in the cache, read again, and can be switched off', async () => {
  const cache = at('cache');
  const file = path.join(cache, 'kernels.json');
  const choices = async (autotune) => {
    const { stdout } = await run(['info', '--json'], { env: { DDAD_AUTOTUNE: autotune, DDAD_CACHE_DIR: cache } });
    return JSON.parse(stdout).engine.kernelChoices;
  };
  assert.deepEqual(await choices('off'), { file: null, count: 0, problem: null });
  assert.ok(!existsSync(file));
  assert.deepEqual(await choices('on'), { file, count: 0, problem: null });
  const score = () => run(['score', model, good, '--json'], { env: { DDAD_AUTOTUNE: 'on', DDAD_CACHE_DIR: cache } });
  const first = await score();
  assert.equal(first.code, 0, first.stderr);
  const noted = await readFile(file, 'utf8');
  assert.ok((await choices('on')).count > 0);
  const second = await score();
  assert.equal(second.stdout, first.stdout, 'the same choices, the same bits');
  assert.equal(await readFile(file, 'utf8'), noted);
  // a folder in its place: kernels are chosen by rule, and why is told
  await rm(file);
  await mkdir(file);
  const blocked = await choices('on');
  assert.deepEqual([blocked.file, blocked.problem], [null, `${file}: no regular file`]);
  assert.equal((await score()).code, 0);
  const wrong = await run(['info'], { env: { DDAD_AUTOTUNE: 'maybe' } });
  assertOneError(wrong, 2, /ERR_OPTION: DDAD_AUTOTUNE: expected on or off, got maybe/);
});

test('kill -9 leaves a checkpoint; resumed, the model has the bytes of a run never stopped', async () => {
  const options = ['--steps', '60', '--checkpoint-every', '50ms'];
  const whole = await run(train(at('whole.safetensors'), ...options));
  assert.equal(whole.code, 0, whole.stderr);
  const out = at('killed.safetensors');
  const checkpoint = at('killed.checkpoint.safetensors');
  const stepOf = async () => JSON.parse((await readSafetensors(checkpoint)).header.__metadata__.config).checkpoint.step;
  const { child, finished } = start(train(out, ...options));
  await until(async () => existsSync(checkpoint) && (await stepOf()) > 0);
  child.kill('SIGKILL');
  assert.equal((await finished).code, 'SIGKILL');
  assert.ok(!existsSync(out));
  assert.ok((await stepOf()) < 60, 'it was killed on its way');
  const resumed = await run(['train', parts, '--out', out, '--resume', checkpoint]);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.ok((await readFile(out)).equals(await readFile(at('whole.safetensors'))));
});

test('a run that has done its steps is calibrated anew; fewer steps than are done are refused', async () => {
  const checkpoint = at('model.checkpoint.safetensors');
  const again = (...more) => run(['train', parts, '--out', at('anew.safetensors'), '--resume', checkpoint, ...more]);
  assertOneError(
    await again('--steps', '3'),
    2,
    /ERR_OPTION: --steps: the checkpoint is at step 5, so there is nothing to do; expected 5 or more, got 3$/m,
  );
  assert.ok(!existsSync(at('anew.safetensors')));
  for (const more of [['--steps', '5'], []]) {
    const { code, stdout, stderr } = await again('--json', ...more);
    assert.equal(code, 0, stderr);
    const { steps, loss } = JSON.parse(stdout);
    assert.deepEqual([steps, loss], [5, null], `${more}`);
  }
  assert.match((await again()).stdout, /^.*anew\.safetensors: 5 steps trained before, calibrated in /);
  assert.equal(JSON.parse((await again('--json', '--steps', '7')).stdout).steps, 7);
});

test('Ctrl-C stops within a second, keeps a checkpoint and exits with 130', async () => {
  const out = at('interrupted.safetensors');
  const checkpoint = at('interrupted.checkpoint.safetensors');
  const { child, finished } = start(train(out, '--steps', '100000', '--checkpoint-every', '50ms'));
  await until(() => existsSync(checkpoint));
  await new Promise((resolve) => setTimeout(resolve, 300));
  const before = performance.now();
  child.kill('SIGINT');
  const { code, stderr } = await finished;
  assert.equal(code, 130, stderr);
  assert.ok(performance.now() - before < 1000, `took ${performance.now() - before} ms`);
  assert.match(stderr, /interrupted; go on with --resume .*interrupted\.checkpoint\.safetensors/);
  assert.ok(!existsSync(out));
  const resumed = await run(['train', parts, '--out', out, '--resume', checkpoint, '--time-limit', '1s']);
  assert.equal(resumed.code, 0, resumed.stderr);
});

test('verify compares golden files', async (t) => {
  const golden = path.join(root, '..', 'shared', 'golden', 'unet-gray-plain.safetensors');
  assertOneErrorLine(await run(['verify', at('nowhere.safetensors')]), /ERR_FILE_READ/);
  if (!existsSync(golden)) return t.skip('the golden files are not here');
  const passed = await run(['verify', golden]);
  assert.equal(passed.code, 0, passed.stdout);
  assert.match(passed.stdout, /unet-gray-plain\.safetensors \(unet\): ok/);
  const { header, data } = await readSafetensors(golden);
  const name = Object.keys(header).find((key) => key.startsWith('param.') && header[key].shape.length === 4);
  const [from] = header[name].data_offsets;
  for (const value of [data.readFloatLE(from) + 0.5, NaN]) {
    const changed = Buffer.from(data);
    changed.writeFloatLE(value, from);
    await writeSafetensors(at('changed.safetensors'), { header, data: changed });
    const failed = await run(['verify', at('changed.safetensors'), '--json']);
    assert.equal(failed.code, 1, failed.stdout);
  }
});

function assertOneErrorLine({ code, stderr }, message) {
  assert.equal(code, 1);
  assert.match(stderr, message);
}

test('a missing build is explained', async () => {
  const result = await run(['info'], { env: { DDAD_ADDON: at('nowhere.node') } });
  assertOneError(result, 1, /ERR_ADDON: the native addon is not built: expected .*nowhere\.node; DDAD_ADDON/);
});

test('a reader that leaves early ends it without a word, as SIGPIPE ends other programs', async () => {
  const { child, finished } = start(['score', model, parts, '--json']);
  child.stdout.destroy();
  const { code, stderr } = await finished;
  assert.equal(code, 141, stderr);
  assert.doesNotMatch(stderr, /ERR_/);
});

test('a folder without write permission is found before training', { skip: process.getuid?.() === 0 }, async () => {
  await mkdir(at('locked'));
  await chmod(at('locked'), 0o500);
  const result = await run(train(path.join(at('locked'), 'x.safetensors'), '--steps', '2'));
  assertOneError(result, 1, /ERR_FILE_WRITE/);
});

test('a full disk is one clear error and leaves what was there', async (t) => {
  const disk = at('disk');
  if (!(await smallDisk(t, disk, '256k'))) return t.skip('a small file system cannot be mounted here');
  const out = path.join(disk, 'model.safetensors');
  await writeFile(out, 'precious');
  for (const more of [['--checkpoint', at('roomy.safetensors')], []]) {
    const { code, stdout, stderr } = await run(train(out, '--steps', '2', '--force', ...more));
    assert.equal(code, 1);
    assert.equal(stdout, '');
    assert.match(stderr, /^ddad-native: ERR_FILE_WRITE: .*\.safetensors/m);
    assert.doesNotMatch(stderr, /\n {4}at /);
    assert.equal(await readFile(out, 'utf8'), 'precious');
    assert.deepEqual(await readdir(disk), ['model.safetensors']);
  }
});
