// What the native builds share.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';
import { root, status } from './run.mjs';

const require = createRequire(import.meta.url);

/** Parallel compiler processes: DDAD_BUILD_JOBS, else one a processor. */
export const jobs = String(Number(process.env.DDAD_BUILD_JOBS) || os.availableParallelism());

/** The options that the environment sets, as CMake cache entries; others stay as the build folder has them. */
export function optionsFromEnvironment() {
  const options = {};
  if (process.env.DDAD_WERROR) options.DDAD_WERROR = process.env.DDAD_WERROR;
  if (process.env.dnnl_DIR) options.dnnl_DIR = path.resolve(process.env.dnnl_DIR);
  if (process.env.DDAD_CUDA) options.DDAD_CUDA = process.env.DDAD_CUDA;
  if (process.env.DDAD_CUDA_ARCHS) options.DDAD_CUDA_ARCHS = process.env.DDAD_CUDA_ARCHS;
  if (process.env.CUDA_HOME) options.DDAD_CUDA_HOME = path.resolve(process.env.CUDA_HOME);
  if (process.env.CUDNN_HOME) options.DDAD_CUDNN_HOME = path.resolve(process.env.CUDNN_HOME);
  return options;
}

/** The entries of a build folder's CMakeCache.txt; empty when it has not been configured. */
export function readCache(build) {
  const file = path.join(build, 'CMakeCache.txt');
  if (!fs.existsSync(file)) return {};
  const entries = fs.readFileSync(file, 'utf8').matchAll(/^([\w.-]+):\w+=(.*)$/gm);
  return Object.fromEntries([...entries].map(([, key, value]) => [key, value]));
}

/** `ninja` where it is installed, else CMake's default. */
export function generator() {
  return status('ninja', ['--version'], { stdio: 'ignore' }) === 0 ? ['-G', 'Ninja'] : [];
}

/** The include folders for an addon that is built without cmake-js, as DDAD_NODE_HEADERS takes them. */
export function nodeHeaders() {
  return `${require('node-api-headers').include_dir};${require('node-addon-api').include_dir}`;
}

/** Whether CMake's generator has written what `cmake --build` needs; node-gyp puts a Makefile of its own there. */
function generated(build) {
  const file = ['build.ninja', 'Makefile'].map((name) => path.join(build, name)).find((name) => fs.existsSync(name));
  return file !== undefined && /CMAKE generated file/.test(fs.readFileSync(file, 'utf8').slice(0, 200));
}

/**
 * 'fresh' when the build folder is configured with these options, else 'stale'. One that was copied or moved with its
 * package is removed: CMake refuses it.
 * @param {string} build
 * @param {Record<string, string>} options
 */
export function configurationState(build, options) {
  const cache = readCache(build);
  const home = cache.CMAKE_HOME_DIRECTORY;
  if (home && (!fs.existsSync(home) || fs.realpathSync(home) !== fs.realpathSync(root))) {
    fs.rmSync(build, { recursive: true, force: true });
    return 'stale';
  }
  if (!home || !generated(build)) return 'stale';
  return Object.entries(options).every(([key, value]) => cache[key] === value) ? 'fresh' : 'stale';
}
