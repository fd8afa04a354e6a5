// Measures this build, keeps every run, and compares it with those before.
//   bench/nightly/run [--out bench-history] [--runs 7] [--baseline FILE] [-- arguments of "bench"]
// In the folder `out`: history.jsonl has a document of "bench --json" a line, history.html draws them; a folder is for
// runs with the same arguments. A run is compared with the processes of the last `runs` runs on the same kind of
// machine, or with a baseline file; the exit status is that of "bench": 1 when something became slower.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { fail, root } from '../../scripts/lib/run.mjs';

const load = createRequire(import.meta.url);
const dist = path.join(root, 'dist', 'bench');
if (!fs.existsSync(path.join(dist, 'history.js')))
  fail('bench/nightly/run: not built; run "npm ci && npm run build" first');
const { poolHistory, readHistory, sameMachine } = load(path.join(dist, 'history.js'));
const { Bench } = load(path.join(dist, 'measure.js'));
const { ownBuild } = load(path.join(dist, 'builds.js'));
const { historyPage } = load(path.join(dist, 'history-page.js'));

const { values, positionals } = parseArgs({
  options: {
    out: { type: 'string', default: path.join(root, 'bench-history') },
    runs: { type: 'string', default: '7' },
    baseline: { type: 'string' },
  },
  allowPositionals: true,
});
if (!(Number(values.runs) >= 1)) fail(`--runs: expected a number of runs, got "${values.runs}"`);

fs.mkdirSync(values.out, { recursive: true });
const at = (name) => path.join(values.out, name);
const history = await readHistory(at('history.jsonl'));

/** Runs "bench" and returns its exit status; anything but an answer ends this script. */
function bench(args) {
  const { status } = spawnSync(process.execPath, [path.join(root, 'bin', 'ddad-native.js'), 'bench', ...args], {
    stdio: 'inherit',
  });
  if (status !== 0 && status !== 1) process.exit(status ?? 1);
  return status;
}

const current = at('current.json');
fs.rmSync(current, { force: true });
const compare = values.baseline === undefined ? await pooled() : ['--compare', values.baseline];
const status = bench([...positionals, ...compare, '--json', current]);
if (!fs.existsSync(current)) process.exit(status);
const { comparisons = [], ...document } = JSON.parse(fs.readFileSync(current, 'utf8'));

fs.appendFileSync(at('history.jsonl'), `${JSON.stringify(document)}\n`);
fs.writeFileSync(at('history.html'), await historyPage(sameMachine([...history, document], document)));
process.stderr.write(`written to ${at('history.jsonl')} and ${at('history.html')}\n`);
for (const { regressions } of comparisons) {
  for (const { suite, name, slowdown } of regressions) {
    process.stderr.write(`SLOWER: ${suite} ${name}, by ${(100 * slowdown).toFixed(1)} %\n`);
  }
}
process.exitCode = status;

/** The arguments that compare with the last runs on this kind of machine. */
async function pooled() {
  if (history.length === 0) return [];
  const flag = positionals.findIndex((word) => /^--threads\b/.test(word));
  const threads = flag < 0 ? 0 : Number(positionals[flag].split('=')[1] ?? positionals[flag + 1]);
  const build = ownBuild();
  const measured = await Bench.open([build], threads, new AbortController().signal);
  const here = sameMachine(history, measured.environment(build));
  await measured.close();
  const baseline = poolHistory(here, Number(values.runs));
  if (!baseline) return [];
  fs.writeFileSync(at('baseline.json'), JSON.stringify(baseline));
  return ['--compare', at('baseline.json')];
}
