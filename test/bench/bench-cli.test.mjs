import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { root, run, start, temporaryFolder, until } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const quick = ['--quick', '--threads', '1', '--rounds'];
const bench = (...args) => run(['bench', ...args]);

const measured = at('measured.json');
const first = await bench('ops', 'unet', ...quick, '2', '--json', measured);
const readMeasured = async () => JSON.parse(await readFile(measured, 'utf8'));
const write = async (name, value) => {
  await writeFile(at(name), typeof value === 'string' ? value : JSON.stringify(value));
  return at(name);
};

function assertRefused({ code, stdout, stderr }, status, message) {
  assert.equal(code, status, stderr);
  assert.match(stderr, message);
  assert.equal(stderr.trim().split('\n').length, 1, stderr);
  assert.equal(stdout, '');
}

test('the table is for people, the file for programs', async () => {
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stdout, /1 thread; the machine's best: multiply-add \d+ GFLOP\/s, copy [\d.]+ GB\/s/);
  // one op may have been held up by other work, hardly all of them
  assert.match(first.stdout, /nano forward conv 3x3 32>32 \+skip 3x64x64 .* (winograd|direct) +[█▏▎▍▌▋▊▉]* *\d+ %/);
  assert.match(first.stdout, /nano (forward|backward) conv .* (winograd|direct) +█.* \d+ %/);
  assert.match(first.stdout, /nano pass, 4 images .* ms .* GFLOP\/s +█{24}/);
  const document = await readMeasured();
  const manifest = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8'));
  const { kind, formatVersion, threads, presets, suites, rounds, versions, confidence } = document;
  assert.deepEqual(
    { kind, formatVersion, threads, presets, suites, rounds, confidence, version: versions.package },
    {
      kind: 'ddad-native-bench',
      formatVersion: 1,
      threads: 1,
      presets: ['nano'],
      suites: ['ops', 'unet'],
      rounds: 2,
      confidence: 0.5,
      version: manifest.version,
    },
  );
  assert.ok(Math.abs(Date.now() - Date.parse(document.date)) < 600_000);
  assert.ok(document.processor && document.instructionSet && versions.onednn && versions.node === process.version);
  assert.ok(document.commit === null || /^[0-9a-f]{40}\+?$/.test(document.commit));
  for (const { suite, name, unit, median, low, high, samples } of document.measurements) {
    assert.ok(low <= median && median <= high && low > 0, name);
    assert.ok(['ops', 'unet'].includes(suite) && unit === 'ms' && samples.length === 2, name);
  }
  const names = document.measurements.map(({ suite, name }) => `${suite}/${name}`);
  assert.equal(new Set(names).size, names.length);
  for (const direction of ['forward', 'backward']) {
    const ops = document.measurements.filter(({ name }) => name.startsWith(`nano ${direction}`));
    const share = ops.reduce((sum, { details }) => sum + details.share, 0);
    assert.ok(Math.abs(share - 1) < 1e-9);
    assert.ok(ops.every(({ gbs, details }) => gbs > 0 && details.count > 0 && details.kernel));
    assert.ok(ops.filter(({ name }) => name.includes('conv')).every(({ gflops }) => gflops > 0));
  }
});

test('the other suites measure what they say', async () => {
  const { code, stdout, stderr } = await bench('train', 'score', 'io', 'memory', ...quick, '1', '--json=-');
  assert.equal(code, 0, stderr);
  const { measurements } = JSON.parse(stdout);
  const units = Object.fromEntries(measurements.map(({ suite, name, unit }) => [`${suite}/${name}`, unit]));
  assert.deepEqual(units, {
    'train/nano step, batch 8': 'ms',
    'score/nano images': 'images/s',
    'score/nano latency p50': 'ms',
    'score/nano latency p90': 'ms',
    'score/nano latency p99': 'ms',
    'io/nano decode, resize, normalise 1280x960 JPEG': 'ms',
    'io/nano load model': 'ms',
    'io/nano save model': 'ms',
    'io/nano start of a process': 'ms',
    'io/nano start to first score': 'ms',
    'memory/nano train, peak': 'MiB',
    'memory/nano score, peak': 'MiB',
  });
  const median = (name) => measurements.find((one) => one.name === name).median;
  assert.ok(median('nano latency p50') <= median('nano latency p99'));
  // measured once and one after the other, so other work may have come between
  assert.ok(median('nano start of a process') < 3 * median('nano start to first score'));
  for (const name of ['nano train, peak', 'nano score, peak']) assert.ok(median(name) > 50 && median(name) < 2000);
});

