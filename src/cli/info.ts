import os from 'node:os';
import sharp from 'sharp';
import { Detector } from '../detector.js';
import { addon, addonPath } from '../native.js';
import { packageVersion } from '../version.js';
import type { Command } from './command.js';
import { megabytes, peakMemory, print } from './output.js';
import { exitCodes, jsonFlag } from './usage.js';

export const infoCommand: Command<{ model?: string; json: boolean }> = {
  usage: 'info [model]',
  describe: 'Devices, instruction sets, library versions, memory; or what a model file holds',
  positionals: { model: 'A model file' },
  flags: jsonFlag,
  work: async ({ model, json }, signal) => {
    const info = model === undefined ? engine() : await describeModel(model, signal);
    print(json ? JSON.stringify(info) : lines(info).join('\n'));
    return exitCodes.done;
  },
};

function engine(): Record<string, unknown> {
  return {
    version: packageVersion(),
    node: process.version,
    sharp: sharp.versions.sharp,
    libvips: sharp.versions.vips,
    addon: addonPath(),
    engine: JSON.parse(addon().info()) as unknown,
    memory: { total: megabytes(os.totalmem()), free: megabytes(os.freemem()), process: megabytes(peakMemory()) },
  };
}

async function describeModel(model: string, signal: AbortSignal): Promise<Record<string, unknown>> {
  await using detector = await Detector.load(model, { signal });
  const memory = Object.entries(detector.memory).map(([name, bytes]) => [name, megabytes(bytes)]);
  return { model, ...detector.config, memory: Object.fromEntries(memory) as Record<string, string> };
}

/** Nested values as indented `name: value` lines. */
function lines(value: object, indent = ''): string[] {
  return Object.entries(value).flatMap(([name, inner]: [string, unknown]) => {
    if (inner !== null && typeof inner === 'object' && !Array.isArray(inner)) {
      return [`${indent}${name}:`, ...lines(inner, `${indent}  `)];
    }
    if (Array.isArray(inner) && inner.some((item) => item !== null && typeof item === 'object')) {
      return [`${indent}${name}:`, ...inner.flatMap((item) => lines(item as object, `${indent}  `))];
    }
    return [`${indent}${name}: ${Array.isArray(inner) ? inner.join(', ') || 'none' : String(inner)}`];
  });
}
