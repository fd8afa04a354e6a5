// What can be known of the CUDA device without a GPU, after `npm run build:cuda`: its size and what it exports; that no
// kernel of ours spills registers; that those which memory bounds load 16 bytes at a time; that there is code for every
// architecture; and that the addon loads it and says what is missing. Prints a summary; ends with 1 where something is
// not as it should be.
//   node scripts/check-cuda.mjs [build folder]
import fs from 'node:fs';
import path from 'node:path';
import { readCache } from './lib/cmake.mjs';
import { capture, fail, root } from './lib/run.mjs';

const build = path.resolve(process.argv[2] ?? path.join(root, 'build'));
const library = path.join(build, 'libddad_cuda.so');
const reports = path.join(build, 'cuda');

/** Kernels that may have a stack frame or spill registers, each with the reason. */
const exceptions = [
  { name: /TimestepValues/, reason: 'sine and cosine of large arguments keep the digits of 2 / pi on the stack' },
];

/** Kernels that memory bounds, by their names; `but` are copies for what is not aligned to 16 bytes. */
const memoryBound = [
  { what: 'group norm', name: /Norm(Grad)?(Sums|Apply)\b/ },
  { what: 'noising', name: /NoiseImages/ },
  { what: 'loss', name: /LossElements/ },
  { what: 'AdamW', name: /AdamwEma/ },
  { what: 'cast to bfloat16', name: /ConvertFlat|ToHalf/ },
  { what: 'resampling', name: /SpreadPixels|GatherPixels/ },
];

const problems = [];
const say = (line) => process.stdout.write(`${line}\n`);

function tool(name) {
  const nvcc = fs.readFileSync(path.join(reports, 'nvcc.txt'), 'utf8').trim();
  const beside = path.join(path.dirname(nvcc), name);
  return fs.existsSync(beside) ? beside : name;
}

function output(command, args) {
  const result = capture(command, args);
  if (result.code !== 0) fail(`${command} ${args.join(' ')} failed:\n${result.output.slice(0, 2000)}`);
  return result.output;
}

/** Names as they are written in the source. */
function demangled(names) {
  const result = capture('c++filt', [], { stdio: ['pipe', 'pipe', 'inherit'], input: names.join('\n') });
  if (result.code !== 0) fail('c++filt (binutils) was not found on the PATH');
  return new Map(
    result.output
      .trim()
      .split('\n')
      .map((name, i) => [names[i], shortened(name)]),
  );
}

/** `gridKernel<Kernel>` without return type, arguments and the names of namespaces. */
function shortened(name) {
  return name
    .replace(/\(anonymous namespace\)::|ddad::/g, '')
    .replace(/^void /, '')
    .replace(/\(.*\)$/, '');
}

