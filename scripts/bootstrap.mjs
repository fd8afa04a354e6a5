// From a fresh clone to something that runs, without typing more: `npm ci` when node_modules is missing or does not
// match the lock file, then the build, of targets given as well. Needs no npm package itself; `npm test`, `npm run demo`
// and the scripts that measure start with it.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { root, run } from './lib/run.mjs';

/** Runs npm: the one that started this script, else the one on the PATH. */
export function npm(...args) {
  const script = process.env.npm_execpath;
  if (script?.endsWith('.js')) run(process.execPath, [script, ...args]);
  else run('npm', args, { shell: process.platform === 'win32' });
}

function readPackages(file) {
  return fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')).packages : undefined;
}

/** Whether node_modules holds every package of package-lock.json in its version; optional ones may be missing. */
function isInstalled() {
  const wanted = readPackages(path.join(root, 'package-lock.json'));
  const present = readPackages(path.join(root, 'node_modules', '.package-lock.json'));
  if (!present) return false;
  return Object.entries(wanted)
    .filter(([name, entry]) => name !== '' && !entry.optional)
    .every(([name, entry]) => present[name]?.version === entry.version);
}

/** Installs the dependencies when needed, then builds what is out of date, and these targets. Ends when a step fails. */
export function bootstrap(...targets) {
  if (!isInstalled()) npm('ci', '--foreground-scripts');
  run(process.execPath, [path.join(root, 'scripts', 'build.mjs')]);
  for (const target of targets) run(process.execPath, [path.join(root, 'scripts', 'build.mjs'), target]);
  run(process.execPath, [path.join(root, 'scripts', 'build-ts.mjs')]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) bootstrap(...process.argv.slice(2));
