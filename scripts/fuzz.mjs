// Builds the fuzz targets with clang and runs them, then the fuzzers of the JavaScript side.
//   npm run fuzz                                     every target, a short while each
//   npm run fuzz -- --minutes 10 [target ...]        each of these for so long
//   npm run fuzz -- --runs 20000 --seed 1 [target ...]   so many inputs each, the same every time
//   npm run fuzz -- --available                       whether clang can build the targets, as the exit status
//   npm run fuzz -- --merge [target ...]             what new inputs found goes into the kept corpora
// Targets: those of test/fuzz/native, `binding` and `images`. What a run adds to a corpus lies in build-fuzz/corpus, what
// it finds in build-fuzz/findings; a finding's input belongs into test/fuzz/corpus/<target> with its repair.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { configurationState, generator, jobs, optionsFromEnvironment } from './lib/cmake.mjs';
import { capture, fail, root, run, status } from './lib/run.mjs';
import { setup } from './setup.mjs';

/** Native targets, with the longest input of each and its share of --runs: some load and score a model a run. */
const natives = {
  header: { length: 1024, share: 4, dictionary: 'header.dict' },
  safetensors: { length: 2048, share: 1, dictionary: 'header.dict' },
  config: { length: 2048, share: 0.5 },
  model: { length: 32768, share: 0.05 },
  model_config: { length: 2048, share: 0.05 },
  checkpoint: { length: 65536, share: 1 },
  backbone: { length: 16384, share: 0.1 },
  choices: { length: 1024, share: 0.5 },
  pickle: { length: 2048, share: 2, dictionary: 'pickle.dict' },
  torch: { length: 4096, share: 2, dictionary: 'pickle.dict' },
  import: { length: 65536, share: 0.5 },
  verify: { length: 16384, share: 0.1 },
};
/** What merging leaves in a corpus of the repository: so many inputs, of all sizes, and bytes. */
const keptInputs = 60;
const keptBytes = 40_000;
const scripts = { binding: 0.1, images: 0.05 };

function options(args) {
  const found = { targets: [], seed: 1 };
  for (let i = 0; i < args.length; i++) {
    const name = args[i].replace(/^--/, '');
    if (args[i] === '--merge') found.merge = true;
    else if (['--minutes', '--runs', '--seed'].includes(args[i])) {
      const value = Number(args[++i]);
      if (!(value >= 0)) fail(`--${name}: expected a number, got ${args[i]}`);
      found[name] = value;
    } else if (args[i] in natives || args[i] in scripts) found.targets.push(args[i]);
    else
      fail(
        `expected --minutes, --runs, --seed, --merge or targets of ${[...Object.keys(natives), ...Object.keys(scripts)].join(', ')}; got ${args[i]}`,
      );
  }
  if (found.runs === undefined && found.minutes === undefined) found.minutes = 0.5;
  if (found.targets.length === 0) found.targets = [...Object.keys(natives), ...Object.keys(scripts)];
  return found;
}

const build = path.join(root, 'build-fuzz');
const program = path.join(build, 'ddad_fuzz');
const compiler = process.env.DDAD_FUZZ_CXX || 'clang++';

function buildNatives() {
  if (!available()) {
    fail(
      `the native targets need clang with libFuzzer, ${compiler} is not it or not there: install clang and ` +
        'libclang-rt-14-dev (on Debian 12), or name another in DDAD_FUZZ_CXX',
    );
  }
  setup();
  const wanted = {
    ...optionsFromEnvironment(),
    DDAD_FUZZ: 'ON',
    CMAKE_BUILD_TYPE: 'Release',
    CMAKE_CXX_FLAGS_RELEASE: '-O1 -DNDEBUG',
  };
  if (configurationState(build, wanted) !== 'fresh') {
    const entries = Object.entries({ ...wanted, CMAKE_CXX_COMPILER: compiler });
    run('cmake', ['-S', root, '-B', build, ...generator(), ...entries.map(([key, value]) => `-D${key}=${value}`)]);
  }
  run('cmake', ['--build', build, '--parallel', jobs, '--target', 'ddad_fuzz']);
}

const folder = (...names) => {
  const made = path.join(...names);
  fs.mkdirSync(made, { recursive: true });
  return made;
};

function environment(target, more = {}) {
  return {
    ...process.env,
    ASAN_OPTIONS: 'malloc_context_size=4:quarantine_size_mb=16',
    LSAN_OPTIONS: `suppressions=${path.join(root, 'cmake', 'lsan.supp')}:print_suppressions=0`,
    UBSAN_OPTIONS: 'print_stacktrace=1',
    DDAD_FUZZ_TARGET: target,
    ...more,
  };
}

/** The folders of a target: what runs add, what the code of the target begins with, what is kept. */
function corpora(target) {
  const seeds = folder(build, 'seeds', target);
  run(program, [], { env: environment(target, { DDAD_FUZZ_SEEDS: seeds }) });
  return { added: folder(build, 'corpus', target), seeds, kept: folder(root, 'test', 'fuzz', 'corpus', target) };
}