/** The measured passes as a baseline of 80 processes that took `factor` times as long. */
async function baselineOf(factor) {
  const document = await readMeasured();
  const measurements = document.measurements.filter(({ suite }) => suite === 'unet');
  for (const one of measurements) {
    one.samples = Array.from({ length: 80 }, (_, i) => one.median * factor * (1 + i / 8000));
  }
  return { ...document, suites: ['unet'], measurements };
}

test('a slowdown against a baseline ends with 1 after a second look; noise does not', async () => {
  // so much faster that other work on this machine, then or now, makes no difference
  const slower = await bench('unet', ...quick, '2', '--compare', await write('fast.json', await baselineOf(0.01)));
  assert.equal(slower.code, 1, slower.stderr);
  assert.match(slower.stdout, /unet nano pass, 1 image .* SLOWER/);
  assert.match(slower.stdout, /measurements? (is|are) more than 5 % slower beyond noise, in two looks/);
  assert.match(slower.stderr, /looking again at unet/);
  const accepted = [...quick, '2', '--max-regression', '1000000%', '--json'];
  const calm = await bench('unet', '--compare', at('fast.json'), ...accepted);
  assert.equal(calm.code, 0, calm.stderr);
  const [comparison] = JSON.parse(calm.stdout).comparisons;
  assert.deepEqual(comparison.regressions, []);
  assert.ok(comparison.rows.every(({ slowdown, low }) => slowdown > 0.05 && low > 0));
});

test('a damaged baseline is one clear error', async () => {
  const document = await readMeasured();
  const [one] = document.measurements;
  const broken = (more) => ({ ...document, measurements: [{ ...one, ...more }] });
  for (const [name, value, message] of [
    ['empty.json', '', /ERR_BASELINE: .*empty\.json: expected measurements .* got an empty file/],
    ['text.json', 'ops 3 ms', /ERR_BASELINE: .*text\.json: .*got no JSON/],
    ['cut.json', JSON.stringify(document).slice(0, 900), /ERR_BASELINE: .*got no JSON/],
    ['null.json', 'null', /ERR_BASELINE: .*null\.json: not measurements of "bench --json"/],
    ['other.json', { score: 1 }, /ERR_BASELINE: .*other\.json: not measurements/],
    ['next.json', { ...document, formatVersion: 2 }, /ERR_BASELINE: .*expected .* format version 1, got 2/],
    ['none.json', { ...document, measurements: [] }, /ERR_BASELINE: .*measurements/],
    ['zero.json', broken({ samples: [0] }), /ERR_BASELINE: .*samples/],
    ['unit.json', broken({ unit: 'h' }), /ERR_BASELINE: .*unit/],
  ]) {
    assertRefused(await bench('unet', ...quick, '1', '--compare', await write(name, value)), 1, message);
  }
  assertRefused(await bench('unet', '--compare', at('nowhere.json')), 1, /ERR_FILE_READ: .*nowhere\.json/);
});

test('a baseline of another machine is refused, unless it is forced', async () => {
  const baseline = await baselineOf(1);
  for (const [change, message] of [
    [{ processor: 'Z80' }, /ERR_BASELINE: .*expected processor ".*", got "Z80".*--force/],
    [{ instructionSet: 'mmx' }, /expected instruction set ".*", got "mmx"/],
    [{ threads: 7 }, /expected threads "1", got "7"/],
    [{ presets: ['lite'] }, /expected preset "nano", got "lite"/],
  ]) {
    const file = await write('elsewhere.json', { ...baseline, ...change });
    assertRefused(await bench('unet', ...quick, '1', '--compare', file), 1, message);
  }
  const forced = await bench('unet', ...quick, '1', '--force', '--compare', at('elsewhere.json'));
  assert.equal(forced.code, 0, forced.stderr);
  assert.match(forced.stdout, /too few processes for a verdict: give --rounds \d+ or more/);
});

