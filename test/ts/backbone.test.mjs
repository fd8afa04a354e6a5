// Another backbone than the package's through the command line: trained with, carried, shown and scored with.
import assert from 'node:assert/strict';
import { cp } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { makeDataset, readSafetensors, root, run, temporaryFolder, tinyFlags } from './helpers.mjs';

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
