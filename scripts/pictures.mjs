// The pictures of the documents, from what `npm run demo` left in demo-output: overlays and reconstructions of cells, and
// the report of an evaluation. Needs Chromium: CHROMIUM, or the program `chromium` of the system.
//
//   node scripts/pictures.mjs
import { execFileSync } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';
import sharp from 'sharp';

const root = fileURLToPath(new URL('..', import.meta.url));
const demo = path.join(root, 'demo-output');
const docs = path.join(root, 'docs');
const cli = path.join(root, 'bin', 'ddad-native.js');
const side = 220;
const gap = 8;

/** Of the first images, whose overlays the demo keeps, the one with a score nearest to `wanted`. */
const nearest = (results, kept, wanted) =>
  results.slice(0, kept).sort((a, b) => Math.abs(a.score - wanted) - Math.abs(b.score - wanted))[0].name;

/** Kinds and names of some cells: defective ones from little above the threshold to far above it, and a typical good one. */
async function cells(...times) {
  const { threshold, functional, broken } = JSON.parse(await readFile(path.join(demo, 'scores.json'), 'utf8'));
  const middle = functional.map(({ score }) => score).sort((a, b) => a - b)[functional.length >> 1];
  return [
    ...times.map((factor) => ['defective', nearest(broken, 40, factor * threshold)]),
    ['good', nearest(functional, 20, middle)],
  ];
}

const photograph = ([kind, name]) => path.join(demo, 'solar-cells', 'test', kind, `${name}.png`);

/** A picture of cells, each above what `below` names for it. */
async function pairs(shown, below) {
  const pictures = [];
  for (const [i, cell] of shown.entries()) {
    for (const [row, file] of [photograph(cell), below(cell)].entries()) {
      const input = await sharp(file).resize(side, side).toColourspace('srgb').png().toBuffer();
      pictures.push({ input, left: i * (side + gap), top: row * (side + gap) });
    }
  }
  const [width, height] = [shown.length * (side + gap) - gap, 2 * side + gap];
  const paper = sharp({ create: { width, height, channels: 3, background: 'white' } });
  return sharp(await paper.composite(pictures).png().toBuffer());
}

async function overlays() {
  const overlay = ([kind, name]) => path.join(demo, 'overlays', kind, `${name}.heatmap.png`);
  const picture = await pairs(await cells(1.2, 1.6, 2.2, 3), overlay);
  await picture.png({ palette: true, colours: 128 }).toFile(path.join(docs, 'overlays.png'));
}

async function reconstructions() {
  const shown = await cells(1.6, 2.2, 3, 4.5);
  const options = ['--out', 'reconstructions', '--method', 'ddpm', '--step', '80'];
  const reconstruct = [cli, 'reconstruct', 'solar-cells.safetensors', ...shown.map(photograph), ...options];
  execFileSync(process.execPath, reconstruct, { cwd: demo, stdio: 'inherit' });
  const reconstruction = ([, name]) => path.join(demo, 'reconstructions', `${name}.reconstruction.png`);
  const picture = await pairs(shown, reconstruction);
  await picture.greyscale().jpeg({ quality: 82 }).toFile(path.join(docs, 'reconstructions.jpg'));
}

async function report() {
  const evaluate = [cli, 'evaluate', 'solar-cells.safetensors', 'solar-cells', '--out', 'evaluation'];
  execFileSync(process.execPath, evaluate, { cwd: demo, stdio: 'inherit' });
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
  });
  const page = await browser.newPage({ viewport: { width: 1100, height: 1500 } });
  await page.goto(pathToFileURL(path.join(demo, 'evaluation', 'report.html')).href);
  const picture = await page.screenshot();
  await browser.close();
  await sharp(picture).png({ palette: true, colours: 192 }).toFile(path.join(docs, 'report.png'));
}

await mkdir(docs, { recursive: true });
await overlays();
await reconstructions();
await report();
