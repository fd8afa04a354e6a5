// Reading, writing and locking files: what hangs, what is lost, what stays behind.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, watch } from 'node:fs';
import { chown, cp, lstat, mkdir, readdir, readFile, symlink, utimes, writeFile } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import imagesFolder from '../../dist/service/images-folder.js';
import { Trainer } from '../../dist/index.js';
import files from '../../dist/files/write.js';
import leftovers from '../../dist/files/leftovers.js';
import locks from '../../dist/files/lock.js';
import printing from '../../dist/base/printable.js';
import reading from '../../dist/files/read.js';
import {
  makeDataset,
  readSafetensors,
  smallDisk,
  temporaryFolder,
  tiny,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const { readImageFile } = imagesFolder;
const { FileLock } = locks;
const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 4, 20, 20);

/** The number of a process that has ended. */
const deadPid = () => spawnSync(process.execPath, ['-e', '0']).pid;
const longAgo = new Date(Date.now() - 3_600_000);

async function aged(name, text = 'x') {
  await writeFile(name, text);
  await utimes(name, longAgo, longAgo);
  return name;
}

test('only regular files are read, and opening never waits', async () => {
  spawnSync('mkfifo', [at('pipe')]);
  const server = net.createServer().listen(at('socket'));
  await new Promise((resolve) => server.once('listening', resolve));
  for (const [name, found] of [
    [at('pipe'), 'pipe'],
    [at('socket'), 'socket'],
    ['/dev/zero', 'device'],
    [folder, 'folder'],
  ]) {
    await assert.rejects(reading.readRegular(name), { found, message: `expected a regular file, got a ${found}` });
    await assert.rejects(reading.readTextFile(name), { code: 'ERR_FILE_READ' });
  }
  server.close();
  await symlink(at('pipe'), at('link'));
  await assert.rejects(reading.readRegular(at('link')), { found: 'pipe' });
  await assert.rejects(reading.readRegular(at('nowhere')), { code: 'ENOENT' });
  await writeFile(at('text'), 'hello');
  assert.equal(String(await reading.readRegular(at('text'))), 'hello');
  assert.equal(String(await reading.readStart(at('text'), 3)), 'hel');
  assert.equal(String(await reading.readStart(at('text'), 30)), 'hello');
});

test("the service's folder has no pipes that it waits for", async () => {
  await mkdir(at('opened'));
  spawnSync('mkfifo', [at('opened', 'pipe.png')]);
  await assert.rejects(readImageFile(at('opened'), 'pipe.png', 1e6), { code: 'ERR_NOT_FOUND' });
});

test('a file is written as a whole or not at all', async (t) => {
  await mkdir(at('whole'));
  const file = at('whole', 'out.json');
  await files.writeWhole(file, 'first');
  await files.writeWhole(file, Buffer.from('second'));
  assert.equal(await readFile(file, 'utf8'), 'second');
  const half = await files.WholeFile.create(file);
  await half.append('half');
  assert.equal(await readFile(file, 'utf8'), 'second', 'nothing shows before it is complete');
  await half.discard();
  await files.writeWhole(at('whole', `${'ä'.repeat(120)}.txt`), 'a long name');
  assert.equal((await readdir(at('whole'))).length, 2);
  for (const name of ['/dev/full', '/dev/null', at('pipe')]) {
    await assert.rejects(files.writeWhole(name, 'x'), { code: 'ERR_FILE_WRITE' });
    await assert.rejects(files.checkWritable(name), { code: 'ERR_FILE_WRITE' });
  }
  const disk = at('disk');
  if (!(await smallDisk(t, disk, '16k'))) return t.skip('a small file system cannot be mounted here');
  await writeFile(path.join(disk, 'out'), 'precious');
  await assert.rejects(files.writeWhole(path.join(disk, 'out'), Buffer.alloc(20_000)), {
    code: 'ERR_FILE_WRITE',
    message: /ENOSPC/,
  });
  assert.equal(await readFile(path.join(disk, 'out'), 'utf8'), 'precious');
  assert.deepEqual(await readdir(disk), ['out']);
  await writeFile(path.join(disk, 'filler'), Buffer.alloc(12_288));
  await assert.rejects(files.checkWritable(path.join(disk, 'new')), { code: 'ERR_FILE_WRITE' }, 'found up front');
});

