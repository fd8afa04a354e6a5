// Who takes part: our side and its peers.
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { installOnnxruntime } from './onnxruntime.mjs';
import { root, scratch, UsageError } from './options.mjs';

export const ours = 'ddad-native';
const workerCandidates = ['build/ddad_bench', 'build/Release/ddad_bench'];
const script = (name) => join(import.meta.dirname, name);

/** Path of our side's program. */
export function ourWorker({ worker }) {
  const found = worker
    ? resolve(worker)
    : workerCandidates.map((path) => join(root, path)).find((path) => existsSync(path));
  if (found && existsSync(found)) return found;
  throw new UsageError(
    `our side is not built: expected ${worker ?? workerCandidates.join(' or ')}; npm run bench:peers builds it, ` +
      'else give --worker PATH or --peer-only',
  );
}

/**
 * The sides by name, ours first: `command` is [program, ...arguments], `workloads` what it takes part in. A side that
 * is `optional` may fail to set up and is left out then.
 */
export function makeSides(options, python, hasTorch) {
  const torch = (...args) => [python, script('torch_worker.py'), ...args];
  const both = ['score', 'train'];
  const sides = {};
  if (!options.peerOnly) sides[ours] = { command: [ourWorker(options), 'peer'], workloads: both };
  if (hasTorch) {
    sides['PyTorch eager'] = { command: torch('--layout', 'nchw'), workloads: both };
    sides['PyTorch channels-last'] = { command: torch('--layout', 'channels-last'), workloads: both };
  }
  // Its code is compiled for this very processor, whatever the cap says.
  if (hasTorch && options.compile && !options.isa)
    sides['torch.compile'] = {
      command: torch('--layout', 'nchw', '--compile', join(scratch, 'inductor')),
      workloads: ['score'],
      optional: true,
      // Its peak is the compiler's.
      noMemory: true,
    };
  if (!options.isa) {
    const folder = installOnnxruntime(join(scratch, 'onnxruntime'));
    const ort = (graphs) => [process.execPath, script('ort_worker.mjs'), folder, graphs];
    sides.onnxruntime = { command: ort('written'), workloads: ['score'] };
    if (hasTorch && options.exported)
      sides['onnxruntime, exported'] = { command: ort('exported'), workloads: ['score'] };
  }
  return sides;
}

/** The commands by name of the sides that take part in a workload, or in the measurement of its memory. */
export const commandsFor = (sides, work, memory = false) =>
  Object.fromEntries(
    Object.entries(sides)
      .filter(([, side]) => side.workloads.includes(work.workload) && !(memory && side.noMemory))
      .map(([name, { command }]) => [name, command]),
  );

export const peersAmong = (names) => names.filter((name) => name !== ours);
