// Python wheels as a source of files: pip downloads what a requirements file pins by version and SHA-256, refuses
// anything else, and the contents are unpacked into a folder of this package. Nothing is installed into a Python.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { capture, fail, root } from './run.mjs';

const stampName = '.requirements.sha256';

/** The Python interpreter: PYTHON, or the first of python3 and python that runs. */
export function findPython() {
  const names = process.env.PYTHON ? [process.env.PYTHON] : ['python3', 'python'];
  return names.find((name) => capture(name, ['-c', 'import sys; sys.exit(sys.version_info < (3, 7))']).code === 0);
}

/**
 * Makes `folder` hold the unpacked wheels of `requirements` (a pip file in which every line has a --hash) and returns
 * true when it had to download them. `arrange` gets a new folder with the contents and may rearrange it; the result
 * appears under `folder` at once, complete, or not at all.
 * @param {{what: string, requirements: string, folder: string, arrange?: (folder: string) => void, help?: string}} wheels
 */
export function ensureWheels({ what, requirements, folder, arrange = () => {}, help = '' }) {
  const stamp = createHash('sha256').update(fs.readFileSync(requirements)).digest('hex');
  const stampFile = path.join(folder, stampName);
  if (fs.existsSync(stampFile) && fs.readFileSync(stampFile, 'utf8') === stamp) return false;

  const python = findPython();
  if (!python) fail(`${what}: Python 3.7 or newer with pip is needed to download it, and was not found. ${help}`);
  if (capture(python, ['-m', 'pip', '--version']).code !== 0) {
    fail(`${what}: "${python} -m pip" does not run; install pip (the package python3-pip on Debian). ${help}`);
  }

  process.stderr.write(`${what}: downloading ...\n`);
  fs.mkdirSync(path.dirname(folder), { recursive: true });
  const work = fs.mkdtempSync(`${folder}-new-`);
  try {
    const download = path.join(work, 'download');
    const pip = ['-m', 'pip', '--disable-pip-version-check', 'download', '--quiet', '--no-deps', '--require-hashes'];
    const limits = ['--only-binary', ':all:', '--no-cache-dir', '--retries', '2', '--timeout', '30'];
    const got = capture(python, [...pip, ...limits, '--dest', download, '--requirement', requirements]);
    if (got.code !== 0) {
      fs.rmSync(work, { recursive: true, force: true });
      fail(
        `${what}: pip could not download it:\n${got.output.trim()}\n` +
          `Without a network, put the wheels that ${path.relative(root, requirements)} names into a folder and set ` +
          `PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder>. ${help}`,
      );
    }
    const contents = path.join(work, 'contents');
    for (const wheel of fs.readdirSync(download)) {
      const unpacked = capture(python, ['-m', 'zipfile', '-e', path.join(download, wheel), contents]);
      if (unpacked.code !== 0) throw new Error(`${what}: ${wheel} does not unpack:\n${unpacked.output}`);
    }
    arrange(contents);
    fs.writeFileSync(path.join(contents, stampName), stamp);
    fs.rmSync(folder, { recursive: true, force: true });
    fs.renameSync(contents, folder);
  } finally {
    fs.rmSync(work, { recursive: true, force: true });
  }
  return true;
}
