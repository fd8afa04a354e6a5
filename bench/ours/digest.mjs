// What checking a model's digest adds to the time to load it: the same file with and without, written alike, in turn.
//   node bench/ours/digest.mjs MODEL [--rounds 40]
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Detector } from '../../dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '40' } },
});
const [model] = positionals;
if (!model) {
  console.error('usage: digest.mjs MODEL [--rounds N]');
  process.exit(2);
}
const bytes = await readFile(model);
const length = Number(bytes.readBigUInt64LE());
const header = JSON.parse(bytes.subarray(8, 8 + length).toString('utf8'));
if (!header.__metadata__.digest) throw new Error(`${model}: expected a model with a digest`);
delete header.__metadata__.digest;
delete header.__metadata__.digestAlgorithm;
const without = Buffer.alloc(length, ' ');
without.write(JSON.stringify(header));

const folder = await mkdtemp(path.join(tmpdir(), 'ddad-digest-'));
try {
  const files = { with: path.join(folder, 'with.safetensors'), without: path.join(folder, 'without.safetensors') };
  await writeFile(files.with, bytes);
  await writeFile(files.without, Buffer.concat([bytes.subarray(0, 8), without, bytes.subarray(8 + length)]));
  const times = { with: [], without: [] };
  for (let round = -3; round < Number(values.rounds); round++) {
    for (const [name, file] of Object.entries(files)) {
      const start = performance.now();
      const detector = await Detector.load(file);
      if (round >= 0) times[name].push(performance.now() - start);
      detector.dispose();
    }
  }
  const [checked, plain] = Object.values(times).map((list) => list.sort((a, b) => a - b)[list.length >> 1]);
  const size = `${(bytes.length / 1e6).toFixed(1)} MB`;
  const share = (100 * (checked / plain - 1)).toFixed(1);
  console.log(`${size}: ${checked.toFixed(1)} ms with the digest checked, ${plain.toFixed(1)} ms without: ${share} %`);
} finally {
  await rm(folder, { recursive: true });
}
