// onnxruntime-node for benches and tests. It is no dependency of the package: with the libraries of all systems it takes
// 290 MB, which whoever builds or tries ddad-native does not need. What is fetched is pinned by onnxruntime/package-lock.json.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const pinned = fileURLToPath(new URL('onnxruntime/', import.meta.url));
const read = (file) => JSON.parse(readFileSync(file, 'utf8'));

export const version = read(join(pinned, 'package.json')).dependencies['onnxruntime-node'];

/** Version of the package in `folder`; null when there is none. */
function installed(folder) {
  const file = join(folder, 'node_modules/onnxruntime-node/package.json');
  return existsSync(file) ? read(file).version : null;
}

/** Makes sure that `folder` holds the pinned package, and returns the folder. */
export function installOnnxruntime(folder) {
  if (installed(folder) === version) return folder;
  console.error(`installing onnxruntime-node ${version} (about 290 MB, once)`);
  mkdirSync(folder, { recursive: true });
  for (const name of ['package.json', 'package-lock.json']) copyFileSync(join(pinned, name), join(folder, name));
  // Its install script would download GPU libraries; the CPU library is in the package.
  const flags = ['--ignore-scripts', '--no-audit', '--no-fund'];
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const done = spawnSync(npm, ['ci', ...flags, '--prefix', folder], {
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (done.status !== 0 || installed(folder) !== version)
    throw new Error(`npm ci of onnxruntime-node ${version} in ${folder} failed`);
  return folder;
}
