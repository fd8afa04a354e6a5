import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { packageRoot } from '../base/package.js';
import { DdadError } from '../base/errors.js';
import { builtAddon } from '../engine/native.js';

/** What is measured: a package, or this package with another addon. */
export interface Build {
  /** As the user named it. */
  name: string;
  /** The folder that holds package.json. */
  root: string;
  worker: string;
  /** The addon where it is not the package's own. */
  addon?: string;
}

const workerOf = (root: string): string => path.join(root, 'dist', 'bench', 'worker.js');

/** This package; its addon is the one that DDAD_ADDON names, if any. */
export function ownBuild(): Build {
  const addon = process.env['DDAD_ADDON'];
  return { name: 'this build', root: packageRoot, worker: workerOf(packageRoot), ...(addon && { addon }) };
}

/**
 * Another build: the folder of a package (`npm ci && npm run build` has made dist/ and build/), or an addon
 * (ddad.node), with which this package then runs. Throws ERR_OPTION where there is neither.
 */
export async function otherBuild(given: string): Promise<Build> {
  const refuse = (got: string): never => {
    throw new DdadError(
      'ERR_OPTION',
      `option "against": expected the folder of a built ddad-native, or a ddad.node, got ${given}: ${got}`,
    );
  };
  const at = path.resolve(given);
  const stats = await stat(at).catch(() => refuse('no such file or folder'));
  if (!stats.isDirectory()) {
    if (path.extname(at) !== path.extname(builtAddon(''))) refuse('a file that is no addon');
    return { name: given, root: packageRoot, worker: workerOf(packageRoot), addon: at };
  }
  if (!existsSync(path.join(at, 'bin', 'ddad-native.js'))) refuse('a folder without bin/ddad-native.js');
  const addon = builtAddon(at);
  if (!existsSync(addon)) refuse('it has no build/Release/ddad.node; run "npm run build" there');
  if (!existsSync(workerOf(at))) {
    refuse(`it has no dist/bench/worker.js; where it is older than this command, give its addon, ${addon}`);
  }
  return { name: given, root: at, worker: workerOf(at) };
}

/** The commit that a package stands at, with `+` where files have changed since; null where it is no clone. */
export async function commitOf(root: string): Promise<string | null> {
  if (!existsSync(path.join(root, '.git'))) return null;
  const git = (...args: string[]) => promisify(execFile)('git', ['-C', root, ...args]);
  try {
    const { stdout: commit } = await git('rev-parse', 'HEAD');
    const { stdout: changes } = await git('status', '--porcelain', '--untracked-files=no');
    return commit.trim() + (changes.trim() ? '+' : '');
  } catch {
    return null; // no git here, or a clone of somebody whom git does not trust
  }
}
