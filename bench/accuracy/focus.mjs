// Whether training samples near the scored noise scales help: trains `nano` on whole images with and without the focus of
// time steps, at equal steps, and prints image and pixel AUROC, the mean over the defects:
//   node bench/accuracy/focus.mjs DATASET [--steps 700] [--seeds 1,2]
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Detector, evaluate, Trainer } from '../../dist/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { steps: { type: 'string', default: '700' }, seeds: { type: 'string', default: '1,2' } },
});
const [dataset] = positionals;
if (!dataset) {
  console.error('usage: focus.mjs DATASET [--steps N] [--seeds 1,2]');
  process.exit(2);
}
const folder = await mkdtemp(path.join(os.tmpdir(), 'ddad-focus-'));
const model = path.join(folder, 'model.safetensors');
try {
  for (const seed of values.seeds.split(',').map(Number)) {
    for (const focus of [{ share: 0.75, below: 500 }, null]) {
      const trainer = new Trainer({ preset: 'nano', mode: 'resize', steps: Number(values.steps), seed, focus });
      for await (const progress of trainer.fit(dataset)) void progress;
      await trainer.save(model);
      trainer.dispose();
      const detector = await Detector.load(model);
      const each = Object.values((await evaluate(detector, dataset)).perDefect);
      detector.dispose();
      const mean = (of) => (each.reduce((sum, metrics) => sum + of(metrics), 0) / each.length).toFixed(4);
      const figures = `image ${mean((m) => m.imageAuroc)}, pixel ${mean((m) => m.pixelAuroc ?? NaN)}`;
      console.log(`seed ${seed}, focus ${focus ? `${focus.share} below ${focus.below}` : 'none'}: ${figures}`);
    }
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
