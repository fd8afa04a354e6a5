// Files, names, outputs and signals that make the command line hang, lose results, lie or destroy.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const bin = fileURLToPath(new URL('../../bin/ddad-native.js', import.meta.url));
const lean = ['--preset', 'nano', '--size', '16', '--batch-size', '2', '--threads', '1', '--backbone', 'none'];
const longMs = 60_000;

function check(holds, message) {
  if (!holds) throw new Error(message);
}

/** Fails where something takes longer than it may. */
async function within(what, promise, ms = longMs) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The command line with other standard streams than `cli` has; ended where it hangs. */
function run(args, { stdio = ['ignore', 'pipe', 'pipe'], cwd, onStart } = {}) {
  const child = spawn(process.execPath, [bin, ...args], { stdio, cwd });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'])
    child[name]?.setEncoding('utf8').on('data', (text) => (output[name] += text));
  const timer = setTimeout(() => child.kill('SIGKILL'), longMs);
  const finished = new Promise((resolve, reject) => {
    child.on('error', reject).on('close', (status, signal) => resolve({ status, signal, ...output }));
  });
  void onStart?.(child);
  return finished
    .then((found) => {
      check(found.signal !== 'SIGKILL' || child.killedOnPurpose, `${args[0]} hung for ${longMs / 1000} s`);
      return found;
    })
    .finally(() => clearTimeout(timer));
}

const place = (dir) => mkdtemp(path.join(dir, 'files-'));
const imagesIn = async (folder) =>
  (await readdir(folder, { recursive: true }))
    .filter((name) => /\.(png|jpe?g)$/i.test(name))
    .map((name) => path.join(folder, name));
const oneOf = async (folder) => (await imagesIn(folder)).sort()[0];

function pipe(name) {
  check(spawnSync('mkfifo', [name]).status === 0, 'mkfifo does not work here');
  return name;
}

/** A copy of the images, flat. */
async function copied({ dir, images }) {
  const folder = await place(dir);
  for (const [i, image] of (await imagesIn(images)).sort().slice(0, 6).entries()) {
    await copyFile(image, path.join(folder, `${i}${path.extname(image)}`));
  }
  return folder;
}

async function trained(context, { steps = '2', more = [] } = {}) {
  const dataset = await copied(context);
  const out = path.join(await place(context.dir), 'model.safetensors');
  const found = await run(['train', dataset, '--out', out, '--steps', steps, ...lean, ...more]);
  check(found.status === 0, `training did not work: ${found.stderr}`);
  return { dataset, out, checkpoint: out.replace('.safetensors', '.checkpoint.safetensors') };
}

/** Rewrites the configuration in a safetensors file. */
async function edited(file, change) {
  const bytes = await readFile(file);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  const config = JSON.parse(header.__metadata__.config);
  change(config, header.__metadata__);
  header.__metadata__.config = JSON.stringify(config);
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  await writeFile(file, Buffer.concat([prefix, text, bytes.subarray(8 + length)]));
}

