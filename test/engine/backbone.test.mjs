// Another backbone than the package's through the command line: trained with, carried, shown and scored with.
import assert from 'node:assert/strict';
import { cp, mkdir } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { makeDataset, readSafetensors, root, run, temporaryFolder, tinyFlags } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const parts = await makeDataset(path.join(folder, 'parts'), 8);
await cp(path.join(parts, 'train', 'good', '07.png'), path.join(parts, 'test', 'good', '00.png'));
// a narrow EfficientNet-B0 as timm has it: squeeze-excite, swish, symmetric padding
const backbone = path.join(root, 'test', 'native', 'fixtures', 'efficientnet-timm.safetensors');
const model = path.join(folder, 'model.safetensors');

const json = async (...args) => {
  const { code, stdout, stderr } = await run([...args, '--json']);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
};

test('a model carries a backbone with squeeze-excite', async () => {
  await json('train', parts, '--out', model, ...tinyFlags, '--backbone', backbone, '--steps', '4');
  const { header } = await readSafetensors(model);
  assert.equal(header.__metadata__['backbone.paddingMode'], 'symmetric');
  assert.equal(header.__metadata__['backbone.activationFunction'], 'swish');
  assert.ok('backbone._blocks.1._se_reduce.weight' in header);
  assert.ok(!Object.keys(header).some((name) => name.includes('running_mean')), 'batch norms are folded');
  const info = await json('info', model);
  assert.equal(info.features.backbone, 'efficientnet-timm');
});

test('such a model scores and is evaluated', async () => {
  const scored = await json('score', model, path.join(parts, 'test', 'bad', '00.png'));
  assert.ok(Number.isFinite(scored.score));
  const { imageAuroc } = await json('evaluate', model, parts, '--out', path.join(folder, 'report'));
  assert.ok(imageAuroc >= 0 && imageAuroc <= 1);
});

test('a name finds the package of backbones from the working directory, and says so where it is not installed', async () => {
  const project = path.join(folder, 'project');
  const weights = path.join(project, 'node_modules', 'ddad-native-backbones', 'weights');
  await mkdir(weights, { recursive: true });
  const flags = ['train', parts, '--out', path.join(folder, 'named.safetensors'), ...tinyFlags, '--steps', '2'];
  const missing = await run([...flags, '--backbone', 'lite2'], { cwd: project });
  assert.equal(missing.code, 2);
  assert.match(
    missing.stderr,
    /--backbone: expected the package ddad-native-backbones to be installed, which has "lite2"/,
  );
  // its package.json is what `npm install` would bring; the weights are other ones of that architecture's family
  const manifest = path.join(root, 'packages', 'backbones', 'package.json');
  await cp(manifest, path.join(weights, '..', 'package.json'));
  await cp(backbone, path.join(weights, 'efficientnet-lite2-backbone.pth'));
  const found = await run([...flags, '--backbone', 'lite2', '--json'], { cwd: project });
  assert.equal(found.code, 0, found.stderr);
  assert.equal((await json('info', path.join(folder, 'named.safetensors'))).features.backbone, 'efficientnet-lite2');
  const own = await run([...flags, '--backbone', 'lite0', '--json'], { cwd: project });
  assert.equal(own.code, 0, own.stderr);
});
