// Child processes, for the scripts of this folder: output goes straight through, a failure ends the script.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder that holds package.json. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');

/** Ends the script with one line for people, without a stack. */
export function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

/**
 * Runs a command in the package's folder and returns its exit status; 127 when there is no such command.
 * @param {string} command
 * @param {string[]} args
 * @param {import('node:child_process').SpawnSyncOptions} options
 */
export function status(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error?.code === 'ENOENT') return 127;
  if (result.error) throw result.error;
  return result.status ?? 1;
}

/** Runs a command in the package's folder; the script ends with its status when it fails. */
export function run(command, args, options = {}) {
  const code = status(command, args, options);
  if (code === 127) process.stderr.write(`${command} was not found on the PATH\n`);
  if (code !== 0) process.exit(code);
}

/** Runs a command quietly and returns { code, output }, the output being stdout and stderr together. */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  return { code: result.error ? 127 : (result.status ?? 1), output: `${result.stdout ?? ''}${result.stderr ?? ''}` };
}
