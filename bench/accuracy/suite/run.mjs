// Judges the defaults of the package, and peers, on sets of images and on kinds of defects that chose nothing:
//   npm run accuracy -- [--short] --json FILE
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { generate } from './generate.mjs';
import { imagesOf } from './images.mjs';
import { judge } from './judge.mjs';
import { builds, methodFor, methodNames } from './methods.mjs';
import { ownPython } from './peers.mjs';
import { defaultData, setNames, sets } from './sets.mjs';
import { markdown } from './table.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));

const usage = `Usage: npm run accuracy -- [options] --json FILE

Scores every test image of the sets by every method, and writes the figures of both halves of the kinds of defects. What is
there from an earlier run with the same settings and the same build is taken from it; an interrupted run goes on.

  --json FILE         write the figures as JSON; FILE with .md instead of .json gets the table
  --short             minutes instead of hours: few steps, some of the images
  --sets LIST         of ${setNames.join(', ')} (all)
  --methods LIST      of ${methodNames.join(', ')} (all)
  --candidate TEXT    NAME={options of training as JSON}: judged beside the defaults; may be given again
  --steps N           training steps of ours (with --short 60)
  --time-limit MIN    minutes of training of ours where no steps are given (20)
  --seed N            of the defects, of training and of the peers (1)
  --threads N         of each method (2)
  --work DIR          where images, models and results are kept (suite-output)
  --data DIR          folder that holds magnetic-tile and pcb (../shared/data)
  --python DIR        Python environment with the packages of bench/accuracy/requirements.txt (made where it is absent)
  --any-build         take results of other builds of the package, too`;

/** Of the form of results: others are made again. */
const version = 2;
/** What a short run takes. Boards take seconds an image in crops, so there are fewer, and a smaller network. */
const short = {
  limit: { steps: 60 },
  // Of PatchCore.
  bank: 5000,
  most: { train: 120, good: 30, synthetic: 2, real: 15 },
  of: { boards: { most: { train: 60, good: 16, synthetic: 1, real: 12 }, options: { preset: 'nano' } } },
};
/** The side that the peers squash images to: what the package's backbone sees; boards at their own size, as in crops. */
const sideOf = (set) => (set === 'boards' ? 640 : 256);

class UsageError extends Error {}

function parse() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        json: { type: 'string' },
        short: { type: 'boolean', default: false },
        sets: { type: 'string', default: setNames.join(',') },
        methods: { type: 'string', default: methodNames.join(',') },
        candidate: { type: 'string', multiple: true, default: [] },
        steps: { type: 'string' },
        'time-limit': { type: 'string', default: '20' },
        seed: { type: 'string', default: '1' },
        threads: { type: 'string', default: '2' },
        work: { type: 'string', default: path.join(root, 'suite-output') },
        data: { type: 'string', default: defaultData },
        python: { type: 'string', default: ownPython },
        'any-build': { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(error.message);
  }
  const list = (name, known) => {
    const wanted = values[name].split(',');
    const unknown = wanted.find((one) => !known.includes(one));
    if (unknown !== undefined)
      throw new UsageError(`--${name}: expected some of ${known.join(', ')}, got "${unknown}"`);
    return wanted;
  };
  const whole = (name) => {
    if (!/^\d{1,9}$/.test(values[name]))
      throw new UsageError(`--${name}: expected a whole number, got ${values[name]}`);
    return Number(values[name]);
  };
  if (!values.json && !values.help) throw new UsageError('--json: expected a file');
  const steps = values.steps === undefined ? (values.short ? short.limit.steps : undefined) : whole('steps');
  return {
    ...values,
    sets: list('sets', setNames),
    methods: list('methods', methodNames),
    candidates: values.candidate.map(parseCandidate),
    limit: steps === undefined ? { timeLimitMs: 60_000 * whole('time-limit') } : { steps },
    seed: whole('seed'),
    threads: whole('threads'),
    anyBuild: values['any-build'],
  };
}

function parseCandidate(text) {
  const [, name, json] = /^([\w.-]+)=(.*)$/s.exec(text) ?? [];
  try {
    return { name, options: JSON.parse(json) };
  } catch {
    throw new UsageError(`--candidate: expected NAME={"option":value}, got ${text}`);
  }
}

async function readJson(file) {
  return existsSync(file) ? JSON.parse(await readFile(file, 'utf8')) : null;
}