test('another build runs in turn; what is none is refused', async () => {
  const own = path.join(root, 'build', 'Release', 'ddad.node');
  for (const against of [root, own]) {
    const { code, stdout, stderr } = await bench('unet', ...quick, '1', '--against', against, '--json');
    assert.equal(code, 0, stderr);
    const document = JSON.parse(stdout);
    assert.equal(document.against.measurements.length, 2);
    assert.equal(document.comparisons[0].against, against);
  }
  await mkdir(at('package/bin'), { recursive: true });
  await mkdir(at('package/build/Release'), { recursive: true });
  await writeFile(at('package/bin/ddad-native.js'), '');
  const refused = async (against, status, message) =>
    assertRefused(await bench('unet', ...quick, '1', '--against', against), status, message);
  await refused(at('nowhere'), 2, /ERR_OPTION: --against: expected the folder of a built ddad-native.*no such/);
  await refused(measured, 2, /ERR_OPTION: .*measured\.json: a file that is no addon/);
  await refused(folder, 2, /ERR_OPTION: .*a folder without bin/);
  await refused(at('package'), 2, /ERR_OPTION: .*no build\/Release\/ddad\.node/);
  await writeFile(at('package/build/Release/ddad.node'), 'no addon');
  await refused(at('package'), 2, /ERR_OPTION: .*no dist\/bench\/worker\.js; .* give its addon/);
  await refused(at('package/build/Release/ddad.node'), 1, /ERR_ADDON: .*does not load/);
});

test('a command line that cannot be understood', async () => {
  for (const [args, message] of [
    [['opps'], /suite: expected ops, unet, .*, got "opps"; did you mean "ops"\?/],
    [['ops', '--preset', 'base'], /--preset: expected nano, lite, got "base"/],
    [['ops', '--rounds', '0'], /--rounds: expected a whole number from 1 to 200, got "0"/],
    [['ops', '--threads', '1.5'], /--threads: expected a whole number from 0 to 1024/],
    [['ops', '--max-regression', 'much'], /--max-regression: expected a percentage such as 5%, got "much"/],
    [['ops', '--compare'], /compare/],
    [['ops', '--json', 'a', '--json', 'b'], /--json: given twice/],
    [['ops', '--jsn'], /did you mean "--json"\?/],
  ]) {
    assertRefused(await bench(...args), 2, message);
  }
  assertRefused(await bench('ops', ...quick, '1', '--json', folder), 1, /ERR_FILE_WRITE: .*found a folder/);
});

/** Processes that a process has started and that are still there. */
async function childrenOf(pid) {
  const found = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
    if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === pid) found.push(Number(name));
  }
  return found;
}

const skip = !existsSync('/proc/self/stat');
test('Ctrl-C ends with 130 at once and leaves neither a process nor a file behind', { skip }, async () => {
  const temporary = at('temporary');
  await mkdir(temporary);
  const { child, finished } = start(['bench', 'train', ...quick, '50'], { env: { TMPDIR: temporary } });
  await until(async () => (await childrenOf(child.pid)).length > 0 && (await readdir(temporary)).length > 0);
  await new Promise((resolve) => setTimeout(resolve, 700));
  let children = [];
  await until(async () => (children = await childrenOf(child.pid)).length > 0); // one ends before the next begins
  const before = performance.now();
  child.kill('SIGINT');
  const { code, stderr } = await finished;
  assert.equal(code, 130, stderr);
  // all rounds take a minute
  assert.ok(performance.now() - before < 15_000, `took ${performance.now() - before} ms`);
  for (const pid of children) assert.ok(!existsSync(`/proc/${pid}`), `process ${pid} is still there`);
  assert.deepEqual(await readdir(temporary), []);
});

test('a parent that is killed takes its processes with it', { skip }, async () => {
  const { child, finished } = start(['bench', 'train', ...quick, '50'], { env: { TMPDIR: at('temporary') } });
  let children = [];
  await until(async () => (children = await childrenOf(child.pid)).length > 0);
  child.kill('SIGKILL');
  await finished;
  await until(() => children.every((pid) => !existsSync(`/proc/${pid}`)));
});
