// Makes oneDNN available to CMake: an installed one when it fits, else the pinned wheels in .deps/onednn. Needs no
// npm package; running it again does nothing.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { capture, fail, root, status } from './lib/run.mjs';
import { ensureWheels } from './lib/wheels.mjs';

const folder = path.join(root, '.deps', 'onednn');
const help = 'Or install oneDNN 3.2 or newer with the OpenMP runtime; dnnl_DIR=<folder of dnnl-config.cmake> names it.';

/** Whether CMake finds a usable oneDNN without a download. */
function installed() {
  const build = fs.mkdtempSync(path.join(os.tmpdir(), 'ddad-probe-'));
  try {
    return capture('cmake', ['-S', path.join(root, 'cmake', 'probe'), '-B', build]).code === 0;
  } finally {
    fs.rmSync(build, { recursive: true, force: true });
  }
}

/** From the layout of the two wheels to include/, lib/ and share/, with the 54 MB library once instead of thrice. */
function arrange(contents) {
  for (const part of fs.readdirSync(contents)) {
    const data = path.join(contents, part, 'data');
    if (part.endsWith('.data')) fs.cpSync(data, contents, { recursive: true });
    if (part.endsWith('.dist-info')) {
      fs.cpSync(path.join(contents, part, 'LICENSE.txt'), path.join(contents, 'LICENSE.txt'));
    }
    if (part.endsWith('.data') || part.endsWith('.dist-info')) {
      fs.rmSync(path.join(contents, part), { recursive: true });
    }
  }
  const lib = path.join(contents, 'lib');
  for (const [name, target] of [
    ['libdnnl.so.3', 'libdnnl.so.3.2'],
    ['libdnnl.so', 'libdnnl.so.3'],
  ]) {
    fs.rmSync(path.join(lib, name));
    fs.symlinkSync(target, path.join(lib, name));
  }
}

/** Makes sure that cmake/onednn.cmake will find oneDNN; ends the process with one clear message when it cannot. */
export function setup() {
  if (status('cmake', ['--version'], { stdio: 'ignore' }) !== 0) {
    fail('CMake 3.18 or newer is needed to build ddad-native, and was not found on the PATH.');
  }
  if (process.env.dnnl_DIR) return;
  const local = fs.existsSync(folder);
  if (!local && installed()) return;
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    if (local) return;
    fail(`oneDNN 3.2 or newer was not found, and a download exists for Linux on x86-64 only. ${help}`);
  }
  ensureWheels({ what: 'oneDNN 3.2', requirements: path.join(root, 'scripts', 'onednn.txt'), folder, arrange, help });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) setup();
