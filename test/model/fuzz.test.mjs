// A short run of the fuzzers of the JavaScript side, the same every time; `npm run fuzz` runs them longer.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import modelFile from '../../dist/model/model-file.js';
import { fuzzBinding } from '../fuzz/binding.mjs';
import { fuzzImages } from '../fuzz/images.mjs';
import { safetensors } from '../fuzz/models.mjs';
import { temporaryFolder } from '../helpers/common.mjs';

const { readCheckpoint } = modelFile;
const folder = await temporaryFolder();

test('arbitrary calls of the addon end in a value or in an error with a known code', () => {
  const { runs, calls } = fuzzBinding({ runs: 1500, seed: 1 });
  assert.ok(runs === 1500 && calls > runs);
});

test('arbitrary images and checkpoints end in pixels or in an error with a known code', async () => {
  assert.equal(await fuzzImages({ runs: 600, seed: 1 }), 600);
});

test('headers that are no objects of strings are refused', async () => {
  const odd = (text) => Buffer.concat([Buffer.from([text.length, 0, 0, 0, 0, 0, 0, 0]), Buffer.from(text)]);
  const of = (metadata) => safetensors([], { format: 'ddad-native', ...metadata });
  const files = [
    ...['null', '5', '[]', '"a"', '{"__metadata__":null}', '{"__metadata__":[1]}', '{}'].map(odd),
    of({ kind: { toString: 1 } }),
    of({ kind: 'checkpoint', config: null }),
    of({ kind: 'checkpoint', config: { toString: 1 } }),
    of({ kind: 'checkpoint', config: `{"checkpoint":${'['.repeat(20_000)}` }),
  ];
  await mkdir(folder, { recursive: true });
  for (const [i, bytes] of files.entries()) {
    const file = path.join(folder, String(i));
    await writeFile(file, bytes);
    await assert.rejects(readCheckpoint(file), { name: 'DdadError', code: 'ERR_MODEL_FORMAT' });
  }
});
