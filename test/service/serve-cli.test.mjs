import assert from 'node:assert/strict';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { describe, test } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import { makeDataset, root, run, start, temporaryFolder, trainTiny, until } from '../helpers/common.mjs';
import { client, halfHead, halfUpload, isClosed } from '../helpers/service.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 6);
const model = at('part.safetensors');
await trainTiny({ Trainer }, parts, model);
const bad = await readFile(at('parts', 'test', 'bad', '00.png'));
const detector = await Detector.load(model, { threads: 1 });
const { score } = await detector.score(bad);
detector.dispose();

/** The address in what a child process prints, once it is there. */
async function addressOf(child, finished, output = 'stderr') {
  let text = '';
  child[output].on('data', (part) => (text += part));
  let ended = false;
  void finished.then(() => (ended = true));
  await until(() => ended || /http:\/\/[\d.]+:\d+/.test(text));
  if (ended) throw new Error(`the service has ended: ${JSON.stringify(await finished)}`);
  return /http:\/\/[\d.]+:\d+/.exec(text)[0];
}

/** `ddad-native serve` on a free port. */
async function serve(t, ...flags) {
  const { child, finished } = start(['serve', model, '--port', '0', '--threads', '1', ...flags]);
  t.after(() => child.kill('SIGKILL'));
  const url = await addressOf(child, finished, flags.includes('--json') ? 'stdout' : 'stderr');
  return { child, finished, ...client(url) };
}

describe('ddad-native serve', () => {
  test('prints where it listens, in one line, and serves until a signal', async (t) => {
    for (const signal of ['SIGTERM', 'SIGINT']) {
      const { child, finished, url, upload, ask } = await serve(t);
      assert.equal((await upload(bad)).body.score, score);
      const { model: name, device, limits } = (await ask('/healthz')).body;
      assert.equal(name, 'part.safetensors');
      const { engine } = JSON.parse((await run(['info', '--json'])).stdout);
      const { name: processor, isa } = engine.cpu;
      assert.deepEqual(device, { name: 'auto', available: ['cpu'], processor, isa });
      assert.deepEqual(limits, { bytes: 50_000_000, pixels: 100_000_000 });
      child.kill(signal);
      const { code, stdout, stderr } = await finished;
      assert.deepEqual([code, stdout, stderr], [0, '', `part.safetensors: ready on ${url}\n`], signal);
    }
  });

  test('does as its options say', async (t) => {
    const flags = ['--images', parts, '--threshold', '1e6', '--max-upload', '40kB', '--max-pixels', '5000', '--json'];
    const batching = ['--max-queue', '3', '--max-batch', '2'];
    const { child, finished, url, ask, upload, byPath } = await serve(t, ...flags, ...batching);
    const { body } = await byPath('test/bad/00.png');
    assert.deepEqual([body.score, body.threshold, body.anomalous], [score, 1e6, false]);
    assert.equal((await byPath('../part.safetensors')).status, 403);
    assert.equal((await upload(Buffer.alloc(40_001))).status, 413);
    assert.deepEqual((await ask('/healthz')).body.limits, { bytes: 40_000, pixels: 5000 });
    child.kill('SIGTERM');
    const { code, stdout, stderr } = await finished;
    assert.deepEqual([code, stderr], [0, '']);
    assert.deepEqual(JSON.parse(stdout), { address: url, model: 'part.safetensors' });
  });

  test('refuses too many pixels', async (t) => {
    const { upload } = await serve(t, '--max-pixels', String(72 * 66 - 1));
    assert.equal((await upload(bad)).status, 413);
  });

  test('finishes what is in flight when a signal comes, and refuses what comes after it', async (t) => {
    const { child, finished, url } = await serve(t);
    const begun = await halfUpload(url, bad);
    const late = await halfHead(url, '/healthz');
    child.kill('SIGTERM');
    await until(() => isClosed(url));
    assert.match(await late.finish(), /^HTTP\/1\.1 503 [^]*"ERR_CLOSING"/);
    assert.equal(child.exitCode, null);
    const { status, body } = await begun.finish();
    assert.deepEqual([status, body.score], [200, score]);
    assert.deepEqual((await finished).code, 0);
  });

  test('is ended by a crash, not kept spinning in a handler', async (t) => {
    for (const signal of ['SIGSEGV', 'SIGFPE', 'SIGBUS', 'SIGILL', 'SIGABRT']) {
      const { child, finished } = await serve(t);
      child.kill(signal);
      assert.equal((await finished).code, signal);
    }
  });

  test('says what is wrong with its command line, and does not start', async (t) => {
    const { url } = await serve(t);
    const { port } = new URL(url);
    for (const [flags, code, message] of [
      [['--port', '70000'], 2, /--port: expected a whole number from 0 to 65535, got "70000"/],
      [['--port', '1.5'], 2, /--port/],
      [['--port', port], 2, /--host, --port: .*(in use|EADDRINUSE)/],
      [['--host', '203.0.113.7', '--insecure'], 2, /--host, --port: .*EADDRNOTAVAIL/],
      [['--images', at('nowhere')], 2, /--images: expected a folder/],
      [['--images', model], 2, /--images: expected a folder/],
      [['--max-upload', 'much'], 2, /--max-upload: expected a size in B, kB, MB or GB such as 50MB, got "much"/],
      [['--max-upload', '0'], 2, /--max-upload/],
      [['--max-pixels', '0'], 2, /--max-pixels: expected a whole number from 1 to/],
      [['--max-queue', '-1'], 2, /--max-queue: expected/],
      [['--max-batch', '0'], 2, /--max-batch: expected/],
      [['--maxupload', '1'], 2, /unknown option "--maxupload"; did you mean/],
    ]) {
      const found = await run(['serve', model, '--threads', '1', ...flags]);
      assert.equal(found.code, code, `${flags}: ${found.stderr}`);
      assert.match(found.stderr, message);
      assert.equal(found.stdout, '');
    }
    const { code, stderr } = await run(['serve', at('nowhere.safetensors'), '--port', '0']);
    assert.equal(code, 1);
    assert.match(stderr, /ERR_FILE_READ/);
  });
});