test('what killed runs have left goes, and nothing else', async () => {
  const place = at('leftovers');
  await mkdir(place);
  const dead = deadPid();
  const stay = [
    `.model.ddad-${process.pid}-0.tmp`, // its process lives
    `model.ddad-${dead}-0.tmp`, // not quite our names
    `.model.ddad-${dead}-0.bak`,
    `.ddad-${dead}-0.tmp`,
    `.model.ddad-0-0.tmp`,
    'model.safetensors',
  ];
  const go = [`.model.safetensors.ddad-${dead}-17.tmp`, `.report.html.ddad-${dead}-0a1b2c3d.part`];
  for (const name of [...stay, ...go]) await aged(path.join(place, name));
  await writeFile(path.join(place, `.fresh.ddad-${dead}-1.tmp`), 'x');
  await mkdir(path.join(place, `.folder.ddad-${dead}-1.tmp`));
  await symlink(at('text'), path.join(place, `.link.ddad-${dead}-1.tmp`));
  const others = process.getuid?.() === 0 ? [`.other.ddad-${dead}-1.tmp`] : [];
  for (const name of others) await chown(await aged(path.join(place, name)), 12_345, 12_345);
  await files.checkWritable(path.join(place, 'out.safetensors'));
  const left = [`.fresh.ddad-${dead}-1.tmp`, `.folder.ddad-${dead}-1.tmp`, `.link.ddad-${dead}-1.tmp`];
  assert.deepEqual((await readdir(place)).sort(), [...stay, ...left, ...others].sort());

  const bench = path.join(place, `ddad-bench-${dead}-Ab3xYz`);
  await mkdir(bench);
  await aged(path.join(bench, 'model'));
  await utimes(bench, longAgo, longAgo);
  await leftovers.removeLeftovers(place, { folders: true });
  assert.ok(!existsSync(bench));
});

test("the engine's temporary files have names that the next run knows", async () => {
  const place = at('watched');
  await mkdir(place);
  const seen = new Set();
  const watcher = watch(place, (_, name) => seen.add(name));
  await trainTiny({ Trainer }, parts, path.join(place, 'model.safetensors'), {
    steps: 1,
    backbone: null,
    memoryBank: null,
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  watcher.close();
  const names = [...seen].filter((name) => name !== 'model.safetensors');
  assert.ok(names.length > 0);
  for (const name of names) assert.match(name, new RegExp(`^\\.model\\.safetensors\\.ddad-${process.pid}-\\d+\\.tmp$`));
});

test('a lock is held by one run at a time, and taken over from a process that has ended', async () => {
  const file = at('locked.safetensors');
  const lock = `${file}.lock`;
  const first = await FileLock.take(file);
  const contents = JSON.parse(await readFile(lock, 'utf8'));
  assert.deepEqual([contents.pid, contents.host], [process.pid, os.hostname()]);
  await assert.rejects(FileLock.take(file), {
    code: 'ERR_FILE_WRITE',
    message: new RegExp(`process ${process.pid} on .+ has been training to it since .+; remove .+\\.lock where`),
  });
  await first.release();
  assert.ok(!existsSync(lock));

  const stale = [{ ...contents, pid: deadPid() }];
  // a process of the same number that has begun at another time, as the first one of a container always has
  if (contents.began !== null) stale.push({ ...contents, began: '17 of another boot' });
  for (const held of [...stale, ...stale, ...stale]) {
    await writeFile(lock, JSON.stringify(held));
    const results = await Promise.allSettled(Array.from({ length: 8 }, () => FileLock.take(file)));
    const taken = results.filter(({ status }) => status === 'fulfilled');
    assert.equal(taken.length, 1, 'one of many takes it over');
    await taken[0].value.release();
    assert.ok(!existsSync(lock));
  }
  // one that was ended while it took a lock over holds nobody up for long
  await writeFile(lock, JSON.stringify(stale[0]));
  await aged(`${lock}.takeover`);
  await (await FileLock.take(file)).release();
  assert.ok(!existsSync(`${lock}.takeover`));
  const far = JSON.stringify({ ...contents, pid: deadPid(), host: `not-${os.hostname()}` });
  await writeFile(lock, far);
  await assert.rejects(FileLock.take(file), { code: 'ERR_FILE_WRITE' }, 'nobody knows of processes elsewhere');
  assert.equal(await readFile(lock, 'utf8'), far);
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.includes('.ddad-')),
    [],
  );
});

