// The scratch environment of the Python scripts, PyTorch among them if it is wanted.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const requirements = (name) => join(import.meta.dirname, name);
const base = requirements('requirements.txt');
const torch = requirements('requirements-torch.txt');

function execute(program, args, environment, stdio = ['ignore', 2, 2]) {
  const done = spawnSync(program, args, { env: environment, encoding: 'utf8', stdio });
  return { ok: done.status === 0, out: (done.stdout ?? '').trim(), problem: done.error?.message ?? done.stderr ?? '' };
}

/** Pinned versions by package name. */
function pins(file) {
  const lines = readFileSync(file, 'utf8').split('\n');
  return Object.fromEntries(lines.filter((line) => line.includes('==')).map((line) => line.trim().split('==')));
}

/**
 * The Python in `folder`, which is made when it is absent or empty, as `{ python, writable, ensure }`: `ensure` installs
 * the packages of a requirements file where that is allowed, and returns what is still wrong, empty for nothing. A folder
 * that was there before is only read, unless it is the benchmark's `own` environment, so that a mistyped path harms
 * nothing.
 */
function openPython(folder, own, environment) {
  const python = join(folder, 'bin', 'python');
  const existed = existsSync(folder) && readdirSync(folder).length > 0;
  if (existed && !existsSync(join(folder, 'pyvenv.cfg')))
    throw new Error(`${folder} is neither empty nor a Python virtual environment`);
  const writable = own || !existed;
  if (writable && !existsSync(python)) {
    console.error(`peers: making ${folder}`);
    const made = execute('python3', ['-m', 'venv', folder], environment);
    if (!made.ok) throw new Error(`python3 -m venv ${folder} failed: is Python 3.10 or newer with venv installed?`);
    writeFileSync(join(folder, '.gitignore'), '*\n');
  }
  const ensure = (file, what) => {
    let problem = missing(python, file, environment);
    if (problem && writable) {
      console.error(`peers: installing ${what}, once`);
      const install = ['-m', 'pip', 'install', '--disable-pip-version-check', '--requirement', file];
      const done = execute(python, install, environment);
      problem = done.ok ? missing(python, file, environment) : 'pip install failed, see above';
    }
    return problem;
  };
  return { python, writable, ensure };
}

/** Path of a Python in `folder` with the packages of a requirements file; see {@link openPython}. */
export function pythonWith(folder, own, environment, file, what) {
  const { python, ensure } = openPython(folder, own, environment);
  const problem = ensure(file, what);
  if (problem) throw new Error(`${folder}: ${problem}`);
  return python;
}

/**
 * `{ python, torch }`: path of a Python with the pinned packages in `folder` and whether PyTorch is among them; see
 * {@link openPython}.
 */
export function preparePython(folder, own, environment, wantTorch) {
  const { python, writable, ensure } = openPython(folder, own, environment);
  const problem = ensure(base, 'numpy and onnx');
  if (problem) throw new Error(`${folder}: ${problem}`);
  if (!wantTorch) return { python, torch: false };
  const torchProblem = ensure(torch, 'PyTorch (about 5 GB)');
  // An environment that somebody named has to be right; one of our own may fail for want of space or of a network.
  if (torchProblem && !writable) throw new Error(`${folder}: ${torchProblem}; --no-torch goes without PyTorch`);
  if (torchProblem) console.error(`peers: PyTorch could not be installed: ${torchProblem}`);
  return { python, torch: !torchProblem };
}

/** What stands between the environment and the pinned versions; empty when nothing does. */
function missing(python, file, environment) {
  const program =
    'import json, importlib.metadata as m, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))';
  const wanted = pins(file);
  const found = execute(python, ['-c', program, ...Object.keys(wanted)], environment, ['ignore', 'pipe', 'pipe']);
  if (!found.ok) return found.problem.trim().split('\n').at(-1) || 'its Python does not start';
  const versions = JSON.parse(found.out);
  const wrong = Object.keys(wanted).filter((name) => versions[name].split('+')[0] !== wanted[name]);
  return wrong.map((name) => `expected ${name} ${wanted[name]}, found ${versions[name]}`).join(', ');
}

/** Runs one of the scripts of this folder; returns whether it succeeded. */
export function runScript(python, environment, script, ...args) {
  return execute(python, [join(import.meta.dirname, script), ...args], environment, 'inherit').ok;
}
