// Does `bench` find a slower kernel, and does it leave an unchanged build alone? Builds a copy of the addon in which
// one kernel takes 10 % longer (build-planted/, from a patched copy of the sources), then measures it against this
// build both ways that the command has.
//   node bench/ours/planted.mjs [--kernel norm|attention|winograd|direct] [--slowdown 10] [--runs 3] [--build-only]
// Fails unless --against and --compare call the planted kernel slower, and nothing else; and unless --compare finds
// nothing in any of `runs` runs of the unchanged build.
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { generator, jobs, nodeHeaders, optionsFromEnvironment } from '../../scripts/lib/cmake.mjs';
import { capture, fail, root, run } from '../../scripts/lib/run.mjs';

/** Where each kernel's forward stands, and how its rows of the suite `ops` are told from others. */
const kernels = {
  norm: { file: 'native/ops/group_norm/group_norm.cpp', of: ({ name }) => name.includes(' norm ') },
  attention: { file: 'native/ops/attention/attention.cpp', of: ({ name }) => name.includes(' attention ') },
  winograd: { file: 'native/ops/conv/winograd_conv.cpp', of: ({ details }) => details.kernel === 'winograd' },
  direct: { file: 'native/ops/conv/direct_conv.cpp', of: ({ details }) => details.kernel === 'direct' },
};

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', default: 'norm' },
    slowdown: { type: 'string', default: '10' },
    runs: { type: 'string', default: '3' },
    threads: { type: 'string', default: '0' },
    'build-only': { type: 'boolean', default: false },
  },
});
const kernel = kernels[values.kernel];
if (!kernel) fail(`--kernel: expected ${Object.keys(kernels).join(', ')}, got "${values.kernel}"`);
const slowdown = Number(values.slowdown) / 100;
if (!(slowdown > 0 && slowdown < 10)) fail(`--slowdown: expected a percentage, got "${values.slowdown}"`);

const folder = path.join(root, 'build-planted');
const source = path.join(folder, 'source');
const forward = 'void forward() override {';
const header = `#pragma once
#include <chrono>

#include "device/parallel.h"

namespace ddad {

/// Lets the block that it stands in take a share longer than it does: on all threads, since one that fell asleep
/// meanwhile would make the next op slower, too.
class Planted {
 public:
  explicit Planted(int threads) : threads_(threads) {}
  ~Planted() {
    const auto until = Clock::now() + (Clock::now() - start_) * PERCENT / 100;
    parallelFor(threads_, threads_, [&](int64_t) {
      while (Clock::now() < until) continue;
    });
  }

 private:
  int threads_;
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace ddad
`;

/** Writes a file of the copy unless it is there already, so that only what has changed is compiled again. */
function put(name, text) {
  const to = path.join(source, name);
  if (fs.existsSync(to) && fs.readFileSync(to).equals(Buffer.from(text))) return;
  fs.mkdirSync(path.dirname(to), { recursive: true });
  fs.writeFileSync(to, text);
}

function copySources() {
  const names = ['native', 'cmake', 'third_party'].flatMap((top) =>
    fs
      .readdirSync(path.join(root, top), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name))),
  );
  for (const name of [...names, 'CMakeLists.txt']) {
    let text = fs.readFileSync(path.join(root, name));
    if (name === path.normalize(kernel.file)) {
      const plain = text.toString('utf8');
      if (!plain.includes(forward)) fail(`${name}: expected "${forward}" to plant a slowdown in`);
      text = `#include "ops/planted.h"\n${plain.replaceAll(forward, `${forward}\n    const Planted planted(threads());`)}`;
    }
    put(name, text);
  }
  put('native/ops/planted.h', header.replace('PERCENT', String(Math.round(100 * slowdown))));
}

function buildPlanted() {
  copySources();
  const onednn = path.join(root, '.deps', 'onednn', 'lib', 'cmake', 'dnnl');
  // node-addon-api names its folder from the working folder on
  const headers = nodeHeaders()
    .split(';')
    .map((name) => path.resolve(root, name))
    .join(';');
  const options = { CMAKE_BUILD_TYPE: 'Release', DDAD_NODE_HEADERS: headers, ...optionsFromEnvironment() };
  if (fs.existsSync(onednn)) options.dnnl_DIR ??= onednn;
  options.CMAKE_LIBRARY_OUTPUT_DIRECTORY = path.join(folder, 'Release');
  const settings = Object.entries(options).map(([key, value]) => `-D${key}=${value}`);
  run('cmake', ['-S', source, '-B', path.join(folder, 'cmake'), ...generator(), ...settings]);
  run('cmake', ['--build', path.join(folder, 'cmake'), '--parallel', jobs, '--target', 'ddad_addon']);
  return path.join(folder, 'Release', 'ddad.node');
}

/** Runs the suite `ops` with an addon; returns its exit status and what it found slower, or ends the script. */
function bench(addon, args) {
  const out = path.join(folder, 'result.json');
  const line = ['bench', 'ops', '--quick', '--threads', values.threads, ...args, '--json', out];
  const env = { ...process.env, DDAD_ADDON: addon };
  const { code, output } = capture(process.execPath, [path.join(root, 'bin', 'ddad-native.js'), ...line], { env });
  if (code !== 0 && code !== 1) fail(output);
  const { comparisons = [], measurements } = JSON.parse(fs.readFileSync(out, 'utf8'));
  const planted = new Set(measurements.filter(kernel.of).map(({ name }) => name));
  const slower = comparisons.flatMap(({ regressions }) => regressions);
  return { out, code, slower, stray: slower.filter(({ name }) => !planted.has(name) || name.includes('backward')) };
}

const problems = [];
function expectSlower(what, { code, slower, stray }) {
  const worst = slower.map(({ name, slowdown: by }) => `${name} +${(100 * by).toFixed(1)} %`);
  process.stdout.write(`${what}: status ${code}, slower: ${worst.join('; ') || 'nothing'}\n`);
  if (code !== 1 || slower.length === 0) problems.push(`${what}: the planted slowdown was not found`);
  if (stray.length > 0) problems.push(`${what}: ${stray.map(({ name }) => name).join(', ')} called slower`);
}

const plain = path.join(root, 'build', 'Release', 'ddad.node');
const planted = buildPlanted();
if (values['build-only']) process.exit();
const baseline = path.join(folder, 'baseline.json');
fs.copyFileSync(bench(plain, []).out, baseline);
expectSlower('planted --compare', bench(planted, ['--compare', baseline]));
expectSlower('planted --against', bench(planted, ['--against', plain]));
for (let i = 1; i <= Number(values.runs); i++) {
  const { code, slower } = bench(plain, ['--compare', baseline]);
  process.stdout.write(`unchanged, run ${i}: status ${code}\n`);
  if (code !== 0) problems.push(`run ${i} of the unchanged build: ${slower.map(({ name }) => name).join(', ')}`);
}
if (problems.length > 0) fail(problems.join('\n'));
