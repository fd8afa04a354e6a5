// Makes a CUDA toolkit with cuDNN available to CMake: an installed one when it fits (see cmake/cuda_toolkit.cmake), else
// the pinned wheels in .deps/cuda, about 1 GB to download. Needs no npm package; running it again does nothing.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { capture, fail, root } from './lib/run.mjs';
import { ensureWheels } from './lib/wheels.mjs';

const help =
  'Or install CUDA 13 with cuDNN 9 and the headers of cudnn-frontend; CUDA_HOME and CUDNN_HOME name their folders.';

/** Libraries that nothing here compiles with, links or loads. */
const unwanted = /^(libnvblas|libnvvm|libnvrtc(-builtins)?\.alt|libcudart\.so)/;

/** From the layout of the wheels to cu13/, cudnn/, frontend/ and licenses/; cuDNN finds cuBLAS in that of the first two. */
function arrange(contents) {
  const at = (...names) => path.join(contents, ...names);
  fs.rmSync(at('cudnn'), { recursive: true }); // the front end for Python
  for (const name of fs.readdirSync(at('nvidia'))) fs.renameSync(at('nvidia', name), at(name));
  fs.mkdirSync(at('frontend'));
  fs.renameSync(at('include'), at('frontend', 'include'));
  for (const name of fs.readdirSync(at('cu13', 'lib'))) {
    if (unwanted.test(name)) fs.rmSync(at('cu13', 'lib', name), { recursive: true });
  }
  fs.mkdirSync(at('licenses'));
  for (const name of fs.readdirSync(contents)) {
    if (name.endsWith('.dist-info')) {
      const licenses = fs.readdirSync(at(name), { recursive: true }).filter((file) => /licen[sc]e[^/]*$/i.test(file));
      for (const file of licenses) {
        if (fs.statSync(at(name, file)).isFile()) {
          fs.cpSync(at(name, file), at('licenses', `${name.split('-')[0]}-${path.basename(file)}`));
        }
      }
    }
    if (!['cu13', 'cudnn', 'frontend', 'licenses'].includes(name)) fs.rmSync(at(name), { recursive: true });
  }
  // Unpacking has lost which files are programs.
  for (const programs of [at('cu13', 'bin'), at('cu13', 'nvvm', 'bin')]) {
    for (const entry of fs.readdirSync(programs, { withFileTypes: true })) {
      if (entry.isFile()) fs.chmodSync(path.join(programs, entry.name), 0o755);
    }
  }
}

/** Makes sure that cmake/cuda_toolkit.cmake will find a toolkit; ends the process with one clear message when it cannot. */
export function setupCuda(folder = path.join(root, '.deps', 'cuda')) {
  const find = () => capture('cmake', ['-P', path.join(root, 'cmake', 'cuda_toolkit.cmake')]);
  const local = fs.existsSync(folder);
  if (!local && find().code === 0) return;
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    if (local) return;
    fail(`No usable CUDA toolkit was found, and a download exists for Linux on x86-64 only. ${help}`);
  }
  const requirements = path.join(root, 'scripts', 'cuda.txt');
  ensureWheels({ what: 'CUDA 13, cuBLAS and cuDNN (1 GB)', requirements, folder, arrange, help });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) setupCuda();
