// What provokes the errors about digests, signatures and bounds: by code, then by the message as docs/errors.md has it.
import { generateKeyPairSync } from 'node:crypto';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { checkModel, Detector, signModel } from '../../dist/index.js';
import { at, changed, cli, file, load, model } from './kit.mjs';
import { pattern, readSafetensors, root } from '../helpers/common.mjs';

const { publicKey, privateKey } = generateKeyPairSync('ed25519');
const stranger = generateKeyPairSync('ed25519');
const signed = at('signed.safetensors');
await signModel(model, { key: privateKey, out: signed });

/** A copy with other metadata and the digest of before. */
async function edited(from, change) {
  const { header, data } = await readSafetensors(from);
  const text = change(header.__metadata__) ?? JSON.stringify(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return file(Buffer.concat([length, Buffer.from(text), data]), 'safetensors');
}
const loaded = async (from, change, options = {}) =>
  Detector.load(await edited(from, change), { threads: 1, ...options });
const trusted = { trustedKey: publicKey };

async function damagedPackage(change) {
  const copy = at(`package-${change}`);
  for (const part of ['bin', 'dist', 'weights', 'package.json'])
    await cp(path.join(root, part), path.join(copy, part), { recursive: true });
  await symlink(path.join(root, 'node_modules'), path.join(copy, 'node_modules'));
  await mkdir(path.join(copy, 'build'));
  await symlink(path.join(root, 'build', 'Release'), path.join(copy, 'build', 'Release'));
  if (change === 'sums') await writeFile(path.join(copy, 'weights', 'SHA256SUMS'), '');
  else await writeFile(path.join(copy, 'weights', 'efficientnet-lite0-backbone.safetensors'), 'damaged');
  return cli(['info', '--preset', 'nano'], { bin: path.join(copy, 'bin', 'ddad-native.js') });
}

export const integrity = {
  ERR_ARGUMENT: {
    "<call>: expected a model's path, got <what>": [() => checkModel(7), () => signModel(7, { key: privateKey })],
  },
  ERR_MODEL_FORMAT: {
    '<file>: expected the digest <digest>, which it was written with, got <digest>: the file is damaged, or another program has changed it':
      [
        () => loaded(model, (metadata) => void (metadata.more = 'text')),
        async () => checkModel(await edited(model, (metadata) => void (metadata.more = 'text'))),
      ],
    '<file>: expected a digest of <n> digits with its algorithm, xxh3-128, got "<text>" of "<text>"': () =>
      loaded(model, (metadata) => void (metadata.digestAlgorithm = 'md5')),
    '<file>: expected a digest beside its signature, got none': () =>
      loaded(signed, (metadata) => {
        delete metadata.digest;
        delete metadata.digestAlgorithm;
      }),
    '<file>: expected its digest spelled plainly in the metadata, got other spelling': async () => {
      const { header } = await readSafetensors(model);
      return loaded(model, () => JSON.stringify(header).replace('"digest":', '"d\\u0069gest":'));
    },
    '<file>: has no digest to compare it with: an earlier version wrote it': async () =>
      checkModel(await changed(model, () => undefined)),
    '<file>: expected the SHA-256 <digest> of SHA256SUMS, got <digest>: the package is damaged': () =>
      damagedPackage('weights'),
    '<file>: expected a line for <name>, got none': () => damagedPackage('sums'),
  },
  ERR_SIGNATURE: {
    '<file>: expected a signature of the trusted key <key>, got none': () => load(model, trusted),
    '<file>: expected a signature of the trusted key <key>, got one of <key>': () =>
      load(signed, { trustedKey: stranger.publicKey }),
    '<file>: expected a signature of the trusted key <key>, got one that is not valid': () =>
      loaded(
        signed,
        (metadata) =>
          void (metadata.signature = metadata.signature.replace(/^./, (first) => (first === '0' ? '1' : '0'))),
        trusted,
      ),
    '<file>: expected the content that was signed, <digest>, got <digest>: the file has been changed since': [
      () => loaded(signed, (metadata) => void (metadata.more = 'text'), trusted),
      async () => {
        const bytes = await readFile(signed);
        bytes[bytes.length - 1] ^= 1;
        return Detector.load(await file(bytes, 'safetensors'), trusted);
      },
    ],
  },
  ERR_MEMORY: {
    'scoring <w> x <h> at <n> noise scales takes <n> MiB of memory, of which <n> MiB are free': async () => {
      const scales = Array.from({ length: 64 }, (_, i) => i);
      const greedy = await changed(model, ({ config }) => {
        Object.assign(config.score, { tile: 4096, scales, normalization: 'none', memory: null });
        config.calibration = null;
      });
      return (await load(greedy)).score(pattern(4000, 4000));
    },
  },
  ERR_USAGE: {
    '--check: needs a model file': () => cli(['info', '--check']),
  },
};
