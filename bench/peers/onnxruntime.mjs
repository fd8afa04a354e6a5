// The scratch folder that onnxruntime-node lives in.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export const version = '1.30.0';

/** Version of the package in `folder`; null when there is none. */
function installed(folder) {
  const file = join(folder, 'node_modules/onnxruntime-node/package.json');
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).version : null;
}

/** Makes sure that `folder` holds the pinned package, and returns the folder. */
export function installOnnxruntime(folder) {
  if (installed(folder) === version) return folder;
  console.error(`peers: installing onnxruntime-node ${version} (about 290 MB, once)`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  // Its install script would download GPU libraries; the CPU library is in the package.
  const flags = ['--ignore-scripts', '--no-audit', '--no-fund', '--save-exact'];
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const done = spawnSync(npm, ['install', ...flags, '--prefix', folder, `onnxruntime-node@${version}`], {
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (done.status !== 0 || installed(folder) !== version)
    throw new Error(`npm install of onnxruntime-node ${version} into ${folder} failed`);
  return folder;
}