function checkLibrary() {
  const bytes = fs.statSync(library).size;
  say(`libddad_cuda.so: ${(bytes / 2 ** 20).toFixed(1)} MiB`);
  const symbols = output('nm', ['-D', '--defined-only', library]).trim().split('\n');
  const exported = symbols.map((line) => line.split(' ').at(-1)).sort();
  const wanted = ['ddadCudaBuildId', 'ddadDescribeCuda', 'ddadOpenCuda'];
  if (exported.join() !== wanted.join()) problems.push(`exports ${exported.join(', ')}, not ${wanted.join(', ')}`);
  const needed = [...output('readelf', ['-d', library]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name);
  say(`needs ${needed.join(', ')}`);
  for (const name of ['libcudnn.so.9', 'libcublasLt.so.13']) {
    if (!needed.includes(name)) problems.push(`does not name ${name} as needed`);
  }
  for (const name of needed.filter((name) => /libcuda\.so|libcudart|\//.test(name))) {
    problems.push(`must not need ${name}`);
  }
}

function checkArchitectures() {
  const archs = readCache(build).DDAD_CUDA_ARCHS.split(';');
  const found = (option) => [
    ...new Set([...output(tool('cuobjdump'), [option, library]).matchAll(/\.sm_(\d+)\./g)].map(([, arch]) => arch)),
  ];
  const machine = found('-lelf').sort();
  const portable = found('-lptx').sort();
  say(`machine code for ${machine.join(', ')}; portable code of ${portable.join(', ')}`);
  if (machine.join() !== [...archs].sort().join()) problems.push(`machine code is wanted for ${archs.join(', ')}`);
  if (portable.join() !== archs.at(-1)) problems.push(`portable code is wanted of ${archs.at(-1)}`);
}

function checkRegisters() {
  const files = fs.readdirSync(reports).filter((name) => name.endsWith('.cu.o.txt'));
  const entries = files.flatMap((file) => {
    const text = fs.readFileSync(path.join(reports, file), 'utf8');
    const pattern =
      /entry function '(\S+)' for '(\w+)'\n.*\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*Used (\d+) registers/g;
    const found = [...text.matchAll(pattern)];
    const count = [...text.matchAll(/Compiling entry function/g)].length;
    if (found.length !== count) problems.push(`${file}: ${count} kernels, the report of ${found.length} is understood`);
    return found.map(([, name, arch, ...numbers]) => ({ name, arch, numbers: numbers.map(Number) }));
  });
  if (entries.length === 0) return problems.push('there is no report of the compiler');
  const names = demangled([...new Set(entries.map(({ name }) => name))]);
  const used = new Set();
  for (const { name, arch, numbers } of entries) {
    const [stack, stores, loads] = numbers;
    if (stack + stores + loads === 0) continue;
    const exception = exceptions.find((entry) => entry.name.test(names.get(name)));
    if (exception) used.add(exception);
    else problems.push(`${names.get(name)} for ${arch}: stack frame ${stack}, spills ${stores} and ${loads} bytes`);
  }
  for (const entry of exceptions.filter((entry) => !used.has(entry))) {
    problems.push(`the exception ${entry.name} is of no use any more`);
  }
  const most = entries.reduce((a, b) => (b.numbers[3] > a.numbers[3] ? b : a));
  say(`${names.size} kernels; most registers: ${most.numbers[3]} (${names.get(most.name)}, ${most.arch})`);
  for (const { name, reason } of exceptions) say(`  may spill: ${name} (${reason})`);
}

function checkLoads() {
  const arch = readCache(build).DDAD_CUDA_ARCHS.split(';').at(-1);
  const text = output(tool('cuobjdump'), ['-sass', '-arch', `sm_${arch}`, library]);
  const functions = text.split(/^\s*Function : /m).slice(1);
  const bodies = new Map(functions.map((body) => [body.slice(0, body.indexOf('\n')).trim(), body]));
  const names = demangled([...bodies.keys()]);
  for (const { what, name, but } of memoryBound) {
    const kernels = [...bodies].filter(([key]) => name.test(names.get(key)) && !but?.test(names.get(key)));
    if (kernels.length === 0) problems.push(`${what}: no kernel has such a name (${name})`);
    const narrow = kernels.filter(([, body]) => !/\bLDG\.E(\.\w+)*\.128\b/.test(body));
    for (const [key] of narrow) problems.push(`${what}: ${names.get(key)} has no loads of 16 bytes`);
    say(`  ${what}: ${kernels.length - narrow.length} of ${kernels.length} kernels load 16 bytes at a time`);
  }
}

/** What the addon says of the GPU, in a process of its own. */
function checkMessage() {
  const script =
    "const { addon } = require(process.argv[1]); const info = JSON.parse(addon().info()); process.stdout.write(info.devices.find(({ name }) => name === 'cuda').reason ?? 'a GPU');";
  const native = path.join(root, 'dist', 'engine', 'native.js');
  const said = output(process.execPath, ['-e', script, native]);
  say(`device cuda: ${said}`);
  if (fs.existsSync('/dev/nvidiactl')) return;
  if (!said.startsWith('no NVIDIA driver was found (libcuda.so.1)')) problems.push(`the message is not the right one`);
}

if (!fs.existsSync(library)) fail(`${library} is not built: run "npm run build:cuda" first`);
checkLibrary();
checkArchitectures();
checkRegisters();
checkLoads();
checkMessage();
for (const problem of problems) process.stderr.write(`${problem}\n`);
if (problems.length > 0) process.exitCode = 1;
