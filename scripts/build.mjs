// Builds the addon: oneDNN, then cmake-js, which runs CMake. `npm install`, `node-gyp rebuild` and
// `npm run build:native` all end here.
//   node scripts/build.mjs [target ...]     the targets of CMakeLists.txt; ddad_addon unless named
import path from 'node:path';
import { createRequire } from 'node:module';
import { configurationState, jobs, optionsFromEnvironment } from './lib/cmake.mjs';
import { fail, root, run } from './lib/run.mjs';
import { setup } from './setup.mjs';

// Those of an outer make (node-gyp) would be taken for our own.
delete process.env.MAKEFLAGS;
delete process.env.MFLAGS;
delete process.env.MAKELEVEL;

setup();

let cmakeJs;
try {
  cmakeJs = path.join(path.dirname(createRequire(import.meta.url).resolve('cmake-js/package.json')), 'bin', 'cmake-js');
} catch {
  fail('cmake-js is not installed: run "npm ci" first.');
}
const targets = process.argv.length > 2 ? process.argv.slice(2) : ['ddad_addon'];
const build = path.join(root, 'build');
const options = optionsFromEnvironment();
const base = [cmakeJs, '--log-level', 'warn', '--directory', root, '--out', build];
if (configurationState(build, options) !== 'fresh') {
  run(process.execPath, [
    ...base,
    'configure',
    ...Object.entries(options).map(([key, value]) => `--CD${key}=${value}`),
  ]);
}
run('cmake', ['--build', build, '--parallel', jobs, '--target', ...targets]);
