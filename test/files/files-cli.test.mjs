// What the command line does with hostile files and names, full disks, readers that leave and terminals that close.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import { copyFile, cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import outputs from '../../dist/cli/outputs.js';
import {
  makeDataset,
  pattern,
  png,
  readSafetensors,
  root,
  run,
  smallDisk,
  start,
  temporaryFolder,
  tinyFlags,
  until,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 6, 20, 20);
const good = path.join(parts, 'train', 'good', '00.png');
const model = at('model.safetensors');
const lean = [...tinyFlags, '--backbone', 'none', '--memory-bank', '0'];
const train = (out, ...more) => ['train', parts, '--out', out, ...lean, ...more];
const trained = await run(train(model, '--steps', '2'));
assert.equal(trained.code, 0, trained.stderr);

const bin = path.join(root, 'bin', 'ddad-native.js');

/** Runs the command line with its standard output appended to a file. */
function appendTo(name, args) {
  const fd = openSync(name, 'a');
  const { status, stderr } = spawnSync(process.execPath, [bin, ...args], {
    stdio: ['ignore', fd, 'pipe'],
    encoding: 'utf8',
  });
  closeSync(fd);
  return { status, stderr };
}

const stepOf = async (checkpoint) =>
  JSON.parse((await readSafetensors(checkpoint)).header.__metadata__.config).checkpoint.step;

test('a training outlives the readers of its output', async () => {
  const out = at('unread.safetensors');
  // both in one pipe, which closes after the first line, as 2>&1 | head -1 does
  const args = train(out, '--steps', '40', '--json').map((arg) => `'${arg}'`);
  const shell = spawnSync(
    'bash',
    ['-c', `'${process.execPath}' '${bin}' ${args.join(' ')} 2>&1 | true; echo \${PIPESTATUS[0]}`],
    {
      encoding: 'utf8',
    },
  );
  assert.equal(shell.stdout.trim(), '0', shell.stderr);
  assert.ok(existsSync(out));
  assert.equal(await stepOf(at('unread.checkpoint.safetensors')), 40);
  const lost = start(train(at('lost.safetensors'), '--steps', '40'));
  lost.child.stderr.destroy();
  assert.equal((await lost.finished).code, 0);
  assert.ok(existsSync(at('lost.safetensors')));
});

test('progress that cannot be written is no reason to stop', { skip: !existsSync('/dev/full') }, async () => {
  const out = at('full-log.safetensors');
  const log = openSync('/dev/full', 'w');
  const child = spawn(process.execPath, [bin, ...train(out, '--steps', '4')], { stdio: ['ignore', 'ignore', log] });
  closeSync(log);
  assert.equal(await new Promise((resolve) => child.on('close', resolve)), 0);
  assert.ok(existsSync(out));
});

test('every signal that stops a training leaves a checkpoint of its last step', async () => {
  for (const signal of ['SIGHUP', 'SIGTERM', 'SIGINT']) {
    const out = at(`${signal}.safetensors`);
    const [checkpoint, metrics] = [at(`${signal}.checkpoint.safetensors`), at(`${signal}.jsonl`)];
    const { child, finished } = start(train(out, '--steps', '1000000', '--metrics', metrics));
    await until(async () => existsSync(metrics) && (await stat(metrics)).size > 0);
    child.kill(signal);
    const { code, stderr } = await finished;
    assert.equal(code, 130, stderr);
    assert.match(stderr, /interrupted; go on with --resume .*checkpoint\.safetensors/);
    const lines = (await readFile(metrics, 'utf8')).trim().split('\n');
    const { step } = JSON.parse(lines.at(-1));
    assert.ok(step > 0);
    assert.equal(await stepOf(checkpoint), step, signal);
    assert.ok(!existsSync(`${out}.lock`) && !existsSync(`${checkpoint}.lock`));
  }
});

