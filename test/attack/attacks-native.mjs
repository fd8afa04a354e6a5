// Attacks on files that the engine reads: damaged and forged models, numbers that are huge, a planted table of kernels,
// and limits on threads. Each throws where it succeeds.
import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdir, readFile, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import path from 'node:path';

const read = async (file) => {
  const bytes = await readFile(file);
  const dataStart = 8 + Number(bytes.readBigUInt64LE());
  return { bytes, dataStart, header: JSON.parse(bytes.toString('utf8', 8, dataStart)) };
};

/** A model with another header before the same weights. */
async function write(file, header, weights) {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  await writeFile(file, Buffer.concat([length, text, weights]));
  return file;
}

/** The same without a digest, as an attacker writes it who knows what that is for. */
async function reconfigured(context, name, change) {
  const { bytes, dataStart, header } = await read(context.model);
  const metadata = header.__metadata__;
  const config = JSON.parse(metadata.config);
  change(config);
  metadata.config = JSON.stringify(config);
  delete metadata.digest;
  delete metadata.digestAlgorithm;
  return write(path.join(context.dir, name), header, bytes.subarray(dataStart));
}

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

/** The command line ended with an error of this package, by itself and in time. */
function refused({ status, signal, stderr, ms }, what, code = /ERR_[A-Z_]+/) {
  expect(
    !signal && status !== 0 && code.test(stderr),
    `${what}: status ${status}, ${signal ?? ''}, ${stderr.slice(0, 300)}`,
  );
  expect(!/ERR_INTERNAL/.test(stderr), `${what}: ${stderr.slice(0, 300)}`);
  expect(ms === undefined || ms < 15_000, `${what}: took ${ms} ms`);
}

const numbers = [
  ['input.size', 8192],
  ['input.size', 2 ** 31],
  ['unet.modelChannels', 2 ** 40],
  ['unet.numResBlocks', 1e9],
  ['unet.channelMult', Array(1000).fill(64)],
  ['unet.numClasses', 2 ** 60],
  ['diffusion.steps', 2 ** 31],
  ['score.scales', Array(100_000).fill(1)],
  ['score.smoothing', 1e9],
  ['score.tile', 2 ** 31],
  ['calibration.quantile', 7],
];

/** A folder for the cache of kernels in which nothing was planted yet. */
async function cacheFolder({ dir }, name) {
  const folder = path.join(dir, name);
  await mkdir(folder, { mode: 0o700 });
  return folder;
}

async function scoresWith(context, folder, what) {
  const images = path.resolve(context.images);
  const env = { ...process.env, DDAD_CACHE_DIR: folder, DDAD_AUTOTUNE: 'on' };
  const { status, signal, stderr, ms } = await context.cli(['score', context.model, images, '--threads', '1'], { env });
  expect(status === 0 && !signal, `${what}: status ${status}, ${stderr.slice(0, 300)}`);
  expect(ms === undefined || ms < 60_000, `${what}: took ${ms} ms`);
}

