// What a machine without a GPU says when it is asked for one: each thing that can be missing, in a process of its own.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { file as addonFile } from '../helpers/addon.mjs';
import { temporaryFolder } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const built = path.join(path.dirname(addonFile), 'libddad_cuda.so');
const gpu = fs.existsSync('/dev/nvidiactl') && 'there is a GPU here';

/** Opens the device with that addon; the error's code and message, and `info` of what it says of the device. */
function open(env, addon = addonFile) {
  const script = `
    const addon = require(${JSON.stringify(addon)});
    const options = { device: 'cuda', threads: 1, batch: 1, samples: 1, seconds: 0 };
    addon.profile('ceiling', '{}', JSON.stringify(options), new addon.CancelToken()).then(
      () => process.stdout.write(JSON.stringify({ code: 'none' })),
      ({ code, message }) => process.stdout.write(JSON.stringify({ code, message, info: addon.info() })),
    );`;
  const own = { ...process.env, DDAD_CUDA_LIBRARY: '', DDAD_CUDA_PATH: '', ...env };
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-e', script], {
    env: own,
    encoding: 'utf8',
  });
  assert.equal(status, 0, `${signal}: ${stderr}`);
  return JSON.parse(stdout);
}

function rejects({ code, message, info }, pattern) {
  assert.equal(code, 'ERR_DEVICE', message);
  assert.match(message, pattern);
  assert.ok(info.includes(JSON.stringify(message).slice(1, -1)), `info does not say: ${message}`);
}

/** A shared library made of that text. */
function compile(name, text, ...args) {
  const source = path.join(folder, `${name}.cpp`);
  fs.writeFileSync(source, text);
  execFileSync('c++', ['-shared', '-fPIC', source, '-o', path.join(folder, name), ...args]);
  return path.join(folder, name);
}

const entries = `
  extern "C" const char* ddadCudaBuildId() { return "0.0.0-of another day"; }
  extern "C" void* ddadOpenCuda(int, int, int) { __builtin_abort(); }
  extern "C" void ddadDescribeCuda(void*) { __builtin_abort(); }`;

test('no library beside the addon: the message names the folder and the command that builds it', () => {
  const lonely = path.join(folder, 'lonely');
  fs.mkdirSync(lonely);
  fs.copyFileSync(addonFile, path.join(lonely, 'ddad.node'));
  const libraries = fs.readdirSync(path.dirname(addonFile)).filter((name) => name.startsWith('libdnnl'));
  for (const name of libraries) fs.symlinkSync(path.join(path.dirname(addonFile), name), path.join(lonely, name));
  const said = open({}, path.join(lonely, 'ddad.node'));
  rejects(said, /^this build has no CUDA device \(libddad_cuda\.so was not found in .*lonely\); npm run build:cuda /);
});

test('DDAD_CUDA_LIBRARY names nothing, or something else', () => {
  const nothing = path.join(folder, 'nothing.so');
  rejects(open({ DDAD_CUDA_LIBRARY: nothing }), /^DDAD_CUDA_LIBRARY names .*nothing\.so, which does not exist$/);
  const other = compile('other.so', 'int other;');
  rejects(open({ DDAD_CUDA_LIBRARY: other }), /other\.so is not the CUDA device of this engine; npm run build:cuda /);
  const text = path.join(folder, 'text.so');
  fs.writeFileSync(text, 'not a library');
  rejects(open({ DDAD_CUDA_LIBRARY: text }), /^the CUDA device, .*text\.so, does not load: .*(file too short|ELF)/);
});

test('a library of another build is refused before anything of it runs', () => {
  const said = open({ DDAD_CUDA_LIBRARY: compile('stale.so', entries) });
  rejects(
    said,
    /stale\.so is of another build \(0\.0\.0-of another day\) than this engine \(\d+\.\d+\.\d+-[0-9a-f]{16}\)/,
  );
});

test('without cuDNN the message says what to install; DDAD_CUDA_PATH names its folder', () => {
  const place = path.join(folder, 'place');
  fs.mkdirSync(place);
  const dnn = compile('libcudnn.so.9', 'extern "C" int cudnnFake() { return 9; }', '-Wl,-soname,libcudnn.so.9');
  fs.renameSync(dnn, path.join(place, 'libcudnn.so.9'));
  const needs = `extern "C" int cudnnFake(); int used = cudnnFake();${entries}`;
  const library = compile('needs.so', needs, path.join(place, 'libcudnn.so.9'));
  const missing = open({ DDAD_CUDA_LIBRARY: library });
  rejects(missing, /does not load: libcudnn\.so\.9: .*: install cuDNN 9 .*, or name its folder in DDAD_CUDA_PATH$/);
  rejects(open({ DDAD_CUDA_LIBRARY: library, DDAD_CUDA_PATH: `/nowhere:${place}` }), /is of another build/);
  fs.writeFileSync(path.join(place, 'libcudnn.so.9'), 'not a library');
  const broken = open({ DDAD_CUDA_LIBRARY: library, DDAD_CUDA_PATH: place });
  rejects(broken, /^a library in DDAD_CUDA_PATH does not load: .*place\/libcudnn\.so\.9/);
});

const skip = gpu || (!fs.existsSync(built) && 'the CUDA device is not built');
test('the library of this build loads, and misses the driver', { skip }, () => {
  rejects(
    open({}),
    /^no NVIDIA driver was found \(libcuda\.so\.1\); drivers for CUDA 13\.0 \(580 and newer\) are needed$/,
  );
});
