// Every command and flag: its help, its default and its absence; what is said of a flag that is wrong.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, test } from 'node:test';
import cli from '../../dist/cli/index.js';
import { Detector, importModel, Trainer } from '../../dist/index.js';
import { makeDataset, run, temporaryFolder, tinyFlags, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 6, 20, 20);
const image = path.join(parts, 'test', 'bad', '00.png');
const model = at('model.safetensors');
await trainTiny({ Trainer }, parts, model);

describe('every command', () => {
  for (const [name, { usage, positionals, flags }] of Object.entries(cli.commands)) {
    test(`${name} --help names its flags, each default once`, async () => {
      const { code, stdout, stderr } = await run([name, '--help']);
      assert.equal(code, 0, stderr);
      for (const flag of [...Object.keys(flags), ...Object.keys(positionals)]) assert.ok(stdout.includes(flag), flag);
      for (const line of stdout.split('\n')) assert.ok((line.match(/\[default/g) ?? []).length <= 1, line);
      assert.ok(stdout.includes(usage.split(' ')[0]));
      assert.equal((await run([name, '-h'])).stdout, stdout);
    });

    test(`the flags of ${name} take their default, and nothing`, () => {
      for (const [flag, { coerce, default: usual, choices }] of Object.entries(flags)) {
        if (coerce) assert.equal(coerce(undefined), undefined, flag);
        if (coerce && usual !== undefined) assert.notEqual(coerce(usual), undefined, flag);
        if (choices && usual !== undefined) assert.ok(choices.includes(usual), flag);
      }
    });
  }
});

test('the version, in each of the ways that people try', async () => {
  const { stdout } = await run(['--version']);
  assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
  for (const way of ['-v', 'version']) assert.equal((await run([way])).stdout, stdout);
});

test('a wrong option is named as it was typed, with the flag that was meant', async () => {
  for (const [args, message] of [
    [['train', parts, '-o', at('x')], /unknown option "-o"; did you mean "--out"\?/],
    [['score', model, image, '-t', '3'], /unknown option "-t"; did you mean "--threshold"\?/],
    [['score', model, image, '--aplha', '1'], /unknown option "--aplha"; did you mean "--alpha"\?/],
    [['score', model, image, '--score', 'padim'], /ERR_OPTION: --score: the model has no Gaussian/],
    [['reconstruct', model, image, '--out', at('r'), '--method', 'gradient'], /ERR_OPTION: --method: the model has no/],
    [['train', parts, '--out', at('x'), '--batch-size', '0'], /ERR_OPTION: --batch-size: expected/],
  ]) {
    const { code, stderr } = await run(args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
  assert.ok(!existsSync(at('r')), 'no empty folder is left behind');
});

test('sample and reconstruct do what they can without further flags', async () => {
  const sampled = await run(['sample', model, '--out', at('samples'), '--respacing', '3', '--threads', '1']);
  assert.equal(sampled.code, 0, sampled.stderr);
  assert.deepEqual(await readdir(at('samples')), ['sample-000.png']);
  const rebuilt = await run(['reconstruct', model, image, '--out', at('rebuilt'), '--respacing', '5', '--step', '2']);
  assert.equal(rebuilt.code, 0, rebuilt.stderr);
  assert.deepEqual(await readdir(at('rebuilt')), ['00.reconstruction.png']);
});

test('info sums up long lists for people, and has them all as JSON', async () => {
  const places = at('places.safetensors');
  await trainTiny({ Trainer }, parts, places, { positions: true, mode: 'resize', size: 24 });
  const { stdout } = await run(['info', places]);
  assert.match(stdout, /: \d+ values from \S+ to \S+$/m);
  for (const line of stdout.split('\n')) assert.ok(line.length < 300, line);
  const { calibration } = JSON.parse((await run(['info', places, '--json'])).stdout);
  assert.ok(Object.values(calibration).some((values) => JSON.stringify(values).length > 200));
});

test('a finished model that is imported says what it loses', async () => {
  const { warnings } = await importModel(model, at('imported.safetensors'));
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /is a model of ddad-native already; its calibration and threshold are left out/);
});

test('a model keeps the threshold that it was loaded with', async () => {
  const loaded = async (file, options, use) => {
    const detector = await Detector.load(file, options);
    try {
      return await use(detector);
    } finally {
      detector.dispose();
    }
  };
  const thresholdIn = (file) => loaded(file, {}, ({ threshold }) => threshold);
  await loaded(model, { threshold: 12.5 }, (detector) => detector.save(at('kept.safetensors')));
  assert.equal(await thresholdIn(at('kept.safetensors')), 12.5);
  const rescored = { threshold: 3, scoring: { kind: 'pixel' } };
  await loaded(model, rescored, (detector) => detector.save(at('own.safetensors')));
  assert.equal(
    await thresholdIn(at('own.safetensors')),
    await thresholdIn(model),
    "another score's is not for this one",
  );
});

test('an image that cannot be read is named and left out; --strict-images stops', async () => {
  const damaged = at('damaged');
  await mkdir(damaged);
  const good = path.join(parts, 'train', 'good');
  for (const name of await readdir(good)) await copyFile(path.join(good, name), path.join(damaged, name));
  await writeFile(path.join(damaged, 'a.bmp'), 'BM and what follows');
  await writeFile(path.join(damaged, 'b.png'), 'no picture');
  const train = (out, ...more) => run(['train', damaged, '--out', at(out), ...tinyFlags, '--json', ...more]);
  const { code, stdout, stderr } = await train('less.safetensors', '--steps', '2');
  assert.equal(code, 0, stderr);
  assert.match(stderr, /warning: left out, since they cannot be read: .*a\.bmp \(.+\), .*b\.png \(.+\)$/m);
  const { steps, checkpoint } = JSON.parse(stdout);
  assert.equal(steps, 2);
  const resumed = await train('less.safetensors', '--resume', checkpoint, '--steps', '3');
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.equal(JSON.parse(resumed.stdout).steps, 3);
  const strict = await train('strict.safetensors', '--strict-images');
  assert.equal(strict.code, 1);
  assert.match(strict.stderr, /ERR_IMAGE: .*a\.bmp: /);
});