export const attacks = [
  {
    name: '400 flipped bits in the header and the weights of a model',
    async run({ dir, model }) {
      const { Detector } = await import('../../dist/index.js');
      const { bytes, dataStart } = await read(model);
      const file = path.join(dir, 'flipped.safetensors');
      const accepted = [];
      for (let i = 0; i < 400; i++) {
        const [begin, end] = i < 200 ? [0, dataStart] : [dataStart, bytes.length];
        const at = begin + Math.floor(((end - begin) * (i % 200)) / 200);
        bytes[at] ^= 1 << (i % 8);
        await writeFile(file, bytes);
        bytes[at] ^= 1 << (i % 8);
        await Detector.load(file, { threads: 1 }).then(
          (detector) => {
            detector.dispose();
            accepted.push(`${at}.${i % 8}`);
          },
          () => undefined,
        );
      }
      expect(accepted.length === 0, `${accepted.length} of 400 were accepted, at ${accepted.slice(0, 5).join(', ')}`);
    },
  },
  {
    name: 'huge numbers in the configuration of a model',
    async run(context) {
      for (const [field, value] of numbers) {
        const file = await reconfigured(context, 'huge.safetensors', (config) => {
          const names = field.split('.');
          const inner = names.slice(0, -1).reduce((at, name) => at[name], config);
          if (inner) inner[names.at(-1)] = value;
        });
        refused(await context.cli(['score', file, context.images]), `${field} = ${JSON.stringify(value).slice(0, 20)}`);
      }
    },
  },
  {
    name: 'a signed model with another configuration, digest renewed',
    async run(context) {
      const { signModel } = await import('../../dist/index.js');
      const { publicKey, privateKey } = generateKeyPairSync('ed25519');
      const key = path.join(context.dir, 'trusted.pem');
      await writeFile(key, publicKey.export({ type: 'spki', format: 'pem' }));
      const signed = path.join(context.dir, 'signed.safetensors');
      await signModel(context.model, { key: privateKey, out: signed });
      const score = (file) => context.cli(['score', file, context.images, '--trusted-key', key, '--threads', '1']);
      expect((await score(signed)).status === 0, 'the signed model is not taken');
      refused(await score(context.model), 'a model without a signature', /ERR_SIGNATURE/);
      // signed by the attacker, under the name of the trusted key
      const { bytes, dataStart, header } = await read(signed);
      const own = generateKeyPairSync('ed25519');
      const forged = path.join(context.dir, 'forged.safetensors');
      await signModel(context.model, { key: own.privateKey, out: forged });
      refused(await score(forged), 'a model signed by somebody else', /ERR_SIGNATURE/);
      const theirs = (await read(forged)).header.__metadata__;
      header.__metadata__ = { ...theirs, signatureKey: header.__metadata__.signatureKey };
      await write(forged, header, bytes.subarray(dataStart));
      refused(await score(forged), 'the same under another name', /ERR_SIGNATURE/);
    },
  },
  {
    name: 'a symbolic link, a pipe, a folder and 85 MB in the place of kernels.json',
    async run(context) {
      const victim = path.join(context.dir, 'victim');
      await writeFile(victim, 'precious');
      for (const name of ['kernels.json', 'kernels.json.lock', 'kernels.json.tmp']) {
        const folder = await cacheFolder(context, `link-${name}`);
        await symlink(victim, path.join(folder, name));
        await scoresWith(context, folder, `a link ${name}`);
        expect((await readFile(victim, 'utf8')) === 'precious', `a link ${name}: what it points to was written`);
      }
      for (const name of ['kernels.json', 'kernels.json.lock']) {
        const folder = await cacheFolder(context, `pipe-${name}`);
        await new Promise((resolve) => spawn('mkfifo', [path.join(folder, name)]).on('close', resolve));
        await scoresWith(context, folder, `a pipe ${name}`);
      }
      const withFolder = await cacheFolder(context, 'folder');
      await mkdir(path.join(withFolder, 'kernels.json'));
      await scoresWith(context, withFolder, 'a folder kernels.json');
      const long = await cacheFolder(context, 'long');
      await writeFile(path.join(long, 'kernels.json'), '');
      await truncate(path.join(long, 'kernels.json'), 85_000_000);
      await scoresWith(context, long, '85 MB');
      expect((await stat(path.join(long, 'kernels.json'))).size < 1_000_000, 'a table of 85 MB was kept');
    },
  },
  {
    name: 'a lock on kernels.json that is never given back',
    async run(context) {
      const folder = await cacheFolder(context, 'locked');
      const lock = path.join(folder, 'kernels.json.lock');
      await writeFile(lock, '');
      const holder = spawn('flock', [lock, 'sleep', '120'], { stdio: 'ignore' });
      holder.on('error', () => undefined); // without the program the lock is free
      try {
        await new Promise((resolve) => setTimeout(resolve, 300));
        await scoresWith(context, folder, 'a held lock');
      } finally {
        holder.kill();
      }
    },
  },
  {
    name: 'more threads than there are, and than the system gives',
    async run(context) {
      const many = await context.cli(['score', context.model, context.images, '--threads', '1024']);
      expect(many.status === 0, `1024 threads: status ${many.status}, ${many.stderr.slice(0, 300)}`);
      refused(await context.cli(['score', context.model, context.images, '--threads', '100000']), '100000 threads');
      // what OpenMP is told directly; it would end the process where the system refuses one of them
      const told = { ...process.env, OMP_NUM_THREADS: '100000', DDAD_CONV: 'onednn' };
      const omp = await context.cli(['score', context.model, context.images, '--threads', '2'], { env: told });
      expect(omp.status === 0 && !/libgomp/.test(omp.stderr), `OMP_NUM_THREADS: ${omp.stderr.slice(0, 300)}`);
    },
  },
];
