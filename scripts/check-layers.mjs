// Dependencies point one way, and files stay short. Prints what breaks the rules below and exits with 1.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * The folders of native/, each with those that it may include beside itself. A folder within a folder is one of its own.
 */
export const nativeLayers = (() => {
  const base = [];
  const file = ['base'];
  const device = ['base', 'file'];
  const graph = ['device', 'device/cuda', ...device];
  // What several ops share, then the ops, none of which knows another.
  const shared = ['graph', ...graph];
  const gemm = ['ops/cudnn', ...shared];
  const product = ['ops/elementwise', 'ops/gemm', ...gemm];
  const op = ['ops/elementwise', ...shared];
  const ops = {
    'ops/elementwise': shared,
    'ops/cudnn': shared,
    'ops/gemm': gemm,
    'ops/conv': product,
    'ops/conv/cuda': ['ops/conv', ...product],
    'ops/linear': product,
    'ops/attention': product,
    'ops/depthwise': op,
    'ops/embedding': op,
    'ops/group_norm': op,
    'ops/resample': op,
    'ops/squeeze_excite': op,
  };
  // Networks are lists of records: none includes an op.
  const network = shared;
  const reverse = ['unet', 'noise', 'backbone', ...network];
  const helpers = ['ops/elementwise', 'ops/gemm'];
  const image = ['ops/elementwise', 'device', ...device];
  const evidence = [...helpers, 'backbone', ...network];
  const score = ['score/image', 'score/evidence', 'reverse', ...helpers, ...reverse];
  const train = ['score', 'file/checkpoint', ...score];
  const verify = ['train', ...train];
  return {
    base,
    file,
    'file/checkpoint': ['file', ...file],
    device,
    'device/cuda': ['device', ...device],
    graph,
    ...ops,
    ops: [...Object.keys(ops), ...shared],
    unet: network,
    noise: network,
    backbone: network,
    reverse,
    'score/image': image,
    'score/evidence': evidence,
    score,
    train,
    profile: train,
    verify,
    import: train,
    export: train,
    cuda: ['ops', ...verify],
    'bind/napi': ['device', ...device],
    bind: ['bind/napi', 'verify', 'profile', 'import', 'export', ...verify],
  };
})();

/** The folders of src/, each with those that it may import from beside itself, be it only types. */
export const sourceRooms = (() => {
  const base = [];
  const numeric = ['base'];
  const files = ['base'];
  const config = ['base'];
  const engine = ['config', 'files', 'base'];
  const image = ['engine', ...engine];
  const data = ['image', 'numeric', ...image];
  const model = data;
  const scoring = ['model', 'data', ...data];
  const training = ['scoring', ...scoring];
  const evaluation = ['scoring', ...scoring];
  const report = ['evaluation', ...evaluation];
  const service = ['scoring', ...scoring];
  const bench = ['report', 'training', ...report];
  const cli = ['bench', 'service', ...bench];
  return {
    base,
    numeric,
    files,
    config,
    engine,
    image,
    data,
    model,
    scoring,
    training,
    evaluation,
    report,
    service,
    bench,
    cli,
  };
})();

/** The only file of src/ that loads the addon. */
const addonLoader = 'src/engine/native.ts';
/** More files side by side than this are not seen at a glance. */
const mostFiles = 25;

/** What a *_simd.cpp may include of the system: nothing that brings functions the linker could share with other code. */
const simdHeaders = ['cstdint', 'cstddef', 'cfloat', 'climits', 'immintrin.h'];
/** Files of the CUDA device's library, which nothing else includes: the engine is compiled without a toolkit. */
const ofCuda = /_cuda\.(cpp|h)$|\.cuh?$/;
const cudaHeaders = /^(cuda|cublas|cudnn|cooperative_groups|cub\/|nvrtc|nvtx|mma\.h|driver_types\.h|device_launch)/;
const maxLines = 500;
const maxFiles = 25; // of a folder of native/

function filesOf(root, folder, pattern) {
  const start = path.join(root, folder);
  if (!fs.existsSync(start)) return [];
  return fs
    .readdirSync(start, { recursive: true })
    .filter((name) => pattern.test(name))
    .map((name) => `${folder}/${name.split(path.sep).join('/')}`)
    .sort();
}

