// Writes <preset>.json: a preset's configuration as the engine reads it, for machines that have no Node. The features
// are left out, so that both sides of the bench do the same.
//   node bench/cuda/configs.mjs
import fs from 'node:fs';
import { createRequire } from 'node:module';

const load = createRequire(import.meta.url);
const { expandConfig } = load('../../dist/config/config.js');
const { toEngineJson } = load('../../dist/config/engine-json.js');
for (const preset of ['lite', 'base', 'paper-256']) {
  const config = expandConfig({ preset, backbone: null, channels: 'rgb', seed: 1 });
  fs.writeFileSync(new URL(`${preset}.json`, import.meta.url), `${toEngineJson(config)}\n`);
}
