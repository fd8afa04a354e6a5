// Reconstructions in a report: their pictures stand beside the original, and only where there are any.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { parseHTML } from 'linkedom';
import sharp from 'sharp';
import { pattern, temporaryFolder } from '../helpers/common.mjs';
import { makeEvaluation, ReportWriter } from '../helpers/report.mjs';

const folder = await temporaryFolder();
const [width, height] = [40, 30];
const original = pattern(width, height);
const floats = (data) => Float32Array.from(data, (v) => v / 255);
const map = { data: new Float32Array(width * height), width, height };
const heatmap = () =>
  sharp({ create: { width, height, channels: 3, background: '#888' } })
    .png()
    .toBuffer();
const imageOf = (name) => ({
  ...{ image: name, product: null, defect: 'crack', score: 1 },
  ...{ threshold: null, anomalous: null, outcome: null },
});

/** The reconstruction lies below the original by a third of the range in its left half. */
function moved() {
  const data = floats(original.data);
  for (let i = 0; i < data.length; i++) if (i % width < width / 2) data[i] = Math.max(0, data[i] - 1 / 3);
  return { data, width, height, channels: 1 };
}

async function report(name, reconstructions) {
  const writer = await ReportWriter.create(path.join(folder, name));
  const images = reconstructions.map((_, i) => imageOf(`${i}.png`));
  for (const [i, reconstruction] of reconstructions.entries()) {
    const result = { pixelMap: map, featureMap: null, heatmap };
    await writer.add({ image: images[i], input: original, mask: null, result, reconstruction });
  }
  const file = await writer.finish(makeEvaluation(images, { masks: false }));
  const { document } = parseHTML(await readFile(file, 'utf8'));
  const shots = (row) => [...row.querySelectorAll('.shot')].map((cell) => [cell.dataset.label, cell]);
  return [...document.querySelectorAll('#rows tbody tr')].map((row) => new Map(shots(row)));
}

async function pixelsOf(cell) {
  const uri = cell.querySelector('img').getAttribute('src');
  const image = sharp(Buffer.from(uri.split(',')[1], 'base64')).toColourspace('b-w');
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { data, ...info };
}

const meanOf = ({ data, width: w }, left) => {
  const side = [...data].filter((_, i) => i % w < w / 2 === left);
  return side.reduce((sum, v) => sum + v, 0) / side.length;
};

test('original, reconstruction, difference and map stand side by side, with a strip of the rounds', async () => {
  const image = moved();
  const trajectory = [1, 2].map((step) => ({ step, image }));
  const [row, without] = await report('some', [{ image, trajectory }, undefined]);
  assert.deepEqual([...row.keys()], ['Original', 'Reconstruction', 'Difference', 'Overlay', 'Pixel level', 'Rounds']);
  const difference = await pixelsOf(row.get('Difference'));
  // a third of the range is past what is brightest; nothing has moved at the right
  assert.ok(meanOf(difference, true) > 150, `${meanOf(difference, true)}`);
  assert.ok(meanOf(difference, false) < 20, `${meanOf(difference, false)}`);
  const shown = await pixelsOf(row.get('Reconstruction'));
  const seen = await pixelsOf(row.get('Original'));
  assert.deepEqual([shown.width, shown.height], [width, height]);
  assert.ok(meanOf(seen, true) - meanOf(shown, true) > 60);
  assert.ok(Math.abs(meanOf(seen, false) - meanOf(shown, false)) < 5);
  const strip = await pixelsOf(row.get('Rounds'));
  assert.deepEqual([strip.width, strip.height], [3 * 160 + 2 * 4, 120]); // the original and two rounds
  assert.equal(without.get('Reconstruction').textContent.trim(), without.get('Rounds').textContent.trim());
  assert.equal(without.get('Reconstruction').querySelector('img'), null);
});

test('a report without reconstructions has no columns for them', async () => {
  const [row] = await report('none', [undefined]);
  assert.deepEqual([...row.keys()], ['Original', 'Overlay', 'Pixel level']);
});
