// The set-up: what it says when it cannot download, and that it takes nothing but what is pinned.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { capture, root } from '../../scripts/lib/run.mjs';
import { findPython } from '../../scripts/lib/wheels.mjs';

const python = findPython();
const pip = python && capture(python, ['-m', 'pip', '--version']).code === 0;
const skip = pip ? false : 'needs Python with pip';
let work;

beforeEach((t) => {
  work = fs.mkdtempSync(path.join(os.tmpdir(), 'ddad-wheels-'));
  t.after(() => fs.rmSync(work, { recursive: true, force: true }));
});

/** Writes a wheel with one file, and a requirements file that pins it (or, with `hash`, something else). */
function makeWheel(hash) {
  const wheel = path.join(work, 'toy-1.0-py3-none-any.whl');
  const source = `import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("toy/data.txt", "hello")
    wheel.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 1.0\\n")
    wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr("toy-1.0.dist-info/RECORD", "")
`;
  assert.equal(capture(python, ['-c', source, wheel]).code, 0);
  const digest = hash ?? createHash('sha256').update(fs.readFileSync(wheel)).digest('hex');
  fs.writeFileSync(path.join(work, 'toy.txt'), `toy==1.0 --hash=sha256:${digest}\n`);
}

/** Runs ensureWheels in a process of its own, offline, with the wheels of `work` at hand. */
function ensure(environment = {}) {
  const module = pathToFileURL(path.join(root, 'scripts', 'lib', 'wheels.mjs')).href;
  const wheels = { what: 'the toy', requirements: path.join(work, 'toy.txt'), folder: path.join(work, 'out') };
  const code = `import { ensureWheels } from '${module}';
    process.stdout.write(String(ensureWheels(${JSON.stringify(wheels)})));`;
  const env = { ...process.env, PIP_NO_INDEX: '1', PIP_FIND_LINKS: work, ...environment };
  return capture(process.execPath, ['--input-type=module', '-e', code], { env });
}

test('downloads once, and again when the pin has changed', { skip }, () => {
  makeWheel();
  const first = ensure();
  assert.equal(first.code, 0, first.output);
  assert.equal(fs.readFileSync(path.join(work, 'out', 'toy', 'data.txt'), 'utf8'), 'hello');
  assert.match(first.output, /^true/);
  assert.equal(ensure().output, 'false');
  fs.appendFileSync(path.join(work, 'toy.txt'), '# changed\n');
  assert.match(ensure().output, /^true/);
  assert.deepEqual(fs.readdirSync(work).sort(), ['out', 'toy-1.0-py3-none-any.whl', 'toy.txt']);
});

test('a wheel with another hash is refused, and nothing is left behind', { skip }, () => {
  makeWheel('0'.repeat(64));
  const { code, output } = ensure();
  assert.equal(code, 1);
  assert.match(output, /the toy: pip could not download it/);
  assert.match(output, /HASH/i);
  assert.deepEqual(fs.readdirSync(work).sort(), ['toy-1.0-py3-none-any.whl', 'toy.txt']);
});

test('without the network, the message says what to do', { skip }, () => {
  fs.writeFileSync(path.join(work, 'toy.txt'), `toy==1.0 --hash=sha256:${'0'.repeat(64)}\n`);
  const { code, output } = ensure();
  assert.equal(code, 1);
  assert.match(output, /PIP_FIND_LINKS=<folder>/);
  assert.doesNotMatch(output, /\n\s+at /);
});

test('without Python, the message says so', () => {
  fs.writeFileSync(path.join(work, 'toy.txt'), 'toy==1.0\n');
  const { code, output } = ensure({ PYTHON: '/nowhere/python' });
  assert.equal(code, 1);
  assert.match(output, /Python 3\.7 or newer with pip is needed/);
});

test('this set-up pins every wheel by hash', () => {
  for (const file of ['onednn.txt', 'lint-tools.txt']) {
    const lines = fs.readFileSync(path.join(root, 'scripts', file), 'utf8').trim().split('\n');
    for (const line of lines.filter((text) => !text.startsWith('#'))) {
      assert.match(line, /^[\w-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}$/);
    }
  }
});
