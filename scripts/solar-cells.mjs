// The solar cells of the demo and of the accuracy suite.
//
// elpv-dataset (Buerhop-Lutz et al., Deitsch et al.), CC BY-NC-SA 4.0: electroluminescence images of solar cells with a
// defect probability each. Used are the monocrystalline cells labelled 0 (functional) and 1 (defective).
import { execFileSync } from 'node:child_process';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';

const requirement =
  'elpv-dataset==1.0.0.post1 --hash=sha256:85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c\n';

function python(args) {
  try {
    execFileSync('python3', args, { stdio: ['ignore', 'ignore', 'inherit'] });
  } catch (cause) {
    throw new Error(`python3 ${args.slice(0, 3).join(' ')} failed; the solar cells need Python 3 with pip`, { cause });
  }
}

/** Downloads and unpacks the images into `folder` once; returns the folder that holds labels.csv. */
export async function downloadCells(folder, say) {
  const unpacked = path.join(folder, 'elpv');
  const data = path.join(unpacked, 'elpv_dataset', 'data');
  if (existsSync(data)) return data;
  say('downloading elpv-dataset (91 MB) …');
  const pack = path.join(folder, 'download');
  await mkdir(pack, { recursive: true });
  await writeFile(path.join(pack, 'requirements.txt'), requirement);
  const pip = ['-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps', '--require-hashes'];
  python([...pip, '--dest', pack, '-r', path.join(pack, 'requirements.txt')]);
  const partial = path.join(folder, 'elpv.partial');
  await rm(partial, { recursive: true, force: true });
  python(['-m', 'zipfile', '-e', path.join(pack, 'elpv_dataset-1.0.0.post1-py3-none-any.whl'), partial]);
  await rename(partial, unpacked);
  await rm(pack, { recursive: true });
  return data;
}

/** The monocrystalline cells by label. labels.csv has lines of: image, defect probability, kind of cell. */
async function monocrystalline(data) {
  const cells = { functional: [], defective: [] };
  for await (const line of createInterface({ input: createReadStream(path.join(data, 'labels.csv')) })) {
    const [image, probability, kind] = line.trim().split(/\s+/);
    if (kind !== 'mono') continue;
    if (Number(probability) === 0) cells.functional.push(image);
    if (Number(probability) === 1) cells.defective.push(image);
  }
  return cells;
}

/** The images below `data` by their folder of the MVTec AD layout: every fifth functional cell is for testing. */
export async function splitCells(data) {
  const { functional, defective } = await monocrystalline(data);
  return {
    'train/good': functional.filter((_, i) => i % 5 !== 0),
    'test/good': functional.filter((_, i) => i % 5 === 0),
    'test/defective': defective,
  };
}
