// A model goes out as weights in guided-diffusion's names and comes back by import: what it sees is the same, bit for bit.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { Detector, exportSafetensors, importModel, Trainer } from '../../dist/index.js';
import { makeDataset, pattern, readSafetensors, temporaryFolder, trainTiny } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 6);

for (const [name, features] of [
  ['pixels alone', { backbone: null }],
  ['features', { unet: { channelMult: [1, 1, 2] } }],
]) {
  test(`export, import, score: ${name}`, async (t) => {
    const [model, weights, again] = ['model', 'weights', 'again'].map((kind) => at(`${name} ${kind}.safetensors`));
    const { unet, input, diffusion, score } = await trainTiny({ Trainer }, parts, model, {
      ...features,
      mode: 'resize',
      size: 32,
    });
    await exportSafetensors(model, weights);
    const { imageSize, numHeads, numHeadChannels, useNewAttentionOrder } = unet;
    const result = await importModel(weights, again, {
      ...(features.backbone === null && { backbone: null }),
      ...{ preset: 'nano', imageSize, numHeads, useNewAttentionOrder, mode: input.mode, size: input.size },
      ...(numHeadChannels > 0 && { numHeads: undefined, numHeadChannels }),
      ...{ schedule: diffusion.schedule, scales: score.scales, scaleIndexing: score.scaleIndexing },
      ...{ respacing: score.respacing, smoothing: score.smoothing, topPixels: score.topPixels },
      normalization: 'none',
    });
    assert.equal(result.featureHead, features.backbone === null ? 'none' : 'imported');

    const [before, after] = await Promise.all([model, again].map(readSafetensors));
    for (const [tensor, { data_offsets: from, shape }] of Object.entries(before.header)) {
      if (/^(__metadata__|backbone\.|feature_(mean|std)|residual_memory)/.test(tensor)) continue;
      const to = after.header[tensor];
      assert.deepEqual(to?.shape, shape, tensor);
      assert.ok(before.data.subarray(...from).equals(after.data.subarray(...to.data_offsets)), tensor);
    }

    const scoring = { kind: 'pixel', normalization: 'none' };
    const [own, imported] = await Promise.all([model, again].map((file) => Detector.load(file, { scoring })));
    t.after(() => [own, imported].forEach((detector) => detector.dispose()));
    const image = pattern(60, 50, 3, true);
    const [found, same] = await Promise.all([own.score(image), imported.score(image)]);
    assert.equal(same.score, found.score);
    assert.deepEqual(same.map, found.map);
    assert.ok(found.map.data.some((value) => value > 0));
  });
}