/** Runs a command in a terminal, its own (`--own`) or one that is no more than its output, and closes it on the way. */
const inTerminal = `
import fcntl, os, pty, subprocess, sys, termios, time
own, started, command = sys.argv[1] == '--own', sys.argv[2], sys.argv[3:]
ours, theirs = pty.openpty()
def begin():
    os.setsid()
    if own: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=begin)
os.close(theirs)
while child.poll() is None and not (os.path.exists(started) and os.path.getsize(started)): time.sleep(0.02)
os.close(ours)
sys.exit(child.wait() % 256)
`;
const noPython = spawnSync('python3', ['-c', 'import pty']).status !== 0 && 'there is no Python here';

test('a terminal that closes ends a training in it, with a checkpoint, and no other', { skip: noPython }, async () => {
  for (const [kind, length, status] of [
    ['--own', ['--steps', '1000000'], 130],
    ['--output', ['--time-limit', '2s'], 0],
  ]) {
    const out = at(`terminal${kind}.safetensors`);
    const metrics = `${out}.jsonl`;
    const args = train(out, ...length, '--metrics', metrics, '--checkpoint-every', '1h');
    const found = spawnSync('python3', ['-c', inTerminal, kind, metrics, process.execPath, bin, ...args]);
    assert.equal(found.status, status, `${kind}: ${found.stderr}`);
    assert.ok((await stepOf(out.replace('.safetensors', '.checkpoint.safetensors'))) > 0);
    assert.equal(existsSync(out), status === 0);
  }
});

test('advice names no checkpoint that is gone', async () => {
  const checkpoint = at('gone', 'run.checkpoint.safetensors');
  const options = ['--steps', '1000000', '--checkpoint', checkpoint, '--checkpoint-every', '1h'];
  const { child, finished } = start(train(at('gone.safetensors'), ...options));
  await until(() => existsSync(checkpoint));
  await new Promise((resolve) => setTimeout(resolve, 300));
  await rm(at('gone'), { recursive: true });
  await writeFile(at('gone'), 'in its place');
  child.kill('SIGINT');
  const { stderr } = await finished;
  assert.doesNotMatch(stderr, /go on with/);
  assert.match(stderr, /interrupted; its checkpoint .* is gone, so train anew/);
});

test('results on a disk that fills up end it with status 1', async (t) => {
  const full = appendTo('/dev/full', ['score', model, good, '--json']);
  assert.equal(full.status, 1);
  assert.match(full.stderr, /^ddad-native: ERR_FILE_WRITE: standard output: cannot be written: ENOSPC/m);
  for (const args of [['info'], ['--help'], ['--version']]) {
    const { status, stderr } = appendTo('/dev/full', args);
    assert.equal(status, 1, `${args}: ${stderr}`);
    assert.match(stderr, /ERR_FILE_WRITE: standard output/);
  }
  const disk = at('disk');
  if (!(await smallDisk(t, disk, '4k'))) return t.skip('a small file system cannot be mounted here');
  // Room for a part of the last line: the system takes it without an error.
  const out = path.join(disk, 'scores.jsonl');
  const line = (await run(['score', model, good, '--json'])).stdout;
  await writeFile(out, 'x'.repeat(4096 - line.length + 10));
  const cut = appendTo(out, ['score', model, good, '--json']);
  assert.equal(cut.status, 1, cut.stderr);
  assert.match(cut.stderr, /ERR_FILE_WRITE: standard output/);
});

test('a reader that has seen enough ends it quietly, and leaves no half files', async () => {
  const many = at('many');
  await mkdir(many);
  for (let i = 0; i < 40; i++) await copyFile(good, path.join(many, `${i}.png`));
  const found = at('cut');
  const command = `'${process.execPath}' '${bin}' score '${model}' '${many}' --json --out '${found}' | head -1; echo \${PIPESTATUS[0]}`;
  const shell = spawnSync('bash', ['-c', command], { encoding: 'utf8' });
  const [first, status] = shell.stdout.trim().split('\n');
  assert.ok(Number.isFinite(JSON.parse(first).score));
  assert.equal(status, '141', shell.stderr);
  assert.doesNotMatch(shell.stderr, /ERR_|Error/);
  const names = await readdir(found);
  assert.ok(
    names.every((name) => /^\d+\.heatmap\.png$/.test(name)),
    names.join(),
  );
});