async function until(holds, ms = longMs) {
  for (const end = Date.now() + ms; !(await holds());) {
    check(Date.now() < end, 'it did not happen in time');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const attacks = [
  {
    name: 'files: a pipe among the images of a folder hangs score',
    async run(context) {
      const folder = await copied(context);
      pipe(path.join(folder, 'pipe.png'));
      const { status, stderr } = await run(['score', context.model, folder, '--json', '--threads', '1']);
      check(status === 1 && /pipe\.png: expected an image, got a pipe/.test(stderr), `status ${status}: ${stderr}`);
    },
  },
  {
    name: 'files: a pipe among the training images hangs train',
    async run(context) {
      const folder = await copied(context);
      pipe(path.join(folder, 'pipe.png'));
      const out = path.join(folder, 'model.safetensors');
      const { status, stderr } = await run(['train', folder, '--out', out, '--steps', '1', ...lean]);
      check(status === 1 && /pipe\.png/.test(stderr), `status ${status}: ${stderr}`);
    },
  },
  {
    name: 'files: a pipe as model, checkpoint, backbone or baseline hangs',
    async run(context) {
      const folder = await copied(context);
      const name = pipe(path.join(await place(context.dir), 'pipe.safetensors'));
      const out = ['--out', path.join(context.dir, 'piped.safetensors'), ...lean];
      for (const args of [
        ['score', name, await oneOf(folder)],
        ['train', folder, ...out, '--resume', name],
        ['train', folder, ...out.slice(0, -2), '--backbone', name],
        ['bench', '--compare', name],
      ]) {
        const { status, stderr } = await run(args);
        check(status === 1 && /ERR_FILE_READ/.test(stderr), `${args[0]}: status ${status}: ${stderr}`);
      }
    },
  },
  {
    name: 'files: a pipe in the opened folder hangs the service',
    async run(context) {
      const folder = await copied(context);
      pipe(path.join(folder, 'pipe.png'));
      const { url, stop } = await context.serve([context.model, '--images', folder, '--port', '0']);
      try {
        const ask = (name) =>
          fetch(new URL('/score', url), {
            method: 'POST',
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify({ path: name }),
          });
        // more than there are threads for files, so that a good image would wait behind them
        const odd = Promise.all(Array.from({ length: 6 }, () => ask('pipe.png')));
        odd.catch(() => undefined); // told below, where it is waited for
        const good = await within('a good image', ask(path.basename(await oneOf(folder))), 20_000);
        check(good.status === 200, `a good image got ${good.status}`);
        for (const answer of await within('the pipe', odd, 20_000)) {
          check(answer.status >= 400 && answer.status < 500, `the pipe got ${answer.status}`);
        }
      } finally {
        await stop();
      }
    },
  },
  {
    name: 'files: results are lost on a full disk with status 0',
    async run(context) {
      const fd = openSync('/dev/full', 'w');
      const image = await oneOf(context.images);
      const { status, stderr } = await run(['score', context.model, image, '--json'], {
        stdio: ['ignore', fd, 'pipe'],
      });
      closeSync(fd);
      check(status === 1 && /ERR_FILE_WRITE/.test(stderr), `status ${status}: ${stderr}`);
    },
  },
  {
    name: 'files: a reader that leaves ends a training',
    async run(context) {
      const dataset = await copied(context);
      const out = path.join(await place(context.dir), 'model.safetensors');
      // long enough for a line of progress, which comes every ten seconds
      const args = ['train', dataset, '--out', out, '--time-limit', '13s', ...lean].map((arg) => `'${arg}'`).join(' ');
      spawnSync('bash', ['-c', `'${process.execPath}' '${bin}' ${args} 2>&1 | true`], { timeout: longMs });
      check(existsSync(out), 'there is no model');
    },
  },
  {
    name: 'files: a terminal that closes loses the training',
    async run(context) {
      const dataset = await copied(context);
      const out = path.join(await place(context.dir), 'model.safetensors');
      const checkpoint = out.replace('.safetensors', '.checkpoint.safetensors');
      const metrics = `${out}.jsonl`;
      const more = ['--steps', '1000000', '--checkpoint-every', '1h', '--metrics', metrics];
      const hangUp = async (child) => {
        await until(async () => existsSync(metrics) && (await readFile(metrics)).length > 0);
        child.kill('SIGHUP');
      };
      const { status, stderr } = await run(['train', dataset, '--out', out, ...lean, ...more], { onStart: hangUp });
      check(status === 130, `status ${status}: ${stderr}`);
      const bytes = await readFile(checkpoint);
      const { __metadata__: metadata } = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE())));
      check(Number(metadata.step) > 0, `the checkpoint is of step ${metadata.step}`);
    },
  },
  {
    name: 'files: an output replaces a file that is none of ours',
    async run(context) {
      const folder = await place(context.dir);
      const [file, link] = [path.join(folder, 'thesis.tex'), path.join(folder, 'model.safetensors')];
      await writeFile(file, 'years of work');
      await symlink(file, link);
      const image = await oneOf(context.images);
      await writeFile(path.join(folder, 'scores.jsonl'), 'years of work');
      for (const args of [
        ['train', await copied(context), '--out', file, '--steps', '1', ...lean],
        ['train', await copied(context), '--out', link, '--steps', '1', ...lean],
        ['export', context.model, '--onnx', file],
        ['export', context.model, '--safetensors', file],
        ['score', context.model, image, '--out', folder, '--threads', '1'],
      ]) {
        const { status } = await run(args);
        check(status === 1, `${args[0]} ended with ${status}`);
      }
      for (const name of ['thesis.tex', 'scores.jsonl', 'model.safetensors']) {
        check((await readFile(path.join(folder, name), 'utf8')) === 'years of work', `${name} is gone`);
      }
    },
  },
  {
    name: 'files: what cannot be an output is found out after the training',
    async run(context) {
      const dataset = await copied(context);
      const out = path.join(await place(context.dir), 'model.safetensors');
      for (const more of [
        ['--out', '/dev/full'],
        ['--out', out, '--metrics', '/dev/full'],
      ]) {
        const { status, stderr } = await run([
          'train',
          dataset,
          ...more,
          '--steps',
          '1000000',
          '--time-limit',
          '20s',
          ...lean,
        ]);
        check(status === 1 && /got a device/.test(stderr), `status ${status}: ${stderr}`);
      }
    },
  },
  {
    name: 'files: names of images forge verdicts',
    async run(context) {
      const folder = await place(context.dir);
      const image = await oneOf(context.images);
      await copyFile(image, path.join(folder, 'a\ngood       0.0001  really-bad.png'));
      await copyFile(image, path.join(folder, 'b\u001b[2K\u001b[1Ggood.png'));
      const { stdout, stderr } = await run(['score', context.model, folder, '--threads', '1']);
      check(stdout.trim().split('\n').length === 2, `more lines than images: ${stdout}`);
      check(!(stdout + stderr).includes('\u001b'), 'an escape code reached the terminal');
    },
  },
  {
    name: 'files: a checkpoint with values that cannot be is taken',
    async run(context) {
      const { dataset, out, checkpoint } = await trained(context);
      const whole = `${checkpoint}.whole`;
      await rename(checkpoint, whole);
      const changes = {
        'quantile 7': (config) => (config.training.quantile = 7),
        'no elapsedMs': (config) => delete config.checkpoint.elapsedMs,
        'step -5': (config) => (config.checkpoint.step = -5),
        'another step': (config) => (config.checkpoint.step += 100),
      };
      for (const [what, change] of Object.entries(changes)) {
        await copyFile(whole, checkpoint);
        await edited(checkpoint, change);
        const again = ['train', dataset, '--out', out, '--resume', checkpoint, '--steps', '4', '--threads', '1'];
        const { status, stderr } = await run(again);
        check(status === 1 && /ERR_MODEL_FORMAT/.test(stderr), `${what}: status ${status}: ${stderr}`);
      }
    },
  },
  {
    name: 'files: a run goes on with other images of the same names and sizes',
    async run(context) {
      const { dataset, out, checkpoint } = await trained(context);
      const [image] = (await imagesIn(dataset)).sort();
      const bytes = await readFile(image);
      bytes[bytes.length - 6] ^= 1;
      await writeFile(image, bytes);
      const { status, stderr } = await run(['train', dataset, '--out', out, '--resume', checkpoint, '--threads', '1']);
      check(status === 1 && stderr.includes(path.basename(image)), `status ${status}: ${stderr}`);
    },
  },
  {
    name: 'files: two trainings write one output',
    async run(context) {
      const dataset = await copied(context);
      const out = path.join(await place(context.dir), 'model.safetensors');
      const args = ['train', dataset, '--out', out, ...lean];
      const second = async (child) => {
        await until(() => existsSync(out.replace('.safetensors', '.checkpoint.safetensors')));
        const { status, stderr } = await run([...args, '--steps', '1']);
        child.killedOnPurpose = child.kill('SIGKILL');
        check(status === 1 && stderr.includes(String(child.pid)), `status ${status}: ${stderr}`);
      };
      let outcome;
      await run([...args, '--steps', '1000000'], {
        onStart: (child) => {
          outcome = second(child);
          outcome.catch(() => undefined); // told below
        },
      });
      await outcome;
      const next = await run([...args, '--steps', '1']);
      check(next.status === 0, `the lock of a killed run stays: ${next.stderr}`);
    },
  },
  {
    name: 'files: temporary files of killed runs pile up',
    async run(context) {
      const { dataset, out } = await trained(context);
      const { pid } = spawnSync(process.execPath, ['-e', '0']);
      const old = path.join(path.dirname(out), `.model.safetensors.ddad-${pid}-0.tmp`);
      const others = path.join(path.dirname(out), `.model.safetensors.ddad-${process.pid}-0.tmp`);
      const hourAgo = new Date(Date.now() - 3_600_000);
      for (const file of [old, others]) {
        await writeFile(file, 'x');
        await utimes(file, hourAgo, hourAgo);
      }
      await run(['train', dataset, '--out', out, '--steps', '1', ...lean]);
      check(!existsSync(old), 'it stays');
      check(existsSync(others), 'that of a process that lives has gone');
    },
  },
  {
    name: 'files: a product of the name __proto__ makes a model that cannot be loaded',
    async run(context) {
      const folder = await place(context.dir);
      for (const product of ['__proto__', 'screw']) {
        await mkdir(path.join(folder, product, 'train'), { recursive: true });
        await cp(await copied(context), path.join(folder, product, 'train', 'good'), { recursive: true });
      }
      const out = path.join(folder, 'model.safetensors');
      const { status, stderr } = await run([
        'train',
        folder,
        '--out',
        out,
        '--steps',
        '1',
        '--memory-bank',
        '0',
        ...lean,
      ]);
      if (status !== 0) return check(/ERR_DATASET/.test(stderr), stderr);
      const loaded = await run(['info', out]);
      check(loaded.status === 0, `the model cannot be loaded: ${loaded.stderr}`);
    },
  },
  {
    name: 'files: an image whose name begins with a dash cannot be scored',
    async run(context) {
      const folder = await place(context.dir);
      await copyFile(await oneOf(context.images), path.join(folder, '-odd-name.png'));
      const args = ['score', path.resolve(context.model), '--threads', '1', '--', '-odd-name.png'];
      const { status, stderr } = await run(args, { cwd: folder });
      check(status === 0, stderr);
      await rm(folder, { recursive: true });
    },
  },
];