test('a lock that was replaced is not let go of', async () => {
  const file = at('replaced.safetensors');
  const mine = await FileLock.take(file);
  const text = (await readFile(`${file}.lock`, 'utf8')).replace(/"token":"[^"]+"/, '"token":"another"');
  await writeFile(`${file}.lock`, text);
  await mine.release();
  assert.equal(await readFile(`${file}.lock`, 'utf8'), text);
});

test('a run lets go of its locks, whatever ends it', async () => {
  const [checkpoint, metrics] = [at('run.checkpoint.safetensors'), at('run.jsonl')];
  for (const ending of ['end', 'leave', 'abort']) {
    const controller = new AbortController();
    const trainer = new Trainer({ ...tiny, backbone: null, memoryBank: null });
    try {
      for await (const progress of trainer.fit(parts, { checkpoint, metrics, signal: controller.signal })) {
        void progress;
        assert.ok(existsSync(`${checkpoint}.lock`) && existsSync(`${metrics}.lock`));
        if (ending === 'leave') break;
        if (ending === 'abort') controller.abort();
      }
    } catch (error) {
      assert.equal(error.code, 'ERR_ABORTED');
    } finally {
      trainer.dispose();
    }
    assert.ok(!existsSync(`${checkpoint}.lock`) && !existsSync(`${metrics}.lock`), ending);
  }
});

test('a checkpoint knows its images by their bytes; one of before is told of', async () => {
  const checkpoint = at('digests.safetensors');
  const few = { ...tiny, steps: 2, backbone: null, memoryBank: null };
  await trainTiny({ Trainer }, parts, at('digests-model.safetensors'), few, { checkpoint });
  const { header, data } = await readSafetensors(checkpoint);
  const config = JSON.parse(header.__metadata__.config);
  assert.equal(new Set(config.checkpoint.digests).size, 4);

  const others = at('others');
  await cp(parts, others, { recursive: true });
  const image = path.join(others, 'train', 'good', '02.png');
  const bytes = await readFile(image);
  bytes[40] ^= 1;
  await writeFile(image, bytes);
  const resume = async (dataset, from) => {
    const trainer = new Trainer({ steps: 4, threads: 1 });
    try {
      for await (const progress of trainer.fit(dataset, { resume: from })) void progress;
      return trainer.warnings;
    } finally {
      trainer.dispose();
    }
  };
  await assert.rejects(resume(others, checkpoint), {
    code: 'ERR_DATASET',
    message: /good\/02\.png has the name and size/,
  });
  const known = await resume(parts, checkpoint);
  assert.ok(!known.some((text) => text.includes('digests')));

  delete config.checkpoint.digests;
  header.__metadata__.config = JSON.stringify(config);
  await writeSafetensors(at('older.safetensors'), { header, data });
  const older = await resume(parts, at('older.safetensors'));
  assert.ok(older.some((text) => text.includes('no digests of its images')));
});

test('no text of others can end a line, move the cursor or turn a line around', () => {
  const bad = 'a\nb\r\u001b[2Jc\u009b1m\u2028\u202e\u0000\u007f\ud800';
  const shown = printing.printable(bad);
  assert.equal(shown, 'a\\u000ab\\u000d\\u001b[2Jc\\u009b1m\\u2028\\u202e\\u0000\\u007f\\ud800');
  assert.equal(printing.printable('grün 日本 😀 (1).png'), 'grün 日本 😀 (1).png');
  const value = { image: bad };
  assert.deepEqual(JSON.parse(printing.printable(JSON.stringify(value))), value, 'JSON stays the same JSON');
});

test('files that are checked stay what they are', async () => {
  await writeFile(at('kept.safetensors'), 'kept');
  await files.checkWritable(at('kept.safetensors'));
  assert.equal(await readFile(at('kept.safetensors'), 'utf8'), 'kept');
  assert.ok((await lstat(at('kept.safetensors'))).isFile());
});
