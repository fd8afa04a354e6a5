// What the linker made of the addon: only our two entry points are visible, oneDNN lies beside it, and no code for
// newer processors can have replaced code that all processors run.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { capture, root } from '../../scripts/lib/run.mjs';

const build = path.join(root, 'build');
const addon = path.join(build, 'Release', 'ddad.node');
const skip = process.platform !== 'linux' || capture('nm', ['--version']).code !== 0 ? 'needs nm on Linux' : false;

function lines(command, ...args) {
  const { code, output } = capture(command, args);
  assert.equal(code, 0, output);
  return output.split('\n').filter(Boolean);
}

test('the addon exports the two entry points of N-API and nothing else', { skip }, () => {
  const names = lines('nm', '-D', '--defined-only', addon).map((line) => line.split(' ').at(-1));
  assert.deepEqual(names.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
});

test('the addon takes nothing of V8 or libuv from Node', { skip }, () => {
  const names = lines('nm', '-D', '--undefined-only', addon).map((line) => line.trim().split(' ').at(-1));
  assert.ok(names.some((name) => name.startsWith('napi_')));
  assert.deepEqual(
    names.filter((name) => /^_ZNK?2v8|^_ZNK?4node|^uv_/.test(name)),
    [],
  );
});

test('the addon finds its libraries beside itself', { skip }, () => {
  const dynamic = lines('readelf', '-d', addon).join('\n');
  assert.match(dynamic, /R(UN)?PATH.*\[\$ORIGIN\]/);
  assert.match(dynamic, /SYMBOLIC/);
  if (/libdnnl\.so\.3/.test(dynamic)) assert.ok(fs.existsSync(path.join(build, 'Release', 'libdnnl.so.3')));
});

test('code for one instruction set shares no function with other code', { skip }, () => {
  const objects = fs
    .readdirSync(path.join(build, 'CMakeFiles'), { recursive: true })
    .filter((file) => /^ddad_simd_\w+\.dir.*\.o$/.test(file))
    .map((file) => path.join(build, 'CMakeFiles', file));
  assert.ok(objects.length > 0);
  for (const object of objects) {
    // Weak symbols exist in many objects, and the linker keeps any one of them.
    const weak = lines('nm', '-C', object).filter((line) => / [WVu] /.test(line));
    assert.deepEqual(weak, [], path.relative(build, object));
  }
});