async function writeJson(file, value) {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(`${file}.partial`, `${JSON.stringify(value, null, 1)}\n`);
  await rename(`${file}.partial`, file);
}

/** Whether a result was made with these settings; `build` may differ where it is said so. */
function holds(result, settings, anyBuild) {
  const plain = (value) => JSON.stringify(anyBuild ? { ...value, build: null } : value);
  return result !== null && plain(result.settings) === plain(settings);
}

/** A line that is overwritten on a terminal; elsewhere only what ends. */
function progress(title) {
  let told = 0;
  return (phase, done, text = '') => {
    if (!process.stderr.isTTY || performance.now() - told < 500) return;
    told = performance.now();
    process.stderr.write(`\r\x1b[K${title}: ${phase} ${Math.round(100 * done)} % ${text}`);
  };
}

/** One method on one set, from an earlier run where that holds. */
async function result(method, { file, settings, images, title, anyBuild }) {
  const earlier = await readJson(file);
  if (holds(earlier, settings, anyBuild)) {
    process.stderr.write(`${title}: from an earlier run\n`);
    return earlier;
  }
  const say = progress(title);
  const start = performance.now();
  const opened = await method.open(say);
  let judged;
  try {
    const { score, threshold } = opened;
    const onImage = (at, count) => say('score', at / count, `${at} of ${count} images`);
    judged = await judge({ images, score, threshold, rows: method.rows, onImage });
  } finally {
    opened.close();
  }
  const minutes = (performance.now() - start) / 60_000;
  const titles = Object.fromEntries(method.rows.map(({ row, title: called }) => [row, called]));
  const found = { settings, titles, minutes, ...judged };
  await writeJson(file, found);
  process.stderr.write(`${process.stderr.isTTY ? '\r\x1b[K' : ''}${title}: ${minutes.toFixed(1)} min\n`);
  return found;
}

async function runSet(set, options, build, report) {
  const { work, seed, data, threads, python, limit, anyBuild } = options;
  const say = (text) => process.stderr.write(`${text}\n`);
  const folder = await generate(set, { out: path.join(work, 'data'), seed, data, say });
  const { settings: made } = await readJson(path.join(folder, 'suite.json'));
  const own = options.short ? short.of[set] : undefined;
  const most = options.short ? (own?.most ?? short.most) : {};
  const images = await imagesOf(folder, { seed, most });
  const candidates = [{ name: null, options: {} }, ...options.candidates];
  for (const name of options.methods) {
    for (const candidate of name.startsWith('ours') ? candidates : candidates.slice(0, 1)) {
      const method = methodFor(name, {
        candidate: candidate.name,
        options: { ...sets[set].options, ...own?.options, ...candidate.options },
        ...(options.short && { bank: short.bank }),
        ...{ limit, seed, side: sideOf(set), threads, folder: work, set, images, made, build, python },
      });
      const settings = { version, made, most, ...method.settings };
      const called = candidate.name ? `${candidate.name}-${name}` : name;
      const place = path.join(work, options.short ? 'results-short' : 'results', set, `${called}.json`);
      const title = `${set}, ${called}`;
      try {
        const { images: _, ...found } = await result(method, { file: place, settings, images, title, anyBuild });
        report.results.push({ set, method: called, candidate: candidate.name, ...found });
      } catch (error) {
        report.failed.push({ set, method: called, error: error.message });
        process.stderr.write(`${title}: failed: ${error.stack}\n`);
      }
      // What is known so far, for whom a run is too long.
      await writeJson(options.json, report);
    }
  }
}

async function main() {
  const options = parse();
  if (options.help) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  const { short: isShort, seed, limit } = options;
  const machine = { cpu: os.cpus()[0]?.model ?? 'unknown', cores: os.cpus().length };
  const report = { formatVersion: 1, short: isShort, seed, limit, machine, results: [], failed: [] };
  const build = await builds();
  for (const set of options.sets) await runSet(set, options, build, report);
  await writeFile(`${options.json.replace(/\.json$/, '')}.md`, markdown(report));
  if (report.failed.length > 0) process.exitCode = 1;
}

main().catch((error) => {
  process.stderr.write(error instanceof UsageError ? `${error.message}\n\n${usage}\n` : `accuracy: ${error.stack}\n`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});