test('overlays and scores.jsonl are whole or not there', async (t) => {
  const disk = at('small');
  if (!(await smallDisk(t, disk, '16k'))) return t.skip('a small file system cannot be mounted here');
  await png(pattern(300, 300)).toFile(at('large.png'));
  const { code, stderr } = await run(['score', model, good, at('large.png'), '--out', path.join(disk, 'found')]);
  assert.equal(code, 1);
  assert.match(stderr, /^ddad-native: ERR_FILE_WRITE: .*large\.heatmap\.png: cannot be written: ENOSPC/m);
  const names = await readdir(path.join(disk, 'found'));
  assert.ok(
    names.every((name) => name === '00.heatmap.png'),
    names.join(),
  );
});

test('pipes, sockets and devices hang nothing', async () => {
  const odd = at('odd');
  await cp(parts, odd, { recursive: true });
  const pipe = path.join(odd, 'train', 'good', 'pipe.png');
  spawnSync('mkfifo', [pipe]);
  const scored = await run(['score', model, odd, '/dev/zero', '--json']);
  assert.equal(scored.code, 1);
  const lines = scored.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.filter(({ error }) => error).map(({ image, error }) => [image, error.code]),
    [
      [pipe, 'ERR_IMAGE'],
      ['/dev/zero', 'ERR_IMAGE'],
    ],
  );
  assert.equal(lines.length, 9);
  const refused = [
    [
      ['train', odd, '--out', at('odd.safetensors'), ...lean],
      /ERR_DATASET: .*pipe\.png: expected an image, got a pipe/,
    ],
    [['score', pipe, good], /ERR_FILE_READ: .*expected a regular file/],
    [train(at('w.safetensors'), '--init', pipe), /ERR_FILE_READ: .*got a pipe/],
    [['train', parts, '--out', at('x.safetensors'), '--backbone', pipe], /ERR_FILE_READ: .*expected a regular file/],
    [['verify', pipe], /ERR_FILE_READ/],
    [['import', pipe, '--out', at('y.safetensors')], /ERR_FILE_READ/],
  ].map(async ([args, message]) => {
    const { code, stderr } = await run(args);
    assert.equal(code, 1, stderr);
    assert.match(stderr, message);
  });
  await Promise.all(refused);
  const truth = path.join(odd, 'ground_truth', 'bad');
  await mkdir(truth, { recursive: true });
  spawnSync('mkfifo', [path.join(truth, '00_mask.png')]);
  await rm(pipe);
  const evaluated = await run(['evaluate', model, odd]);
  assert.match(
    evaluated.stderr,
    /ERR_DATASET: .*none of the test images \(1\) can be read: .*00_mask\.png: expected an image, got a pipe/,
  );
});

test('what cannot be an output is refused before the first step', { skip: !existsSync('/dev/full') }, async () => {
  spawnSync('mkfifo', [at('out.pipe')]);
  await Promise.all(
    [
      ['--out', '/dev/full', '--force'],
      ['--out', at('out.pipe')],
      ['--out', at('y.safetensors'), '--checkpoint', '/dev/full'],
      ['--out', at('y.safetensors'), '--checkpoint', at('y2.safetensors'), '--metrics', '/dev/full'],
    ].map(async (more) => {
      const { code, stderr } = await run(['train', parts, ...lean, '--steps', '1000000', ...more]);
      assert.equal(code, 1, stderr);
      assert.match(stderr, /ERR_FILE_WRITE: .*expected a regular file or none, got a (device|pipe)/);
    }),
  );
  assert.ok(!existsSync(at('y2.safetensors')));
  assert.ok(!existsSync(at('y.checkpoint.safetensors')));
});

