// docs/errors.md against the package: every row is provoked, and what is provoked has a row.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import errors from '../../dist/base/errors.js';
import { calls, options } from './cases-calls.mjs';
import { baseline, usage } from './cases-cli.mjs';
import { reconstruction } from './cases-reconstruct.mjs';
import { dataset, disk, image, modelFile } from './cases-files.mjs';
import { integrity } from './cases-integrity.mjs';
import { imports } from './cases-import.mjs';
import { root } from '../helpers/common.mjs';

const cases = { ...usage, ...options, ...calls, ...image, ...dataset, ...modelFile, ...disk, ...baseline };
// those of imports and of reconstructions belong to codes that others have, too
for (const own of [imports, reconstruction, integrity])
  for (const [code, rows] of Object.entries(own)) cases[code] = { ...cases[code], ...rows };

/** Rows that no test here provokes, by code and message, and why. */
const cudaRow = 'test/engine/cuda-library.test.mjs provokes it, in a process of its own';
const unprovoked = {
  'ERR_DEVICE cannot start the compute thread: <reason>; raise the limit on threads (ulimit -u, pids.max)':
    'test/scoring/limits.test.mjs provokes it, in a process of its own',
  'ERR_DEVICE this build has no CUDA device (libddad_cuda.so was not found in <folder>); npm run build:cuda builds it':
    cudaRow,
  'ERR_DEVICE the CUDA device, <file>, does not load: <reason>': cudaRow,
  'ERR_DEVICE <file> is of another build (<id>) than this engine (<id>); npm run build:cuda builds it': cudaRow,
  'ERR_DEVICE no NVIDIA driver was found (libcuda.so.1); drivers for CUDA 13.0 (580 and newer) are needed': cudaRow,
  'ERR_MEMORY cannot allocate <n> MiB of memory, of which <n> MiB are free':
    'training is refused by what it takes in all, and scoring takes tiles of a bounded size',
  'ERR_MEMORY out of memory': 'where it comes from small blocks the system kills the process first',
  'ERR_MEMORY cannot allocate <n> MiB of memory': 'what is not free is refused before the system is asked',
  'ERR_MEMORY no memory for a map of <n> pixels': 'the size of an image is bounded, so only the system can refuse it',
  'ERR_FILE_WRITE <file>: cannot be written: its lock <lock> changes hands again and again':
    'it takes hundreds of other runs that begin and end at the right moments',
  'ERR_NUMERIC the features of the good images have no finite covariance':
    'features that are not finite need weights that no reader lets in',
  'ERR_MEMORY a buffer would be larger than memory': 'the arguments are bounded before a buffer could be as large',
};

const text = await readFile(path.join(root, 'docs', 'errors.md'), 'utf8');

/** The rows of the page: code, message, cause, remedy, and whether a test provokes it. */
function readRows() {
  const rows = [];
  let code;
  for (const line of text.split('\n')) {
    code = /^## `?(ERR_[A-Z_]+)`?/.exec(line)?.[1] ?? (line.startsWith('## ') ? undefined : code);
    const cells = line
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map((cell) => cell.trim());
    const message = /^`(.+)`$/.exec(cells[0] ?? '')?.[1];
    if (code === undefined || message === undefined) continue;
    rows.push({ code, message: message.replaceAll('\\|', '|'), cells });
  }
  return rows;
}

/** A message of the page as a pattern: `<what>` stands for anything, and a suggestion may follow. */
const patternOf = (message) => {
  const parts = message.split(/<[^<>]+>/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  // The command line names the flag that was typed.
  const text = parts.join('[\\s\\S]+').replace(/^option ".*?"/, (option) => `(?:${option}|--[a-z-]+)`);
  return new RegExp(`^${text}(; did you mean ".+"\\?)?$`);
};

const rows = readRows();
const key = ({ code, message }) => `${code} ${message}`;

test('the page has a table for every code, and no other', () => {
  const documented = [...new Set(rows.map(({ code }) => code))];
  assert.deepEqual(documented.sort(), [...errors.errorCodes, 'ERR_USAGE'].sort());
});

test('every row has a cause and a remedy, is there once, and tells whether it is provoked', () => {
  for (const row of rows) {
    assert.equal(row.cells.length, 4, key(row));
    for (const cell of row.cells) assert.ok(cell, key(row));
    assert.equal(row.cells[3], key(row) in unprovoked ? 'no' : 'yes', key(row));
  }
  assert.deepEqual(rows.map(key), [...new Set(rows.map(key))]);
});

test('rows and provocations belong together', () => {
  const provoked = Object.entries(cases).flatMap(([code, own]) =>
    Object.keys(own).map((message) => key({ code, message })),
  );
  assert.deepEqual(rows.map(key).sort(), [...provoked, ...Object.keys(unprovoked)].sort());
});

for (const [code, own] of Object.entries(cases)) {
  test(`${code} is what its rows say`, async (t) => {
    for (const [message, given] of Object.entries(own)) {
      await t.test(message, async () => {
        for (const provoke of [given].flat()) {
          let error;
          try {
            await provoke();
          } catch (thrown) {
            error = thrown;
          }
          assert.ok(error, 'nothing was thrown');
          assert.deepEqual([error.code, patternOf(message).test(error.message)], [code, true], error.stack);
        }
      });
    }
  });
}
