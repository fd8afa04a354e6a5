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
    'native/base/a.h': '#include "graph/b.h"\n',
    'native/graph/b.h': '#include <vector>\n',
    'native/score/c.cpp': '#include "noise/d.h"\n  #  include "train/e.h"\n',
    'native/noise/d.h': '',
    'native/train/e.h': '#include "score/../verify/f.h"\n',
    'native/verify/f.h': '',
  });
  assert.equal(problems.length, 3);
  assert.match(problems[1], /score\/c\.cpp: native\/score may not include native\/train/);
  assert.match(problems[0], /base\/a\.h: native\/base may not include native\/graph/);
  assert.match(problems[2], /train\/e\.h: "score\/\.\.\/verify\/f\.h" is not a path from native/);
});

test('native: ops stand on the graph, one beside the other, and networks know neither', (t) => {
  const problems = problemsOf(t, {
    'native/graph/a.h': '',
    'native/graph/b.cpp': '#include "ops/conv/c.h"\n',
    'native/ops/conv/c.h': '#include "graph/a.h"\n#include "ops/elementwise/d.h"\n',
    'native/ops/elementwise/d.h': '#include "graph/a.h"\n',
    'native/ops/elementwise/e.h': '#include "ops/conv/c.h"\n',
    'native/ops/linear/f.cpp': '#include "ops/conv/c.h"\n',
    'native/unet/g.cpp': '#include "graph/a.h"\n#include "ops/elementwise/d.h"\n',
    'native/ops/op.cpp': '#include "ops/conv/c.h"\n',
    'native/ops/pool/h.cpp': '',
  });
  assert.deepEqual(problems, [
    'native/graph/b.cpp: native/graph may not include native/ops/conv ("ops/conv/c.h")',
    'native/ops/elementwise/e.h: native/ops/elementwise may not include native/ops/conv ("ops/conv/c.h")',
    'native/ops/linear/f.cpp: native/ops/linear may not include native/ops/conv ("ops/conv/c.h")',
    'native/ops/pool/h.cpp: native/ops/pool is not a layer; scripts/check-layers.mjs lists them',
    'native/unet/g.cpp: native/unet may not include native/ops/elementwise ("ops/elementwise/d.h")',
  ]);
});

test('native: a cycle of includes is found, a header and its sources taken as one', (t) => {
  const headers = problemsOf(t, {
    'native/graph/a.h': '#include "graph/b.h"\n',
    'native/graph/b.h': '#include "graph/a.h"\n',
  });
  assert.deepEqual(headers, ['include cycle: native/graph/a -> native/graph/b -> native/graph/a']);
  const sources = problemsOf(t, {
    'native/ops/conv/conv.h': '',
    'native/ops/conv/conv.cpp': '#include "ops/conv/conv.h"\n#include "ops/conv/autotune.h"\n',
    'native/ops/conv/autotune.h': '',
    'native/ops/conv/autotune.cpp': '#include "ops/conv/autotune.h"\n#include "ops/conv/conv.h"\n',
  });
  assert.deepEqual(sources, [
    'include cycle: native/ops/conv/autotune -> native/ops/conv/conv -> native/ops/conv/autotune',
  ]);
});

test('native: paths start at native/, folders are layers, N-API stays in bind', (t) => {
  const problems = problemsOf(t, {
    'native/base/a.h': '',
    'native/base/b.cpp': '#include "a.h"\n',
    'native/base/c.cpp': '#include <napi.h>\n',
    'native/bind/d.cpp': '#include <napi.h>\n#include "base/a.h"\n',
    'native/misc/e.cpp': '',
    'native/ops/linear/f_simd.cpp': '#include <cstdint>\n#include <vector>\n',
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
    'native/device/cuda/device_cuda.h': '#include <cuda_runtime.h>\n#include <cudnn.h>\n',
    'native/device/cuda/grid_cuda.cuh': '#include <cuda_runtime.h>\n#include "device/cuda/device_cuda.h"\n',
    'native/ops/linear/norm.cu': '#include "device/cuda/grid_cuda.cuh"\n',
    'native/ops/linear/norm_cuda.cpp': '#include "device/cuda/device_cuda.h"\n#include <cublasLt.h>\n',
    'native/base/bf16.h': guarded,
    'native/device/cuda_library.h': '#include <memory>\n',
    'native/device/device.cpp': '#include "device/cuda_library.h"\n',
    'native/cuda/library_cuda.cpp': '#include "train/a_cuda.h"\n#include "ops/b_cuda.h"\n',
    'native/train/a_cuda.h': '',
    'native/ops/b_cuda.h': '',
  });
  assert.deepEqual(right, []);
  const problems = problemsOf(t, {
    'native/device/cuda/device_cuda.h': '',
    'native/device/cuda/grid_cuda.cuh': '',
    'native/ops/linear/norm_grid.h': '#include <cuda_runtime.h>\n',
    'native/ops/linear/conv.cpp': '#include "device/cuda/device_cuda.h"\n',
    'native/ops/linear/pool.cpp': '#include "device/cuda/grid_cuda.cuh"\n',
    'native/base/bf16.h': '#include <cuda_bf16.h>\n',
    'native/base/half.h': guarded.replace('#if', '#if defined(A)\n#endif\n#if !'),
    'native/noise/long.cu': '\n'.repeat(501),
    'native/bind/addon.cpp': '#include "cuda/c.h"\n',
    'native/cuda/c.h': '',
  });
  assert.deepEqual(problems, [
    'native/base/bf16.h: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include cuda_bf16.h',
    'native/base/half.h: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include cuda_bf16.h',
    'native/bind/addon.cpp: native/bind may not include native/cuda ("cuda/c.h")',
    'native/ops/linear/conv.cpp: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include device/cuda/device_cuda.h',
    'native/ops/linear/norm_grid.h: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include cuda_runtime.h',
    'native/ops/linear/pool.cpp: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include device/cuda/grid_cuda.cuh',
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
  const problems = problemsOf(t, { 'native/ops/linear/a.cpp': '\n'.repeat(501), 'native/ops/linear/b.cpp': '\n'.repeat(500) });
  assert.deepEqual(problems, ['native/ops/linear/a.cpp: 501 lines, more than 500']);
});

test('native: a folder of more than 25 files is found', (t) => {
  const files = Array.from({ length: 26 }, (_, i) => [`native/graph/a${i}.h`, '']);
  assert.deepEqual(problemsOf(t, Object.fromEntries(files)), ['native/graph: 26 files, more than 25']);
});