describe('a copy of examples/service', async () => {
  const copy = at('copy');
  const source = path.join(root, 'examples', 'service');
  await cp(source, copy, { recursive: true });
  const { dependencies } = JSON.parse(await readFile(path.join(source, 'package.json'), 'utf8'));
  // What `npm install` would do with the dependencies that its package.json names, and no others.
  for (const name of Object.keys(dependencies)) {
    const link = path.join(copy, 'node_modules', name);
    await mkdir(path.dirname(link), { recursive: true });
    await symlink(name === 'ddad-native' ? root : path.join(root, 'node_modules', name), link);
  }

  /** Runs a program of the copy. */
  function launch(t, file, args = [], env = {}) {
    const child = spawn(process.execPath, [path.join(copy, file), ...args], { env: { ...process.env, ...env } });
    t.after(() => child.kill('SIGKILL'));
    const finished = once(child, 'exit').then(([code, signal]) => code ?? signal);
    return { child, finished };
  }

  test('runs, and names the versions that this package uses', async (t) => {
    const own = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8'));
    for (const [name, range] of Object.entries(dependencies)) {
      assert.equal(range, name === 'ddad-native' ? `^${own.version}` : own.dependencies[name], name);
    }
    const { child, finished } = launch(t, 'server.mjs', [model, parts], { PORT: '0' });
    const { upload, byPath } = client(await addressOf(child, finished));
    assert.equal((await upload(bad)).body.score, score);
    assert.equal((await byPath('test/bad/00.png')).body.score, score);
    child.kill('SIGTERM');
    assert.equal(await finished, 0);
  });

  test('has a route of its own behind the checks of the service', async (t) => {
    const { child, finished } = launch(t, 'extended.mjs', [model], { PORT: '0', TOKEN: 'a-token-of-its-own' });
    const url = await addressOf(child, finished);
    assert.equal((await fetch(`${url}/queue`)).status, 401);
    const answer = await fetch(`${url}/queue`, { headers: { authorization: 'Bearer a-token-of-its-own' } });
    assert.deepEqual(await answer.json(), { queued: 0, running: 0 });
    child.kill('SIGTERM');
    assert.equal(await finished, 0);
  });

  test('cuts off what takes too long after a signal', async (t) => {
    await writeFile(
      path.join(copy, 'own.mjs'),
      `import { Detector } from 'ddad-native';
       import { startService } from 'ddad-native/service';
       const detector = await Detector.load(${JSON.stringify(model)}, { threads: 1 });
       console.error(await startService(detector, { port: 0, closeMs: 300 }));
       process.on('exit', () => {
         try { detector.memoryUsage } catch ({ code }) { console.error(code) }
       });`,
    );
    const { child, finished } = launch(t, 'own.mjs');
    let stderr = '';
    child.stderr.on('data', (text) => (stderr += text));
    const read = once(child.stderr, 'end'); // may be later than the exit
    const url = await addressOf(child, finished);
    const { answered } = await halfUpload(url, bad);
    await until(async () => (await client(url).metrics())('ddad_upload_bytes') > 0); // it has arrived
    const begin = performance.now();
    child.kill('SIGTERM');
    await assert.rejects(answered);
    assert.equal(await finished, 0);
    assert.ok(performance.now() - begin >= 290, 'timers count whole milliseconds');
    await read;
    assert.match(stderr, /ERR_DISPOSED/);
  });
});
