// A debug build with AddressSanitizer and UndefinedBehaviorSanitizer in build-debug/, without Node; runs the native
// tests in it.
//   npm run build:debug                 build and test
//   npm run build:debug -- --no-test    build only
//   npm run build:debug -- --all        test every instruction set, not the newest only
//   npm run build:debug -- --addon      build build-debug/Debug/ddad.node instead and say how to load it
import path from 'node:path';
import { configurationState, generator, jobs, nodeHeaders, optionsFromEnvironment } from './lib/cmake.mjs';
import { capture, fail, root, run } from './lib/run.mjs';
import { setup } from './setup.mjs';

const args = process.argv.slice(2);
const unknown = args.find((arg) => !['--addon', '--all', '--no-test'].includes(arg));
if (unknown) fail(`unknown option ${unknown}; expected --addon, --all or --no-test`);
const addon = args.includes('--addon');

setup();
const build = path.join(root, 'build-debug');
const options = { ...optionsFromEnvironment(), CMAKE_BUILD_TYPE: 'Debug', DDAD_SANITIZE: 'ON' };
options.DDAD_TEST_ALL_ISAS = args.includes('--all') ? 'ON' : 'OFF';
if (addon) {
  options.DDAD_NODE_HEADERS = nodeHeaders();
  options.CMAKE_LIBRARY_OUTPUT_DIRECTORY = path.join(build, 'Debug');
}
if (configurationState(build, options) !== 'fresh') {
  run('cmake', [
    ...['-S', root, '-B', build, ...generator()],
    ...Object.entries(options).map(([key, value]) => `-D${key}=${value}`),
  ]);
}
run('cmake', ['--build', build, '--parallel', jobs, '--target', addon ? 'ddad_addon' : 'ddad_native_tests']);

if (addon) {
  // The sanitizer must be the first library of the process, and node itself is not built with it.
  const library = capture('c++', ['-print-file-name=libasan.so']).output.trim();
  const file = path.join('build-debug', 'Debug', 'ddad.node');
  process.stdout.write(`LD_PRELOAD=${library} ASAN_OPTIONS=detect_leaks=0 DDAD_ADDON=${file} node ...\n`);
} else if (!args.includes('--no-test')) {
  run('ctest', ['--output-on-failure', '--no-tests=error'], { cwd: build });
}
