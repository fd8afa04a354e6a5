import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { root } from '../../scripts/lib/run.mjs';
import { checkLayers, sourceRooms } from '../../scripts/check-layers.mjs';

/** A package with these files, one problem a line. */
function problemsOf(t, files) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ddad-layers-'));
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }));
  const all = { 'package.json': '{"dependencies":{"sharp":"1"}}', ...files };
  for (const [name, text] of Object.entries(all)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    fs.writeFileSync(path.join(folder, name), text);
  }
  return checkLayers(folder);
}

test('dependencies of this package point one way', () => {
  assert.deepEqual(checkLayers(root), []);
});

test('native: an include against the order is found', (t) => {
  const problems = problemsOf(t, {
    'native/tensor/a.h': '#include "ops/b.h"\n',
    'native/ops/b.h': '#include "tensor/a.h"\n#include <vector>\n',
    'native/score/c.cpp': '#include "noise/d.h"\n  #  include "train/e.h"\n',
    'native/noise/d.h': '',
    'native/train/e.h': '#include "score/../verify/f.h"\n',
    'native/verify/f.h': '',
  });
  assert.equal(problems.length, 3);
  assert.match(problems[0], /score\/c\.cpp: native\/score may not include native\/train/);
  assert.match(problems[1], /tensor\/a\.h: native\/tensor may not include native\/ops/);
  assert.match(problems[2], /train\/e\.h: "score\/\.\.\/verify\/f\.h" is not a path from native/);
});

test('native: paths start at native/, folders are layers, N-API stays in bind', (t) => {
  const problems = problemsOf(t, {
    'native/tensor/a.h': '',
    'native/tensor/b.cpp': '#include "a.h"\n',
    'native/tensor/c.cpp': '#include <napi.h>\n',
    'native/bind/d.cpp': '#include <napi.h>\n#include "tensor/a.h"\n',
    'native/misc/e.cpp': '',
    'native/ops/f_simd.cpp': '#include <cstdint>\n#include <vector>\n',
    'third_party/nlohmann/json.hpp': '',
    'native/file/g.cpp': '#include "nlohmann/json.hpp"\n',
  });
  assert.equal(problems.length, 4);
  assert.ok(problems.some((line) => /misc is not a layer/.test(line)));
  assert.ok(problems.some((line) => /"a\.h" is not a path from native/.test(line)));
  assert.ok(problems.some((line) => /c\.cpp: only native\/bind includes napi\.h/.test(line)));
  assert.ok(problems.some((line) => /f_simd\.cpp.* may not include <vector>/.test(line)));
});

test('native: CUDA stays in the files of its library', (t) => {
  const guarded = '#if defined(__CUDACC__)\n#include <cuda_bf16.h>\n#endif\n';
  const right = problemsOf(t, {
    'native/device/device_cuda.h': '#include <cuda_runtime.h>\n#include <cudnn.h>\n',
    'native/device/grid_cuda.cuh': '#include <cuda_runtime.h>\n#include "device/device_cuda.h"\n',
    'native/ops/norm.cu': '#include "device/grid_cuda.cuh"\n',
    'native/ops/norm_cuda.cpp': '#include "device/device_cuda.h"\n#include <cublasLt.h>\n',
    'native/tensor/bf16.h': guarded,
    'native/device/cuda_library.h': '#include <memory>\n',
    'native/device/device.cpp': '#include "device/cuda_library.h"\n',
    'native/cuda/library_cuda.cpp': '#include "train/a_cuda.h"\n#include "ops/b_cuda.h"\n',
    'native/train/a_cuda.h': '',
    'native/ops/b_cuda.h': '',
  });
  assert.deepEqual(right, []);
  const problems = problemsOf(t, {
    'native/device/device_cuda.h': '',
    'native/device/grid_cuda.cuh': '',
    'native/ops/norm_grid.h': '#include <cuda_runtime.h>\n',
    'native/ops/conv.cpp': '#include "device/device_cuda.h"\n',
    'native/ops/pool.cpp': '#include "device/grid_cuda.cuh"\n',
    'native/tensor/bf16.h': '#include <cuda_bf16.h>\n',
    'native/tensor/half.h': guarded.replace('#if', '#if defined(A)\n#endif\n#if !'),
    'native/noise/long.cu': '\n'.repeat(501),
    'native/bind/addon.cpp': '#include "cuda/c.h"\n',
    'native/cuda/c.h': '',
  });
  assert.deepEqual(problems, [
    'native/bind/addon.cpp: native/bind may not include native/cuda ("cuda/c.h")',
    'native/ops/conv.cpp: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include device/device_cuda.h',
    'native/ops/norm_grid.h: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include cuda_runtime.h',
    'native/ops/pool.cpp: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include device/grid_cuda.cuh',
    'native/tensor/bf16.h: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include cuda_bf16.h',
    'native/tensor/half.h: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include cuda_bf16.h',
    'native/noise/long.cu: 501 lines, more than 500',
  ]);
});

