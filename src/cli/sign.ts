import { signModel } from '../model/signature.js';
import type { Command } from './command.js';
import { readKey } from './load.js';
import { readModel } from '../model/model-file.js';
import { checkOutput, forceFlag } from './outputs.js';
import { log, print } from './output.js';
import { exitCodes, jsonFlag, text } from './usage.js';

interface SignArguments {
  model: string;
  key: string;
  out?: string;
  force: boolean;
  json: boolean;
}

export const signCommand: Command<SignArguments> = {
  usage: 'sign <model>',
  describe: 'Sign a model with a private key, so that --trusted-key takes it and refuses others',
  positionals: { model: 'A model file' },
  flags: {
    key: { ...text('key', 'PEM file of a private Ed25519 key'), demandOption: true },
    out: text('out', 'Model file to write', 'the model itself'),
    ...forceFlag,
    ...jsonFlag,
  },
  example: ['$0 sign part.safetensors --key private.pem', 'Then score it with --trusted-key public.pem'],
  work: async ({ model, key, out = model, force, json }, signal) => {
    if (out === model) await readModel(model); // says what another file is
    await checkOutput(out, 'model', force);
    const signed = await signModel(model, { key: await readKey(key), out, signal });
    if (json) print(JSON.stringify(signed));
    else log(`${signed.model}: signed with the key ${signed.signatureKey.slice(0, 16)}`);
    return exitCodes.done;
  },
};
