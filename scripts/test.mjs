// Installs and builds what is missing, then runs the whole suite: ctest and node:test.
//   npm test                            everything
//   npm test -- --native | --node       one half
//   npm test -- config image            the test files whose path has one of these words, without the native tests
import fs from 'node:fs';
import path from 'node:path';
import { bootstrap } from './bootstrap.mjs';
import { fail, root, run, status } from './lib/run.mjs';

const flags = process.argv.slice(2).filter((arg) => arg.startsWith('--'));
const words = process.argv.slice(2).filter((arg) => !arg.startsWith('--'));
const unknown = flags.find((flag) => !['--native', '--node'].includes(flag));
if (unknown) fail(`unknown option ${unknown}; expected --native, --node, or words of test file names`);
const native = !flags.includes('--node') && words.length === 0;
const node = !flags.includes('--native');

bootstrap();
const failed = [];
const build = (target) => run(process.execPath, [path.join(root, 'scripts', 'build.mjs'), target]);
// Nothing is measured or written into the user's cache; the tests of that switch it on for themselves.
process.env.DDAD_AUTOTUNE ??= 'off';

if (native) {
  build('ddad_native_tests');
  const code = status('ctest', ['--output-on-failure', '--no-tests=error'], { cwd: path.join(root, 'build') });
  if (code !== 0) failed.push('native tests');
}

if (node) {
  const files = fs
    .readdirSync(path.join(root, 'test'), { recursive: true })
    .map((file) => path.join('test', file))
    .filter((file) => file.endsWith('.test.mjs') && (!words.length || words.some((word) => file.includes(word))))
    .sort();
  if (files.length === 0) fail(`no test file has ${words.join(' or ')} in its path`);
  build('ddad_cuda_emulated');
  const options = ['--test', '--test-reporter', 'spec', '--test-timeout', '600000'];
  if (status(process.execPath, [...options, ...files]) !== 0) failed.push('node:test');
}

if (failed.length > 0) fail(`FAILED: ${failed.join(', ')}`);