test('TypeScript: the addon has one door, index.ts only re-exports, imports stay within', (t) => {
  const problems = problemsOf(t, {
    'src/index.ts': "export { a } from './image/a.js';\n/** Not here. */\nexport const b = 1;\n",
    'src/image/a.ts': "import yargs from 'yargs';\nimport sharp from 'sharp';\n",
    'src/cli/run.ts': "import { a } from '../image/a.js';\nimport x from '../../test/x.js';\n",
    'src/model/load.ts': "const addon = require(built + '/ddad.node');\n",
    'src/engine/native.ts': "const addon = require(built + '/ddad.node');\n",
  });
  assert.deepEqual(problems, [
    'src/cli/run.ts: imports ../../test/x.js, outside src/',
    'src/image/a.ts: yargs is not among the dependencies in package.json',
    'src/index.ts: only re-exports belong here',
    'src/model/load.ts: only src/engine/native.ts loads the addon',
  ]);
});

test('TypeScript: rooms import from those below them, types too', (t) => {
  const problems = problemsOf(t, {
    'src/index.ts': "export { run } from './cli/run.js';\n",
    'src/loose.ts': '',
    'src/attic/a.ts': '',
    'src/cli/run.ts': "import { a } from '../scoring/a.js';\nimport { b } from './b.js';\n",
    'src/cli/b.ts': '',
    'src/scoring/a.ts': "import { b } from '../image/b.js';\nexport * from '../training/c.js';\n",
    'src/image/b.ts': "import type { A } from '../scoring/a.js';\nconst c = await import('../data/c.js');\n",
    'src/training/c.ts': "import { run } from '../cli/run.js';\n",
    'src/data/c.ts': '',
  });
  assert.deepEqual(problems, [
    'src/attic/a.ts: src/attic is not a room; scripts/check-layers.mjs lists them',
    'src/image/b.ts: src/image may not import src/scoring/a.js',
    'src/image/b.ts: src/image may not import src/data/c.js',
    'src/index.ts: the command line is for bin/ alone, not src/cli/run.js',
    'src/loose.ts: only index.ts stands in src/ itself',
    'src/scoring/a.ts: src/scoring may not import src/training/c.js',
    'src/training/c.ts: src/training may not import src/cli/run.js',
    'import cycle: src/cli/run.ts -> src/scoring/a.ts -> src/training/c.ts -> src/cli/run.ts',
  ]);
});

test('TypeScript: the rooms stand one above the other', () => {
  for (const [room, below] of Object.entries(sourceRooms)) {
    for (const lower of below) {
      assert.ok(sourceRooms[lower], `${room} names ${lower}, which is no room`);
      assert.ok(!sourceRooms[lower].includes(room), `${room} and ${lower} may import each other`);
      for (const lowest of sourceRooms[lower]) assert.ok(below.includes(lowest), `${room} -> ${lower} -> ${lowest}`);
    }
  }
});

test('TypeScript: a folder with too many files is found', (t) => {
  const names = Array.from({ length: 26 }, (_, i) => [`src/image/a${i}.ts`, '']);
  assert.deepEqual(problemsOf(t, Object.fromEntries(names)), ['src/image: 26 files, more than 25']);
  assert.deepEqual(problemsOf(t, Object.fromEntries(names.slice(1))), []);
});

test('TypeScript: cycles of values are found, cycles of types are not', (t) => {
  const cycle = problemsOf(t, {
    'src/image/a.ts': "import { b } from './b.js';\n",
    'src/image/b.ts': "import {\n  c,\n  type C,\n} from './c.js';\n",
    'src/image/c.ts': "export * from './a.js';\n",
  });
  assert.deepEqual(cycle, ['import cycle: src/image/a.ts -> src/image/b.ts -> src/image/c.ts -> src/image/a.ts']);
  const types = problemsOf(t, {
    'src/image/a.ts': "import { b } from './b.js';\n",
    'src/image/b.ts': "import type { A } from './a.js';\nimport { type A as B } from './a.js';\n",
  });
  assert.deepEqual(types, []);
});

test('a file of more than 500 lines is found', (t) => {
  const problems = problemsOf(t, { 'native/ops/a.cpp': '\n'.repeat(501), 'native/ops/b.cpp': '\n'.repeat(500) });
  assert.deepEqual(problems, ['native/ops/a.cpp: 501 lines, more than 500']);
});
