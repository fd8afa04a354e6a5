// The command line of the benchmark.
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { presetNames } from './workloads.mjs';

export const root = resolve(import.meta.dirname, '../..');
/** Where the peers are installed. */
export const scratch = join(root, '.deps/peers');
export const ownEnvironment = join(scratch, 'python');

export const usage = `Usage: npm run bench:peers -- [options]

Compares the outputs of ddad-native, PyTorch (eager in two layouts, and compiled) and onnxruntime for the same weights,
then times them in turns and measures the peak memory of fresh processes.

  --json FILE       write the report as JSON
  --rounds N        turns of each side (7; 3 with --quick)
  --presets LIST    comma-separated, of ${presetNames.join(', ')} (all)
  --quick           shorter turns, fewer of them, no torch.compile
  --no-torch        onnxruntime alone: no PyTorch is installed, training is left out
  --[no-]compile    PyTorch with torch.compile too; needs a C++ compiler and minutes (on; off with --quick)
  --exported        onnxruntime with the graph that PyTorch exports, too
  --threads N       threads of each side (2)
  --isa NAME        cap the instruction set: avx2 or avx512; leaves out onnxruntime and torch.compile
  --worker PATH     our side (ddad_bench of the build folder)
  --peer-only       the peers alone
  --venv DIR        Python environment with the pinned packages, made if absent (.deps/peers/python)
  --check DIR       compare the PyTorch network with the golden files in DIR instead`;

export class UsageError extends Error {}

export function parseCommandLine() {
  let values;
  try {
    ({ values } = parseArgs({
      allowNegative: true,
      options: {
        json: { type: 'string' },
        rounds: { type: 'string' },
        presets: { type: 'string', default: presetNames.join(',') },
        quick: { type: 'boolean', default: false },
        torch: { type: 'boolean', default: true },
        compile: { type: 'boolean' },
        exported: { type: 'boolean', default: false },
        threads: { type: 'string', default: '2' },
        isa: { type: 'string' },
        worker: { type: 'string' },
        'peer-only': { type: 'boolean', default: false },
        venv: { type: 'string', default: ownEnvironment },
        check: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const whole = (name, text) => {
    if (!/^[1-9]\d{0,3}$/.test(text)) throw new UsageError(`--${name}: expected a positive whole number, got ${text}`);
    return Number(text);
  };
  const presets = values.presets.split(',');
  for (const name of presets)
    if (!presetNames.includes(name)) throw new UsageError(`--presets: expected ${presetNames.join(', ')}, got ${name}`);
  if (values.isa && !['avx2', 'avx512'].includes(values.isa))
    throw new UsageError(`--isa: expected avx2 or avx512, got ${values.isa}`);
  if (!values.torch && (values.isa || values.check || values.compile || values.exported))
    throw new UsageError('--no-torch: cannot go with --isa, --check, --compile or --exported');
  return {
    ...values,
    presets,
    rounds: whole('rounds', values.rounds ?? (values.quick ? '3' : '7')),
    threads: whole('threads', values.threads),
    venv: resolve(values.venv),
    compile: values.torch && (values.compile ?? !values.quick),
    peerOnly: values['peer-only'],
  };
}
