import { importModel, type ImportOptions, type ImportResult } from '../model/import.js';
import { defined } from '../config/options.js';
import { presetNames } from '../config/presets.js';
import type { Command } from './command.js';
import { checkOutput, forceFlag } from './outputs.js';
import { log, megabytes, peakMemory, print, ProgressLine } from './output.js';
import { exitCodes, jsonFlag, number, parseNumbers, text } from './usage.js';

export const importCommand: Command<ImportArguments> = {
  usage: 'import <checkpoint>',
  describe: 'Make a model of a checkpoint of guided-diffusion, to train from',
  positionals: { checkpoint: 'A checkpoint of PyTorch (.pt) or a safetensors file' },
  flags: {
    out: { ...text('out', 'The model file to write'), demandOption: true },
    'drop-label-emb': { type: 'boolean', default: false, describe: 'Leave out the embedding of classes' },
    prefix: text('prefix', "What the parameters' names begin with, where a checkpoint holds several networks"),
    'image-size': number('image-size', 'Nominal size of the network', '8 pixels at the coarsest level'),
    'num-head-channels': number('num-head-channels', 'Channels of an attention head', '64'),
    'num-heads': number('num-heads', 'Attention heads, instead of their channels'),
    'new-attention-order': { type: 'boolean', describe: 'q, k and v are split before the heads  [default: false]' },
    'attention-resolutions': text('attention-resolutions', 'Sizes with attention, such as 32,16,8', 'as in the file'),
    schedule: { choices: ['linear', 'cosine'], describe: 'Noise schedule of the network  [default: linear]' },
    'diffusion-steps': number('diffusion-steps', 'Steps of the schedule', '1000'),
    preset: { choices: presetNames, describe: 'Settings for training from it  [default: paper-256]' },
    mode: { choices: ['resize', 'crop'], describe: 'Whole images or windows  [default: by preset]' },
    size: number('size', 'Input size in pixels', '--image-size'),
    backbone: text(
      'backbone',
      'Pretrained weights whose features are predicted: a file, lite1, lite2 or none',
      "the package's Lite0",
    ),
    scales: text('scales', 'Noise steps to score', '5,50,100'),
    normalization: { choices: ['none', 'per-image'], describe: 'Of the scores before training  [default: none]' },
    ...forceFlag,
    ...jsonFlag,
  },
  example: ['$0 import 256x256_diffusion.pt --out start.safetensors --drop-label-emb', 'Read a public checkpoint'],
  work: importCheckpoint,
};

interface ImportArguments extends Pick<
  ImportOptions,
  | 'prefix'
  | 'imageSize'
  | 'numHeadChannels'
  | 'numHeads'
  | 'schedule'
  | 'diffusionSteps'
  | 'preset'
  | 'mode'
  | 'size'
  | 'normalization'
> {
  checkpoint: string;
  out: string;
  force: boolean;
  json: boolean;
  dropLabelEmb: boolean;
  newAttentionOrder?: boolean;
  attentionResolutions?: string;
  backbone?: string;
  scales?: string;
}

async function importCheckpoint(argv: ImportArguments, signal: AbortSignal): Promise<number> {
  const { prefix, imageSize, numHeadChannels, numHeads, schedule, diffusionSteps, preset, mode, size } = argv;
  const { backbone, scales, normalization, attentionResolutions: attention } = argv;
  const options = defined({
    ...{ prefix, imageSize, numHeadChannels, numHeads, schedule, diffusionSteps, preset, mode, size, normalization },
    dropLabels: argv.dropLabelEmb,
    useNewAttentionOrder: argv.newAttentionOrder,
    attentionResolutions: attention === undefined ? undefined : parseNumbers('attention-resolutions', attention),
    backbone: backbone === 'none' ? null : backbone,
    scales: scales === undefined ? undefined : parseNumbers('scales', scales),
  });
  await checkOutput(argv.out, 'model', argv.force);
  const line = new ProgressLine();
  const onProgress = (done: number): void => line.update('import', done, '');
  const imported = await importModel(argv.checkpoint, argv.out, { ...options, signal, onProgress }).finally(() => {
    line.stop();
  });
  for (const warning of imported.warnings) log(`warning: ${warning}`);
  log(`memory: peak of the process ${megabytes(peakMemory())}`);
  if (argv.json) print(JSON.stringify({ ...imported, memoryUsage: { peak: peakMemory() } }));
  else print(...described(imported));
  return exitCodes.done;
}

const forms = { zip: 'PyTorch', legacy: "PyTorch's old form", safetensors: 'safetensors' };
const flags: Record<string, string> = {
  imageSize: '--image-size',
  numHeadChannels: '--num-head-channels',
  useNewAttentionOrder: '--new-attention-order',
};

/** What was found, what was assumed, what became of the rest. */
function described({ config, ...found }: ImportResult): string[] {
  const { unet, features } = config;
  const assumed: Record<string, string> = {
    imageSize: `image size ${unet.imageSize}`,
    numHeadChannels: `${unet.numHeadChannels} channels a head`,
    useNewAttentionOrder: 'q, k and v of a head together',
  };
  const sample = found.leftOut.slice(0, 3).join(', ');
  const more = found.leftOut.length > 3 ? ` and ${found.leftOut.length - 3} more` : '';
  const head = `${unet.featureChannels} features of ${features?.backbone}`;
  return [
    `${found.checkpoint}: ${forms[found.format]}, ${found.tensors} tensors, ${found.parameters} parameters in ` +
      `${found.dtypes.join(', ')}${found.prefix && `, names after "${found.prefix}"`}`,
    `  network: ${unet.inChannels} to ${unet.outChannels} channels (learned variance), width ${unet.modelChannels} x ` +
      `${unet.channelMult.join(',')}, ${unet.numResBlocks} blocks a level, attention at ` +
      `${unet.attentionResolutions.join(', ') || 'the middle only'}, ` +
      `${unet.numClasses === null ? 'no classes' : `${unet.numClasses} classes`}` +
      `${unet.useScaleShiftNorm ? ', scale-shift norm' : ''}${unet.resblockUpdown ? ', residual up/down blocks' : ''}`,
    ...(found.assumed.length === 0
      ? []
      : [
          `  assumed, since no shape shows it: ${found.assumed.map((name) => assumed[name]).join(', ')} ` +
            `(${found.assumed.map((name) => flags[name]).join(', ')})`,
        ]),
    ...(found.featureHead === 'none' ? [] : [`  feature head: ${found.featureHead}, for ${head}`]),
    ...(found.leftOut.length === 0 ? [] : [`  left out: ${sample}${more}`]),
    `${found.model}: written in ${(found.elapsedMs / 1000).toFixed(1)} s, not calibrated; ` +
      `train --init ${found.model} goes on from it`,
  ];
}
