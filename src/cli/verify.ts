import type { DeviceOptions } from '../config/options.js';
import { toDdadError } from '../base/errors.js';
import { addon, callNative, packagedBackbone } from '../engine/native.js';
import type { Command } from './command.js';
import { log, print } from './output.js';
import { deviceFlags, exitCodes, text } from './usage.js';

/** What the engine says about a golden file. */
interface Verification {
  file: string;
  kind: string;
  ok: boolean;
  tensors: { name: string; error: number | null; tolerance: number; ok: boolean }[];
}

interface VerifyArguments extends DeviceOptions {
  golden: string[];
  backbone?: string;
  json: boolean;
}

export const verifyCommand: Command<VerifyArguments> = {
  usage: 'verify <golden..>',
  describe: 'Recompute golden files and compare every tensor',
  positionals: { golden: 'Golden files (.safetensors)' },
  flags: {
    backbone: text('backbone', 'Backbone weights', "the package's EfficientNet-Lite0"),
    ...deviceFlags,
  },
  work: verify,
};

async function verify(argv: VerifyArguments, signal: AbortSignal): Promise<number> {
  const { device = 'auto', precision = 'float32', threads = 0 } = argv;
  const backbone = argv.backbone ?? (await packagedBackbone());
  const options = JSON.stringify({ backbone, device, precision, threads });
  let failures = 0;
  for (const file of argv.golden.map(String)) {
    try {
      const json = await callNative(signal, (token) => addon().verify(file, options, token));
      const verification = JSON.parse(json) as Verification;
      if (!verification.ok) failures += 1;
      if (argv.json) print(JSON.stringify(verification));
      else printTable(verification);
    } catch (thrown) {
      const error = toDdadError(thrown);
      if (error.code === 'ERR_ABORTED') throw error;
      failures += 1;
      log(`ddad-native: ${error.code}: ${error.message}`);
      if (argv.json) print(JSON.stringify({ file, ok: false, error: { code: error.code, message: error.message } }));
    }
  }
  log(`${argv.golden.length - failures} of ${argv.golden.length} files passed`);
  return failures === 0 ? exitCodes.done : exitCodes.failed;
}

/** Per tensor: the error ||out-ref||/||ref||, the tolerance, and whether it holds. */
function printTable({ file, kind, ok: passed, tensors }: Verification): void {
  print(`${file} (${kind}): ${passed ? 'ok' : 'FAILED'}`);
  const width = Math.max(6, ...tensors.map(({ name }) => name.length));
  if (tensors.length > 0) print(`  ${'tensor'.padEnd(width)}  ${'error'.padStart(9)}  tolerance`);
  for (const { name, error, tolerance, ok } of tensors) {
    const shown = typeof error === 'number' ? error.toExponential(2) : 'NaN';
    print(
      `  ${name.padEnd(width)}  ${shown.padStart(9)}  ${tolerance.toExponential(0).padStart(9)}  ${ok ? 'ok' : 'FAILED'}`,
    );
  }
}
