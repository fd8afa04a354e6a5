// The demo: trains a detector on photographs of intact solar cells and finds the broken ones.
//
// The images: elpv-dataset (Buerhop-Lutz et al., Deitsch et al.), CC BY-NC-SA 4.0: electroluminescence images of solar
// cells with a defect probability each. Used are the monocrystalline cells labelled 0 (functional) and 1 (defective).
//
// DDAD_DEMO_SECONDS bounds the training, which ends by itself; 240 by default.
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { downloadCells, splitCells } from './solar-cells.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const output = path.join(root, 'demo-output');
const seconds = Number(process.env.DDAD_DEMO_SECONDS ?? 240);
/** Image AUROC that the demo must reach. */
const required = 0.92;

const say = (text) => process.stdout.write(`${text}\n`);

/** Lays the cells out as a dataset in the MVTec AD layout: every fifth functional cell is for testing. */
async function layOut(data) {
  const dataset = path.join(output, 'solar-cells');
  const sets = await splitCells(data);
  const images = {};
  for (const [folder, names] of Object.entries(sets)) {
    const to = path.join(dataset, folder);
    await rm(to, { recursive: true, force: true });
    await mkdir(to, { recursive: true });
    images[folder] = names.map((name) => path.join(to, path.basename(name)));
    for (const [i, name] of names.entries()) await copyFile(path.join(data, name), images[folder][i]);
  }
  return { dataset, good: images['test/good'], defective: images['test/defective'], trained: images['train/good'] };
}

async function train({ Trainer }, dataset, model) {
  // The package's defaults: the preset `lite`, whole images.
  const trainer = new Trainer({ seed: 1 });
  let told = performance.now();
  let last;
  for await (const progress of trainer.fit(dataset, { timeLimitMs: seconds * 1000 })) {
    if (progress.phase !== 'train') {
      if (progress.step === 1) say('calibrating …');
      continue;
    }
    last = progress;
    if (performance.now() - told < 15_000) continue;
    told = performance.now();
    const { step, loss, samplesPerSecond, remainingMs } = progress;
    const left = Math.round(remainingMs / 1000);
    say(`  step ${step}  loss ${loss.toFixed(4)}  ${samplesPerSecond.toFixed(1)} samples/s  ${left} s left`);
  }
  await trainer.save(model);
  trainer.dispose();
  return last;
}

/** Scores images in order; the overlays of the first few are kept. */
async function score(detector, images, folder, overlays) {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  const results = [];
  for await (const result of detector.scoreAll(images)) {
    const { name } = path.parse(result.image);
    const { score, scores, anomalous } = result;
    results.push({ name, score, scores, anomalous });
    if (results.length <= overlays) await writeFile(path.join(folder, `${name}.heatmap.png`), await result.heatmap());
  }
  return results;
}

async function main() {
  const { bootstrap } = await import('./bootstrap.mjs');
  await bootstrap();
  const { Detector, Trainer } = await import('../dist/index.mjs');
  const { auroc } = (await import('../dist/numeric/auroc.js')).default;

  await mkdir(output, { recursive: true });
  const data = await downloadCells(output, say);
  const { dataset, good, defective, trained } = await layOut(data);
  const model = path.join(output, 'solar-cells.safetensors');
  say(
    `training lite on ${trained.length} functional monocrystalline cells, whole, for at most ${seconds} s ` +
      '(a tenth of them held back for calibration) …',
  );
  const start = performance.now();
  const { step } = await train({ Trainer }, dataset, model);
  say(`trained ${step} steps in ${Math.round((performance.now() - start) / 1000)} s`);

  const detector = await Detector.load(model);
  say(`scoring ${good.length} functional and ${defective.length} defective cells that it has not seen …`);
  const overlays = path.join(output, 'overlays');
  const functional = await score(detector, good, path.join(overlays, 'good'), 20);
  const broken = await score(detector, defective, path.join(overlays, 'defective'), 40);
  const { threshold } = detector;
  detector.dispose();

  const area = auroc(
    functional.map((result) => result.score),
    broken.map((result) => result.score),
  );
  const by = (results, value) => results.map(({ scores }) => scores[value]);
  const alone = {};
  for (const value of Object.keys(broken[0].scores ?? {}))
    alone[value] = auroc(by(functional, value), by(broken, value));
  const count = (results) => results.filter(({ anomalous }) => anomalous).length;
  await writeFile(
    path.join(output, 'scores.json'),
    JSON.stringify({ auroc: area, alone, threshold, functional, broken }, null, 1),
  );
  say('');
  say(`functional: every fifth of the dataset's monocrystalline cells with defect probability 0, ${good.length} cells`);
  say(`defective:  all of its monocrystalline cells with defect probability 1, ${defective.length} cells`);
  say(`above the threshold of ${threshold.toFixed(3)}: ${count(functional)} functional, ${count(broken)} defective`);
  say(`image AUROC: ${area.toFixed(4)}`);
  for (const [name, value] of Object.entries(alone)) say(`  by ${name} alone: ${value.toFixed(4)}`);
  say('');
  say(`overlays: ${path.relative(process.cwd(), overlays) || '.'}`);
  say(`model:    ${path.relative(process.cwd(), model)}`);
  if (!(area >= required)) {
    process.stderr.write(`the image AUROC is below ${required}\n`);
    process.exitCode = 1;
  }
}

main().catch((error) => {
  process.stderr.write(`demo: ${error.message}\n`);
  process.exitCode = 1;
});
