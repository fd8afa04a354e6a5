// The runner of the attacks: what it says of those that succeed, hang or crash, and what it leaves behind.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { root, run, temporaryFolder, until } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const runner = path.join(root, 'test', 'attack', 'run.mjs');
await mkdir(at('tmp'));

async function attack(source, ...flags) {
  await mkdir(at('from'), { recursive: true });
  await writeFile(at('from', 'attacks-a.mjs'), source);
  const args = ['--from', at('from'), '--json', at('out.json'), ...flags];
  const result = await run(args, { bin: runner, env: { TMPDIR: at('tmp') } });
  return { ...result, json: JSON.parse(await readFile(at('out.json'), 'utf8')) };
}

const alive = (pid) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

test('an attack that succeeds, hangs, blocks or crashes has failed, and the others go on', async () => {
  const { code, stdout, json } = await attack(`
    import { spawn } from 'node:child_process';
    import { writeFileSync } from 'node:fs';
    export const attacks = [
      { name: 'holds', run: async () => '7 MB' },
      { name: 'succeeds', run: async () => { throw new Error('got\\nin'); } },
      { name: 'hangs', timeoutMs: 200, run: () => new Promise((resolve) => setTimeout(resolve, 60_000)) },
      { name: 'blocks', timeoutMs: 200, run: () => { for (;;); } },
      { name: 'crashes', run: () => process.abort() },
      { name: 'leaves something', run: async () => {
        writeFileSync(${JSON.stringify(at('pid'))}, String(spawn('sleep', ['600']).pid));
      } },
    ];`);
  assert.equal(code, 1);
  const lines = stdout.trimEnd().split('\n');
  assert.equal(lines.length, 7);
  assert.match(lines[0], /^held .* a: holds: 7 MB$/);
  assert.match(lines[1], /^FAILED .* a: succeeds: got in$/);
  assert.equal(lines[6], '6 attacks, 4 failed');
  assert.deepEqual(json, {
    attacks: 6,
    failed: [
      { name: 'a: succeeds', reason: 'got\nin' },
      { name: 'a: hangs', reason: 'it took more than 0.2 s' },
      { name: 'a: blocks', reason: 'it took more than 0.2 s' },
      { name: 'a: crashes', reason: 'its process ended with SIGABRT' },
    ],
  });
  const pid = Number(await readFile(at('pid'), 'utf8'));
  await until(() => !alive(pid));
  assert.deepEqual(await readdir(at('tmp')), []);
});

test('an attack has a model, images, the command line and a service; --only chooses', async () => {
  const { code, stdout, stderr, json } = await attack(
    `
    import assert from 'node:assert/strict';
    import { readdir } from 'node:fs/promises';
    export const attacks = [
      { name: 'another', run: () => { throw new Error('not chosen'); } },
      { name: 'uses all', async run({ dir, model, images, bad, cli, serve }) {
        assert.deepEqual(await readdir(dir), []);
        assert.equal((await readdir(images)).length, 10);
        const found = await cli(['score', model, bad, images, '--json', '--threads', '1']);
        assert.equal(found.status, 0, found.stderr);
        assert.equal(found.stdout.trimEnd().split('\\n').length, 11);
        assert.ok(found.maxRssKb > 20_000 && found.ms > 0, JSON.stringify(found));
        assert.equal((await cli(['nothing'])).status, 2);
        const killed = await cli(['serve', model, '--port', '0'], { timeoutMs: 1000 });
        assert.deepEqual([killed.status, killed.signal, killed.timedOut], [null, 'SIGKILL', true]);
        const service = await serve(['--threshold', '1']);
        assert.equal((await fetch(service.url + '/healthz')).status, 200);
        assert.ok(await service.rssKb() > 20_000);
        assert.equal((await service.stop()).status, 0);
        await assert.rejects(serve(['--max-upload', 'much']), { status: 2 });
      } },
    ];`,
    '--only',
    'uses',
  );
  assert.deepEqual(json, { attacks: 1, failed: [] }, stdout + stderr);
  assert.equal(code, 0);
});

test('nothing beyond this machine is attacked', async () => {
  const { code, stderr } = await run(['--url', 'http://example.com/'], { bin: runner });
  assert.equal(code, 1);
  assert.match(stderr, /--url: expected a loopback address, got example.com/);
});
