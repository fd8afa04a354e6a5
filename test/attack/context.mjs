// What an attack is given: an empty folder, a tiny model, good images, the command line, and a service of its own.
//
//   dir      an empty folder, removed afterwards
//   model    a tiny trained model file; shared, so copy it before you change it
//   images   a folder of small good images, 00.png to 09.png; shared
//   bad      an image with a defect
//   signal   fires when the attack's time is over
//   cli(args, { cwd, env, input, timeoutMs }) runs `ddad-native ...args` to its end, or kills it after `timeoutMs` (60 s), and
//            resolves to { status, signal, stdout, stderr, maxRssKb, ms, timedOut }. `status` is null after a signal.
//   run(file, args, options) the same for another Node.js program
//   serve(flags, options) runs `ddad-native serve MODEL ...flags` (`--port 0 --threads 1` unless given) until it listens; it is
//            { url, pid, rssKb(), maxRssKb(), output(), ended, stop() }. A first flag that is none is another model.
//   target(flags) the service that the operator names with `--url`, as { url, token }, else one of its own from serve(flags);
//            for attacks marked `anywhere: true`, which change nothing beside what a client can.
import { spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../', import.meta.url));
const bin = path.join(root, 'bin', 'ddad-native.js');
/** What is kept of an output; an attack that prints for ever must not fill this process. */
const keptOutput = 4_000_000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A field of /proc/PID/status in kB; 0 where there is none. */
async function statusField(pid, field) {
  const text = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);
}

async function childrenOf(pid) {
  const tasks = await readdir(`/proc/${pid}/task`).catch(() => []);
  const lists = tasks.map((task) => readFile(`/proc/${pid}/task/${task}/children`, 'utf8').catch(() => ''));
  return (await Promise.all(lists)).flatMap((list) => list.split(' ').filter(Boolean));
}

/** Resident memory of a process and of what it has started, in kB. */
async function residentKb(pid) {
  const below = await Promise.all((await childrenOf(pid)).map(residentKb));
  return below.reduce((sum, value) => sum + value, await statusField(pid, 'VmRSS'));
}

/** Starts a Node.js program and follows its output and its memory. */
function launch(file, args, { cwd, env = {}, input } = {}) {
  const child = spawn(process.execPath, [file, ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  const begin = performance.now();
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => {
      if (output[name].length < keptOutput) output[name] += text;
    });
  }
  child.stdin?.on('error', () => undefined); // it may end before it has read all
  child.stdin?.end(input);
  let maxRssKb = 0;
  let running = true;
  const watching = (async () => {
    for (; running; await pause(20)) {
      const values = await Promise.all([statusField(child.pid, 'VmHWM'), residentKb(child.pid)]);
      maxRssKb = Math.max(maxRssKb, ...values);
    }
  })();
  const ended = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => {
      running = false;
      const ms = performance.now() - begin;
      resolve(watching.then(() => ({ status, signal, ...output, maxRssKb, ms })));
    });
  });
  return { child, ended, output, maxRssKb: () => maxRssKb };
}

async function run(file, args, { timeoutMs = 60_000, ...options } = {}) {
  const { child, ended } = launch(file, args, options);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  try {
    return { ...(await ended), timedOut };
  } finally {
    clearTimeout(timer);
  }
}

async function serve(given = [], { model: usualModel, startMs = 20_000, ...options }) {
  const named = given.length > 0 && !given[0].startsWith('-');
  const [model, flags] = named ? [given[0], given.slice(1)] : [usualModel, given];
  const usual = Object.entries({ '--port': '0', '--threads': '1' }).filter(([name]) => !flags.includes(name));
  const args = ['serve', model, ...usual.flat(), ...flags, '--json'];
  const { child, ended, output, maxRssKb } = launch(bin, args, options);
  let url;
  let over = false;
  void ended.then(() => (over = true));
  for (let waited = 0; !url && !over; waited += 20) {
    if (waited > startMs) child.kill('SIGKILL');
    await pause(20);
    url = /"address":"([^"]+)"/.exec(output.stdout)?.[1];
  }
  if (over || !url) {
    const { status, signal, stderr } = await ended;
    throw Object.assign(new Error(`the service did not start (${status ?? signal}): ${stderr}`), { status, stderr });
  }
  return {
    url,
    pid: child.pid,
    ended,
    rssKb: () => residentKb(child.pid),
    maxRssKb,
    output: () => ({ ...output }),
    /** Asks it to end, and kills it where it does not. */
    stop: async (waitMs = 5000) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), waitMs);
      child.kill('SIGTERM');
      const result = await ended;
      clearTimeout(timer);
      return result;
    },
  };
}

/** The context of one attack; `shared` has what all of them use. */
export function makeContext({ dir, model, images, bad, url, token, signal }) {
  return {
    dir,
    model,
    images,
    bad,
    signal,
    run,
    cli: (args, options) => run(bin, args, options),
    serve: (flags, options) => serve(flags, { ...options, model }),
    target: async (flags) => (url === undefined ? serve(flags, { model }) : { url, token }),
  };
}
