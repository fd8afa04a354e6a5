import type { Options } from 'yargs';
import { Detector, type LoadOptions } from '../scoring/detector.js';
import { readTextFile } from '../files/read.js';
import { log } from './output.js';
import { text } from './usage.js';

/** Of every command that loads a model. */
export const trustFlag = {
  'trusted-key': text('trusted-key', 'PEM file of a public key; models that it has not signed are refused'),
} satisfies Record<string, Options>;

export interface TrustArguments {
  trustedKey?: string | undefined;
}

/** The text of a key's file. Throws ERR_FILE_READ. */
export const readKey = readTextFile;

/** Loads the model of a command line; what is doubtful about it goes to stderr. */
export async function loadModel(
  model: string,
  { trustedKey, ...options }: Omit<LoadOptions, 'trustedKey'> & TrustArguments,
): Promise<Detector> {
  const key = trustedKey === undefined ? undefined : await readKey(trustedKey);
  const detector = await Detector.load(model, { ...options, trustedKey: key });
  for (const warning of detector.warnings) log(`warning: ${warning}`);
  return detector;
}