test('no output replaces a file that is not of its kind, unless it is told to', async () => {
  const precious = at('precious');
  await writeFile(precious, 'precious');
  const found = at('found');
  await mkdir(found);
  const names = ['scores.jsonl', '00.heatmap.png', '00.reconstruction.png', 'sample-000.png', 'metrics.json'];
  const own = names.map((name) => path.join(found, name));
  own.push(path.join(found, 'report.html'), at('new.onnx'), `${at('new.onnx')}.data`, at('weights.safetensors'));
  for (const file of own) await writeFile(file, 'precious');
  const refusing = [
    train(precious, '--steps', '1'),
    train(at('z.safetensors'), '--steps', '1', '--checkpoint', precious),
    ['fit-padim', model, parts, '--out', precious],
    ['export', model, '--onnx', precious],
    ['export', model, '--onnx', at('absent.onnx'), '--safetensors', precious],
    ['import', model, '--out', precious],
    ['bench', 'unet', '--quick', '--json', precious],
  ];
  const writing = [
    ['score', model, good, '--out', found],
    ['reconstruct', model, good, '--out', found, '--method', 'ddim', '--step', '2', '--respacing', '10'],
    ['sample', model, '--out', found, '--respacing', '2'],
    ['evaluate', model, parts, '--out', found],
    ['export', model, '--onnx', at('new.onnx'), '--external-data', '--safetensors', at('weights.safetensors')],
  ];
  for (const args of [...refusing, ...writing]) {
    const { code, stderr } = await run(args);
    assert.equal(code, 1, `${args}: ${stderr}`);
    assert.match(stderr, /ERR_FILE_WRITE: .*it exists, and is no .*; --force replaces it/);
  }
  assert.ok(!existsSync(at('absent.onnx')), 'all is looked at before anything is written');
  for (const file of [precious, ...own]) assert.equal(await readFile(file, 'utf8'), 'precious', file);

  for (const again of [['--force'], []]) {
    await Promise.all(
      writing.map(async (args) => {
        const { code, stderr } = await run([...args, ...again]);
        assert.equal(code, 0, `${args} ${again}: ${stderr}`);
      }),
    );
    for (const file of own) assert.notEqual(await readFile(file, 'latin1'), 'precious', file);
  }
  const { checkReplaceable } = outputs;
  const files = {
    model,
    checkpoint: at('model.checkpoint.safetensors'),
    weights: at('weights.safetensors'),
  };
  for (const [kind, file] of Object.entries(files)) {
    for (const other of [...Object.keys(files), 'graph']) {
      // a checkpoint is the only copy of a run, and weights are no model: each takes the place of its own kind alone
      if (other === kind) await checkReplaceable(file, other, false);
      else await assert.rejects(checkReplaceable(file, other, false), { code: 'ERR_FILE_WRITE' }, `${kind}, ${other}`);
    }
  }
  await assert.rejects(checkReplaceable(good, 'picture', false), { code: 'ERR_FILE_WRITE' }, 'a picture of others');
  await writeFile(precious, '');
  for (const kind of ['model', 'graph', 'metrics', 'picture']) await checkReplaceable(precious, kind, false);
});

test('an output folder in the scored one is not scored the next time', async () => {
  const photos = at('photos');
  await mkdir(photos);
  for (const name of ['a.png', 'b.heatmap.png']) await copyFile(good, path.join(photos, name));
  const scored = async (...args) => {
    const { code, stdout, stderr } = await run(['score', model, photos, '--json', ...args]);
    assert.equal(code, 0, stderr);
    const lines = stdout.trim().split('\n');
    return { names: lines.map((line) => path.relative(photos, JSON.parse(line).image)), stderr };
  };
  // a photograph may have any name
  const own = ['a.png', 'b.heatmap.png'];
  for (const out of [path.join(photos, 'found', 'today'), path.join(photos, 'found', 'later'), photos]) {
    const { names } = await scored('--out', out);
    assert.deepEqual(names, own);
  }
  const { names, stderr } = await scored();
  assert.deepEqual(names, own);
  assert.match(stderr, /^left out: 6 pictures of ddad-native$/m);

  const clean = path.join(photos, 'clean');
  const lean = ['--method', 'ddim', '--step', '2', '--respacing', '10', '--previews', '1', '--json'];
  for (let i = 0; i < 2; i++) {
    const { stdout, stderr: said } = await run(['reconstruct', model, photos, '--out', clean, ...lean]);
    assert.equal(stdout.trim().split('\n').length, 2, said);
  }
  // reconstructions are images that one may well want to score
  assert.deepEqual((await scored('--out', clean)).names.length, 2 + 4);
});

