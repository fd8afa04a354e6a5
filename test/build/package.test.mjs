import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, test } from 'node:test';
import { capture, root } from '../../scripts/lib/run.mjs';

const manifest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8'));
let files;

before(() => {
  const npm = process.env.npm_execpath?.endsWith('.js') ? [process.execPath, process.env.npm_execpath] : ['npm'];
  const { code, output } = capture(npm[0], [...npm.slice(1), 'pack', '--dry-run', '--json', '--ignore-scripts']);
  assert.equal(code, 0, output);
  const report = JSON.parse(output.slice(output.search(/^[[{]/m)));
  files = Object.values(report)[0].files.map((file) => file.path);
});

test('the package has all that its own build needs', () => {
  const wanted = ['CMakeLists.txt', 'binding.gyp', 'LICENSE', 'bin/ddad-native.js', 'cmake/addon.map', 'cmake/cuda.map'];
  const sources = ['native/device/dispatch.cpp', 'third_party/nlohmann/json.hpp', 'third_party/nlohmann-LICENSE.txt'];
  const built = ['dist/index.js', 'dist/index.mjs', 'dist/index.d.ts', 'dist/index.d.mts', 'dist/cli/index.js'];
  for (const file of [...wanted, ...sources, ...built]) assert.ok(files.includes(file), file);

  // What the scripts import, and what that imports.
  const pending = ['scripts/build.mjs', 'scripts/build-cuda.mjs'];
  for (const file of pending) {
    assert.ok(files.includes(file), file);
    for (const [, from] of fs.readFileSync(path.join(root, file), 'utf8').matchAll(/from '(\.[^']+)'/g)) {
      const next = path.posix.join(path.posix.dirname(file), from);
      if (!pending.includes(next)) pending.push(next);
    }
  }
  assert.ok(files.includes('scripts/onednn.txt'));
  assert.ok(files.includes('scripts/cuda.txt'));
});

test('the package has the service that its command starts and an example of it', () => {
  const folder = path.join(root, 'examples', 'service');
  const service = fs.readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const names = service.map(({ parentPath, name }) => path.relative(root, path.join(parentPath, name)));
  for (const name of ['page/index.html', 'page/page.css', 'page/page.js', 'start.js']) {
    assert.ok(files.includes(`dist/service/${name}`), name);
  }
  assert.ok(names.includes(path.join('examples', 'service', 'server.mjs')));
  for (const name of names) assert.ok(files.includes(name.split(path.sep).join('/')), name);
});

test('the package has neither tests nor data nor anything that was built for this machine', () => {
  const documents = /^bench\/(\w+\/)?(README\.md|scaling\.svg)$/; // to which docs/ links
  const others = /^(test|bench|build|build-debug|node_modules|src|shared|api-reference|\.)|\.node$/;
  const unwanted = files.filter((file) => others.test(file) && !documents.test(file));
  assert.deepEqual(unwanted, []);
});

test('every entry that package.json names is in the package', () => {
  const named = [manifest.main, manifest.module, manifest.types, ...Object.values(manifest.bin)];
  const visit = (entry) => (typeof entry === 'string' ? named.push(entry) : Object.values(entry).forEach(visit));
  visit(manifest.exports);
  for (const entry of named) assert.ok(files.includes(path.posix.normalize(entry)), entry);
});

test('the N-API version is the same everywhere', () => {
  const cmake = fs.readFileSync(path.join(root, 'cmake', 'addon.cmake'), 'utf8');
  assert.deepEqual(manifest.binary.napi_versions, [Number(/NAPI_VERSION=(\d+)/.exec(cmake)[1])]);
});
