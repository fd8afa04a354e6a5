import { readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // another system, or a controller that is not mounted
  }
}

/** The files of a control group that limit memory, by the kind of its hierarchy. */
const limitFiles = { cgroup2: ['memory.max', 'memory.high'], cgroup: ['memory.limit_in_bytes'] };

/** Spaces and such in mountinfo. */
const unescaped = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));

/** The folders of the control groups that hold this process and limit memory: its own, and all that are above it. */
function* controlGroups(root: string): Generator<{ folder: string; kind: keyof typeof limitFiles }> {
  const groups = new Map<keyof typeof limitFiles, string>();
  for (const line of textOf(`${root}/proc/self/cgroup`).split('\n')) {
    const [, controllers, group] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (group === undefined) continue;
    if (controllers === '') groups.set('cgroup2', group);
    else if (controllers?.split(',').includes('memory')) groups.set('cgroup', group);
  }
  for (const line of textOf(`${root}/proc/self/mountinfo`).split('\n')) {
    const [mount = '', system = ''] = line.split(' - ');
    const [, , , from, at] = mount.split(' ').map(unescaped);
    const [type = '', , options = ''] = system.split(' ');
    const kind = type === 'cgroup2' || (type === 'cgroup' && options.split(',').includes('memory')) ? type : undefined;
    if (kind === undefined || from === undefined || at === undefined) continue;
    // A container sees its group as the root of the mount; a group outside of what is mounted shows as /..
    const below = path.posix.relative(from, groups.get(kind) ?? from);
    const parts = below.startsWith('..') ? [] : below.split('/').filter(Boolean);
    for (let depth = parts.length; depth >= 0; depth--)
      yield { folder: path.posix.join(root, at, ...parts.slice(0, depth)), kind };
  }
}

/**
 * Bytes of memory that this process can have at most: the machine's, or the least that a control group allows which it is
 * in, of either version, however deep. `root` is where the system's files are.
 */
export function memoryLimit(root = '', machine = os.totalmem()): number {
  let least = machine;
  for (const { folder, kind } of controlGroups(root)) {
    for (const file of limitFiles[kind]) {
      const limit = Number.parseInt(textOf(path.posix.join(folder, file)), 10); // NaN for "max"
      if (limit > 0) least = Math.min(least, limit);
    }
  }
  return least;
}
