// Attacks on the built package: each tries what an outsider could, and fails where it succeeds.
//   npm run attack                              all attacks, each in a process of its own with limited time
//   npm run attack -- --only upload             those with that word in their topic or name
//   npm run attack -- --json FILE               writes {"attacks":N,"failed":[{"name","reason"}]}
//   npm run attack -- --url http://127.0.0.1:8080 [--token-file FILE]    a service that runs, with the attacks that suit any
// Nothing leaves the machine; what is written lies in a temporary folder, which is removed. Exit status 1 when any failed.
import { fork } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { root } from './context.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
/** How long an attack may take unless it says `timeoutMs`, and all of them together. */
const attackMs = 60_000;
const totalMs = 20 * 60_000;

const { values } = parseArgs({
  options: {
    json: { type: 'string' },
    only: { type: 'string' },
    url: { type: 'string' },
    'token-file': { type: 'string' },
    from: { type: 'string', default: here }, // another folder of attacks
  },
});

function fail(message) {
  process.stderr.write(`attack: ${message}\n`);
  process.exit(1);
}

if (values.url !== undefined) {
  const { hostname } = new URL(values.url);
  if (!/^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname))
    fail(`--url: expected a loopback address, got ${hostname}`);
}

/** The attacks of all modules, in the order of their names. */
async function findAttacks(folder) {
  const files = (await readdir(folder)).filter((name) => /^attacks-.+\.mjs$/.test(name)).sort();
  const found = [];
  for (const file of files) {
    const topic = file.slice('attacks-'.length, -'.mjs'.length);
    const place = path.join(folder, file);
    const { attacks } = await import(place);
    attacks.forEach(({ name, timeoutMs = attackMs, anywhere = false }, index) =>
      found.push({ title: `${topic}: ${name}`, file: place, index, timeoutMs, anywhere }),
    );
  }
  return found;
}

/** A tiny model, a folder of good images and one with a defect. */
async function prepare(folder) {
  const { Trainer } = await import('../../dist/index.js').catch((error) => fail(`build first: ${error.message}`));
  const { makeDataset, trainTiny } = await import('../helpers/common.mjs');
  const parts = await makeDataset(path.join(folder, 'parts'));
  const images = path.join(folder, 'images');
  const good = path.join(parts, 'train', 'good');
  await mkdir(images);
  for (const name of await readdir(good)) await copyFile(path.join(good, name), path.join(images, name));
  const bad = path.join(folder, 'bad.png');
  await copyFile(path.join(parts, 'test', 'bad', '00.png'), bad);
  const model = path.join(folder, 'tiny.safetensors');
  await trainTiny({ Trainer }, images, model);
  return { model, images, bad };
}

let current;
/** Ends an attack's process with all that it has started. */
function killGroup(child) {
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    child.kill('SIGKILL'); // it has no group any more, or the system has none
  }
}

/** Runs an attack; resolves to { reason } where it has succeeded, else to what it has measured. */
async function attempt({ file, index, timeoutMs }, shared, dir) {
  await mkdir(dir);
  const child = fork(path.join(here, 'one.mjs'), [], { cwd: root, detached: true, stdio: ['ignore', 2, 2, 'ipc'] });
  current = child;
  const result = await new Promise((resolve) => {
    const reason = `it took more than ${timeoutMs / 1000} s`;
    const timer = setTimeout(() => resolve({ reason }), timeoutMs + 1000); // the attack hears of it a second before
    child.on('message', resolve);
    child.on('error', (error) => resolve({ reason: error.message }));
    child.on('exit', (code, signal) => resolve({ reason: `its process ended with ${signal ?? code}` }));
    child.on('close', () => clearTimeout(timer));
    child.send({ file, index, timeoutMs, shared: { ...shared, dir } });
  });
  killGroup(child);
  current = undefined;
  await rm(dir, { recursive: true, force: true });
  return result;
}

process.env.DDAD_AUTOTUNE ??= 'off'; // nothing is measured or written into the user's cache
const folder = await mkdtemp(path.join(os.tmpdir(), 'ddad-attack-'));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    if (current) killGroup(current);
    void rm(folder, { recursive: true, force: true }).finally(() => process.exit(130));
  });
}
process.stdout.on('error', () => undefined); // a reader that has seen enough
const failed = [];
let count = 0;
try {
  const { only, url, 'token-file': tokenFile, from, json } = values;
  const attacks = (await findAttacks(path.resolve(from))).filter(
    ({ title, anywhere }) => (only === undefined || title.includes(only)) && (url === undefined || anywhere),
  );
  if (attacks.length === 0) fail(`there is no attack${only === undefined ? '' : ` with "${only}" in its name`}`);
  const token = tokenFile === undefined ? undefined : (await readFile(tokenFile, 'utf8')).trim();
  const shared = { ...(await prepare(folder)), url: url?.replace(/\/$/, ''), token };
  const end = performance.now() + totalMs;
  for (const attack of attacks) {
    const begin = performance.now();
    const left = end - begin;
    const { reason, figures } =
      left <= 0
        ? { reason: `no time was left of ${totalMs / 60_000} minutes` }
        : await attempt({ ...attack, timeoutMs: Math.min(attack.timeoutMs, left) }, shared, path.join(folder, 'dir'));
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    count += 1;
    if (reason !== undefined) failed.push({ name: attack.title, reason });
    const [word, rest] = reason === undefined ? ['held  ', figures] : ['FAILED', reason];
    const line = `${word} ${seconds.padStart(5)} s  ${attack.title}${rest ? `: ${rest}` : ''}`;
    process.stdout.write(`${line.replace(/\s*\n\s*/g, ' ')}\n`);
  }
  if (json !== undefined) await writeFile(json, `${JSON.stringify({ attacks: count, failed })}\n`);
} finally {
  await rm(folder, { recursive: true, force: true });
}
process.stdout.write(`${count} attacks, ${failed.length} failed\n`);
process.exitCode = failed.length === 0 ? 0 : 1;