test('a data file beside a graph that is not there is not ours', async () => {
  await writeFile(at('lone.onnx.data'), 'precious');
  const { code, stderr } = await run(['export', model, '--onnx', at('lone.onnx'), '--external-data']);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /lone\.onnx\.data: cannot be written: it exists/);
  assert.equal(await readFile(at('lone.onnx.data'), 'utf8'), 'precious');
});

test('of two trainings with one output the second is refused, until the first has gone', async () => {
  const out = at('shared.safetensors');
  const { child, finished } = start(train(out, '--steps', '1000000'));
  await until(() => existsSync(at('shared.checkpoint.safetensors')));
  for (const more of [
    ['--out', out],
    ['--out', at('other.safetensors'), '--checkpoint', at('shared.checkpoint.safetensors')],
  ]) {
    const { code, stderr } = await run(['train', parts, ...lean, '--steps', '1', ...more]);
    assert.equal(code, 1);
    assert.match(stderr, new RegExp(`ERR_FILE_WRITE: .*process ${child.pid} on .* has been training to it since`));
  }
  child.kill('SIGKILL');
  await finished;
  assert.ok(existsSync(`${out}.lock`), 'it could not let go of it');
  const next = await run(train(out, '--steps', '1'));
  assert.equal(next.code, 0, next.stderr);
  assert.ok(!existsSync(`${out}.lock`));
});

test('words behind -- are names, whatever they look like', async () => {
  await copyFile(good, at('-odd-name.png'));
  await copyFile(good, at('007'));
  const { code, stdout, stderr } = await run(['score', model, '--json', '--', '-odd-name.png', '007', '--json'], {
    cwd: folder,
  });
  assert.equal(code, 1, stderr);
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.map(({ image, error }) => [image, error?.code]),
    [
      ['-odd-name.png', undefined],
      ['007', undefined],
      ['--json', 'ERR_IMAGE'],
    ],
  );
  const more = await run(['info', model, '--', '--more']);
  assert.equal(more.code, 2);
  assert.match(more.stderr, /unexpected argument "--more"/);
});

test('names of files and products cannot forge lines', async () => {
  const forged = at('forged');
  await mkdir(forged);
  const names = ['a.png\ngood       0.1  b.png', 'c\u001b[2K\u001b[1Ggood.png', 'd\u202egnp.png', 'e\n.png'];
  for (const name of names) await copyFile(good, path.join(forged, name));
  await writeFile(path.join(forged, 'x\nddad-native: ERR_NONE: all is well.png'), 'no image');
  const { stdout, stderr } = await run(['score', model, forged]);
  assert.equal(stdout.trim().split('\n').length, 4, stdout);
  // eslint-disable-next-line no-control-regex
  assert.doesNotMatch(stdout + stderr, /[\u0000-\u0009\u000b-\u001f\u202e]/);
  assert.match(stdout, /a\.png\\u000agood/);
  assert.doesNotMatch(stderr, /^ddad-native: ERR_NONE/m);
  const json = await run(['score', model, forged, '--json']);
  const images = json.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).image);
  assert.ok(
    names.slice(0, 3).every((name) => images.includes(path.join(forged, name))),
    'JSON has the names themselves',
  );
});