/** Whether the toolkit's type of bfloat16 is included where nvcc compiles the header, and only there. */
function guarded(header, text) {
  return (
    header === 'cuda_bf16.h' && /#\s*if(def\s+| defined\()__CUDACC__\)?\s+#\s*include <cuda_bf16\.h>\s+#/.test(text)
  );
}

/** The folder of native/ that a file lies in; undefined where it is no layer. */
function layerOf(file) {
  const folder = path.posix.dirname(file).replace(/^native\/?/, '');
  return Object.hasOwn(nativeLayers, folder) ? folder : undefined;
}

function checkNativeFile(root, file, text) {
  const problems = [];
  const folder = layerOf(file);
  if (!folder) return [`${file}: ${path.posix.dirname(file)} is not a layer; scripts/check-layers.mjs lists them`];
  const allowed = nativeLayers[folder];
  for (const [, quoted, angled] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)/gm)) {
    const name = quoted ?? angled;
    if (/^(napi|node_api|js_native_api|node)\b.*\.h$/.test(name) && !/^bind\b/.test(folder)) {
      problems.push(`${file}: only native/bind includes ${name}`);
    }
    if (angled && file.endsWith('_simd.cpp') && !simdHeaders.includes(angled)) {
      problems.push(`${file}: a *_simd.cpp may not include <${angled}>`);
    }
    if (!ofCuda.test(file) && (ofCuda.test(name) || cudaHeaders.test(angled ?? '')) && !guarded(angled, text)) {
      problems.push(`${file}: only *_cuda.cpp, *_cuda.h, *.cu and *.cuh may include ${name}`);
    }
    if (!quoted || /^dnnl\w*\.hp*$/.test(quoted) || fs.existsSync(path.join(root, 'third_party', quoted))) continue;
    const target = layerOf(`native/${quoted}`);
    if (quoted.includes('..') || !fs.existsSync(path.join(root, 'native', quoted))) {
      problems.push(`${file}: "${quoted}" is not a path from native/`);
    } else if (target !== folder && !allowed.includes(target)) {
      problems.push(`${file}: native/${folder} may not include native/${target} ("${quoted}")`);
    }
  }
  return problems;
}