function fuzzNative(target, given) {
  const { length, share, dictionary } = natives[target];
  const { added, seeds, kept } = corpora(target);
  const findings = folder(build, 'findings', target);
  // A fixed number of runs begins from what is in the repository alone: then it does the same everywhere.
  const places = given.runs === undefined ? [added, seeds, kept] : [folder(build, 'scratch', target), seeds, kept];
  if (given.runs !== undefined) for (const file of fs.readdirSync(places[0])) fs.rmSync(path.join(places[0], file));
  const amount =
    given.runs === undefined
      ? `-max_total_time=${Math.round(given.minutes * 60)}`
      : `-runs=${Math.round(given.runs * share)}`;
  const limits = [`-max_len=${length}`, '-timeout=20', '-rss_limit_mb=2560', '-malloc_limit_mb=1024'];
  const flags = [amount, `-seed=${given.seed}`, ...limits, `-artifact_prefix=${findings}${path.sep}`];
  if (dictionary) flags.push(`-dict=${path.join(root, 'test', 'fuzz', dictionary)}`);
  flags.push('-print_final_stats=1');
  const started = performance.now();
  const result = spawnSync(program, [...flags, ...places], {
    encoding: 'utf8',
    env: environment(target),
    maxBuffer: 1 << 28,
  });
  const seconds = (performance.now() - started) / 1000;
  if (result.status !== 0) {
    process.stdout.write(
      `${result.stdout}${result.stderr.slice(-8000)}\n${target}: FOUND something, seed ${given.seed}\n`,
    );
    return false;
  }
  const count = Number(/number_of_executed_units:\s+(\d+)/.exec(result.stderr)?.[1]);
  process.stdout.write(`${target}: ${count} inputs in ${seconds.toFixed(0)} s, no finding\n`);
  return true;
}

function fuzzScript(target, given) {
  const amount =
    given.runs === undefined
      ? ['--minutes', String(given.minutes)]
      : ['--runs', String(Math.round(given.runs * scripts[target]))];
  const file = path.join(root, 'test', 'fuzz', `${target}.mjs`);
  // Of hostile files libvips says more than anybody reads.
  const stdio = ['ignore', 'pipe', 'pipe'];
  const args = ['--expose-gc', file, ...amount, '--seed', String(given.seed)];
  const result = spawnSync(process.execPath, args, { cwd: root, stdio, encoding: 'utf8', maxBuffer: 1 << 28 });
  process.stdout.write(result.stdout.split('\n').slice(-2).join('\n'));
  if (result.status !== 0)
    process.stdout.write(
      `${result.stderr.replace(/^.*GLib-GObject-CRITICAL.*\n\n?/gm, '')}\n${target}: FOUND something\n`,
    );
  return result.status === 0;
}

/** Adds to the kept corpus the smallest inputs that reach what it does not. */
function merge(target) {
  const { added, seeds, kept } = corpora(target);
  const limits = [`-max_len=${natives[target].length}`, '-timeout=20', '-rss_limit_mb=2560', '-malloc_limit_mb=1024'];
  // seeds are written by the target's own code, so they count as known
  const known = folder(build, 'merge', target);
  fs.rmSync(known, { recursive: true });
  fs.cpSync(kept, known, { recursive: true });
  fs.cpSync(seeds, known, { recursive: true });
  const before = new Set(fs.readdirSync(known));
  const quiet = { env: environment(target), stdio: 'ignore' };
  if (status(program, ['-merge=1', ...limits, known, added], quiet) !== 0) fail(`${target}: merging failed`);
  const size = (name) => fs.statSync(path.join(known, name)).size;
  const gained = fs.readdirSync(known).filter((name) => !before.has(name));
  const old = fs.readdirSync(kept);
  let bytes = old.reduce((sum, name) => sum + size(name), 0);
  const step = Math.max(1, gained.length / Math.max(1, keptInputs - old.length));
  const spread = gained
    .sort((a, b) => size(a) - size(b))
    .filter((_, i) => Math.floor(i / step) > Math.floor((i - 1) / step));
  const room = old.length < keptInputs ? spread.filter((name) => (bytes += size(name)) <= keptBytes) : [];
  for (const name of room) fs.copyFileSync(path.join(known, name), path.join(kept, name));
  process.stdout.write(`${target}: ${room.length} of ${gained.length} inputs kept\n`);
}

/** Whether the compiler is there with what libFuzzer needs. */
function available() {
  const source = path.join(folder(build), 'probe.cpp');
  fs.writeFileSync(source, 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }\n');
  return capture(compiler, ['-fsanitize=fuzzer,address', source, '-o', path.join(build, 'probe')]).code === 0;
}

if (process.argv[2] === '--available') process.exit(available() ? 0 : 1);
const given = options(process.argv.slice(2));
const wanted = given.targets.filter((target) => target in natives);
if (wanted.length > 0) buildNatives();
if (given.merge) {
  wanted.forEach(merge);
} else {
  const failed = given.targets.filter((target) => !(target in natives ? fuzzNative : fuzzScript)(target, given));
  if (failed.length > 0) fail(`FOUND in: ${failed.join(', ')}`);
}
