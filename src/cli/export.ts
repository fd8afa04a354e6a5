import { stat } from 'node:fs/promises';
import {
  checkOther,
  dataOf,
  exportOnnx,
  type OnnxExport,
  exportSafetensors,
  type SafetensorsExport,
} from '../model/export.js';
import type { Command } from './command.js';
import { checkOutput, checkReplaceable, forceFlag } from './outputs.js';
import { log, megabytes, peakMemory, print } from './output.js';
import { exitCodes, jsonFlag, number, text, UsageError } from './usage.js';

interface ExportArguments {
  model: string;
  onnx?: string;
  safetensors?: string;
  graph?: 'unet' | 'score';
  scale?: number;
  product?: string;
  size?: string;
  noise?: 'engine' | 'input';
  head?: boolean;
  externalData?: boolean;
  force: boolean;
  json: boolean;
}

export const exportCommand: Command<ExportArguments> = {
  usage: 'export <model>',
  describe: 'Write a model for other programs: as an ONNX graph, as weights in the names of guided-diffusion',
  positionals: { model: 'A model file, or a training checkpoint' },
  flags: {
    onnx: text('onnx', 'ONNX file to write'),
    safetensors: text('safetensors', "File to write the UNet's parameters to"),
    graph: { choices: ['unet', 'score'], describe: 'ONNX: the network alone, or all of the scoring  [default: unet]' },
    scale: number('scale', "ONNX score: a noise scale of the model's", 'all of them, as the model scores'),
    product: text('product', 'ONNX score: what the images show, of a unified model'),
    size: text('size', 'ONNX score: width and height of the images, such as 256x192', 'what the model takes in'),
    noise: { choices: ['engine', 'input'], describe: "ONNX score: the engine's noise, or an input  [default: engine]" },
    head: { type: 'boolean', describe: "With the feature head; --no-head for the public code's strict loading" },
    'external-data': { type: 'boolean', describe: 'ONNX: weights in a file beside it, as beyond 2 GB anyhow' },
    ...forceFlag,
    ...jsonFlag,
  },
  example: ['$0 export part.safetensors --onnx part.onnx --graph score', 'from the image to its score'],
  work: exportModel,
};

/** `256x192`, or `256` for a square. */
function parseSize(given: string): { width: number; height: number } {
  const [, width, height = width] = /^(\d{1,5})(?:x(\d{1,5}))?$/.exec(given) ?? [];
  if (!(Number(width) > 0 && Number(height) > 0)) {
    throw new UsageError(`--size: expected a width and height such as 256x192, got "${given}"`);
  }
  return { width: Number(width), height: Number(height) };
}

async function exportModel(argv: ExportArguments, signal: AbortSignal): Promise<number> {
  const { model, onnx, safetensors, graph, scale, product, noise, head, externalData } = argv;
  const size = argv.size === undefined ? undefined : parseSize(argv.size);
  if (onnx === undefined && safetensors === undefined) {
    throw new UsageError('expected --onnx or --safetensors, the file to write');
  }
  const onnxOnly = Object.entries({ graph, scale, product, size, noise, 'external-data': externalData });
  const stray = onnx === undefined ? onnxOnly.find(([, value]) => value !== undefined) : undefined;
  if (stray) throw new UsageError(`--${stray[0]}: goes with --onnx only`);
  // before what --force would allow
  if (onnx !== undefined) await checkOther(model, onnx, dataOf(onnx));
  if (safetensors !== undefined) await checkOther(model, safetensors);
  if (onnx !== undefined) {
    await checkOutput(onnx, 'graph', argv.force);
    // the data of a graph bear no name: they are ours where the graph is
    const size = await stat(onnx).then(
      (at) => at.size,
      () => 0,
    );
    await checkReplaceable(dataOf(onnx), 'graph', argv.force || size > 0);
  }
  if (safetensors !== undefined) await checkOutput(safetensors, 'weights', argv.force);
  // the graph score needs the head; there --no-head concerns the weights alone
  const headOf = safetensors !== undefined && graph === 'score' ? undefined : head;
  const graphs =
    onnx === undefined
      ? undefined
      : await exportOnnx(model, onnx, {
          graph,
          scale,
          product,
          size,
          noise,
          externalData,
          head: headOf,
          signal,
        });
  const weights = safetensors === undefined ? undefined : await exportSafetensors(model, safetensors, { head, signal });
  if (argv.json) print(JSON.stringify({ model, onnx: graphs ?? null, safetensors: weights ?? null }));
  else print(...(graphs ? graphLines(graphs) : []), ...(weights ? weightLines(weights) : []));
  log(`memory: peak of the process ${megabytes(peakMemory())}`);
  return exitCodes.done;
}

const files = (written: OnnxExport['files']): string[] =>
  written.map(({ path, bytes }) => `${path}  ${megabytes(bytes)}`);

const listed = (title: string, lines: string[]): string[] =>
  lines.length === 0 ? [] : [`  ${title}`, ...lines.map((line) => `    ${line}`)];

function graphLines({
  graph,
  opset,
  nodes,
  parameters,
  scales,
  inputs,
  outputs,
  leavesOut,
  files: written,
}: OnnxExport) {
  const port = ({ name, type, shape, about }: OnnxExport['inputs'][number]): string =>
    `${name}  ${type} [${shape.join(', ')}]  ${about}`;
  const at = scales ? `, noise scales ${scales.join(', ')}` : '';
  return [
    ...files(written),
    `  graph ${graph}${at}: ${nodes} nodes of opset ${opset}, ${parameters} parameters`,
    ...listed('inputs', inputs.map(port)),
    ...listed('outputs', outputs.map(port)),
    ...listed('left to you', leavesOut),
  ];
}

function weightLines({ tensors, parameters, leavesOut, files: written }: SafetensorsExport): string[] {
  return [...files(written), `  ${tensors} tensors, ${parameters} parameters`, ...listed('left out', leavesOut)];
}