/** The imports of a TypeScript file as { from, types }; `types` when the compiler erases it. */
function importsOf(text) {
  const found = [];
  const declaration = /^(?:import|export)\s+(type\s+)?(?:([^;'"]*?)\s+from\s+)?['"]([^'"]+)['"]/gm;
  for (const [, type, names, from] of text.matchAll(declaration)) {
    const braces = /^\{([^}]*)\}$/.exec(names?.trim() ?? '');
    const onlyTypes = braces?.[1].split(',').every((name) => !name.trim() || name.trim().startsWith('type '));
    found.push({ from, types: Boolean(type) || Boolean(onlyTypes) });
  }
  for (const [, from] of text.matchAll(/\b(?:import|require)\(\s*['"]([^'"]+)['"]\s*\)/g)) {
    found.push({ from, types: false });
  }
  return found;
}

/** The folder below src/ that a file lies in; undefined for a file of src/ itself. */
const roomOf = (file) => (file.split('/').length > 2 ? file.split('/')[1] : undefined);

/** One problem for each folder with more files than are seen at a glance. */
function crowdedFolders(files) {
  const counts = new Map();
  for (const file of files) counts.set(path.posix.dirname(file), (counts.get(path.posix.dirname(file)) ?? 0) + 1);
  return [...counts]
    .filter(([, count]) => count > mostFiles)
    .map(([folder, count]) => `${folder}: ${count} files, more than ${mostFiles}`);
}

function checkSourceFile(file, text, dependencies) {
  const problems = [];
  if (file === 'src/index.ts') {
    const rest = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '').replace(/export\s[^;]*?\sfrom\s+'[^']+';/g, '');
    if (rest.trim()) problems.push(`${file}: only re-exports belong here`);
  }
  if (file !== addonLoader && /\.node['"`]|process\.dlopen|createRequire/.test(text)) {
    problems.push(`${file}: only ${addonLoader} loads the addon`);
  }
  const room = roomOf(file);
  if (room && !sourceRooms[room]) {
    problems.push(`${file}: src/${room} is not a room; scripts/check-layers.mjs lists them`);
  } else if (!room && file !== 'src/index.ts') {
    problems.push(`${file}: only index.ts stands in src/ itself`);
  }
  for (const { from } of importsOf(text)) {
    if (from.startsWith('.')) {
      const target = path.posix.join(path.posix.dirname(file), from);
      if (!target.startsWith('src/')) {
        problems.push(`${file}: imports ${from}, outside src/`);
      } else if (room && roomOf(target) !== room && !sourceRooms[room]?.includes(roomOf(target))) {
        problems.push(`${file}: src/${room} may not import ${target}`);
      } else if (!room && roomOf(target) === 'cli') {
        problems.push(`${file}: the command line is for bin/ alone, not ${target}`);
      }
    } else if (!from.startsWith('node:')) {
      const name = from.split('/', from.startsWith('@') ? 2 : 1).join('/');
      if (!dependencies.includes(name)) problems.push(`${file}: ${name} is not among the dependencies in package.json`);
    }
  }
  return problems;
}

/** One problem for each cycle of a graph that is given as a map from each node to those that it leads to. */
function cyclesOf(graph, what) {
  const problems = [];
  const done = new Set();
  const visit = (node, trail) => {
    if (trail.includes(node)) {
      problems.push(`${what}: ${[...trail.slice(trail.indexOf(node)), node].join(' -> ')}`);
    } else if (!done.has(node)) {
      for (const next of graph.get(node) ?? []) visit(next, [...trail, node]);
      done.add(node);
    }
  };
  for (const node of graph.keys()) visit(node, []);
  return problems;
}

/** The cycles of imports that remain after compilation. */
function importCycles(sources) {
  const graph = new Map(
    [...sources].map(([file, text]) => [
      file,
      importsOf(text)
        .filter(({ from, types }) => from.startsWith('.') && !types)
        .map(({ from }) => path.posix.join(path.posix.dirname(file), from).replace(/\.js$/, '.ts')),
    ]),
  );
  return cyclesOf(graph, 'import cycle');
}

/** The cycles of includes: a header and the sources of its name (a.h, a.cpp, a.cu) are one node, native/a. */
function includeCycles(sources) {
  const unitOf = (file) => file.replace(/\.\w+$/, '');
  const graph = new Map();
  for (const [file, text] of sources) {
    const unit = unitOf(file);
    const next = graph.get(unit) ?? new Set();
    for (const [, quoted] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"]+)"/gm)) {
      const target = unitOf(`native/${quoted}`);
      if (target !== unit && sources.has(`native/${quoted}`)) next.add(target);
    }
    graph.set(unit, next);
  }
  return cyclesOf(graph, 'include cycle');
}

/** The folders that nobody finds a file in any more. */
function fullFolders(files) {
  const counts = new Map();
  for (const file of files) {
    const folder = path.posix.dirname(file);
    counts.set(folder, (counts.get(folder) ?? 0) + 1);
  }
  return [...counts].flatMap(([folder, count]) =>
    count > maxFiles ? [`${folder}: ${count} files, more than ${maxFiles}`] : [],
  );
}

/** Every broken rule below `root`, as lines "file: what is wrong". */
export function checkLayers(root) {
  const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');
  const { dependencies } = JSON.parse(read('package.json'));
  const native = filesOf(root, 'native', /\.(cpp|h|cu|cuh)$/);
  const source = filesOf(root, 'src', /\.ts$/);
  const others = ['test', 'bench', 'scripts', 'bin', 'examples'].flatMap((at) =>
    filesOf(root, at, /\.(cpp|h|cu|cuh|js|mjs|ts|py)$/),
  );
  return [
    ...native.flatMap((file) => checkNativeFile(root, file, read(file))),
    ...source.flatMap((file) => checkSourceFile(file, read(file), Object.keys(dependencies))),
    ...crowdedFolders(source),
    ...includeCycles(new Map(native.map((file) => [file, read(file)]))),
    ...fullFolders(native),
    ...importCycles(new Map(source.map((file) => [file, read(file)]))),
    ...[...native, ...source, ...others].flatMap((file) => {
      const lines = read(file).split('\n').length - 1;
      return lines > maxLines ? [`${file}: ${lines} lines, more than ${maxLines}`] : [];
    }),
  ];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const problems = checkLayers(path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..'));
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  if (problems.length > 0) process.exitCode = 1;
}
