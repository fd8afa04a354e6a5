// The peers in PyTorch: a process that gets a job and answers with a stream of scored images.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { pythonWith } from '../../peers/python.mjs';
import { scratch } from '../../peers/options.mjs';
import { workerEnvironment } from '../../peers/worker.mjs';

export const script = fileURLToPath(new URL('peers.py', import.meta.url));
export const requirements = fileURLToPath(new URL('../requirements.txt', import.meta.url));
export const ownPython = path.join(scratch, 'accuracy');

/** A Python with PyTorch and the rest in `folder`, which is made where it is the suite's own. */
export function openPython(folder = ownPython) {
  const own = folder === ownPython;
  return pythonWith(folder, own, workerEnvironment(), requirements, 'PyTorch (about 5 GB)');
}

/**
 * Reads a stream of lines of JSON; a line with `width` and `height` is followed by a map of so many float32. Yields the
 * objects, with `map` where there is one.
 */
export async function* frames(stream) {
  const chunks = [];
  let length = 0;
  const source = stream[Symbol.asyncIterator]();
  const more = async () => {
    const { done, value } = await source.next();
    if (done) return false;
    chunks.push(value);
    length += value.length;
    return true;
  };
  const take = (count) => {
    const all = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
    chunks.splice(0, chunks.length, all.subarray(count));
    length -= count;
    return all.subarray(0, count);
  };
  for (;;) {
    let end;
    let before = 0;
    for (let i = 0; ; i++) {
      if (i === chunks.length && !(await more())) {
        if (length > 0) throw new Error(`the peer ended within a line, after ${length} bytes`);
        return;
      }
      end = chunks[i].indexOf(10);
      if (end >= 0) break;
      before += chunks[i].length;
    }
    const line = JSON.parse(take(before + end + 1).toString('utf8'));
    if (line.width === undefined) {
      yield line;
      continue;
    }
    const { width, height, ...rest } = line;
    const bytes = 4 * width * height;
    while (length < bytes) {
      if (!(await more())) throw new Error(`the peer ended within a map, ${length} of ${bytes} bytes`);
    }
    const data = new Float32Array(width * height);
    take(bytes).copy(Buffer.from(data.buffer));
    yield { ...rest, map: { data, width, height } };
  }
}

/** Scores the files of a job with a peer, in order; `onFit` hears what was fitted. */
export async function* scoreWithPeer(python, job, onFit) {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'ddad-suite-'));
  const file = path.join(folder, 'job.json');
  await writeFile(file, JSON.stringify(job));
  const child = spawn(python, [script, file], { stdio: ['ignore', 'pipe', 'inherit'], env: workerEnvironment() });
  const closed = once(child, 'close');
  closed.catch(() => undefined); // is awaited below, unless something else goes wrong before
  try {
    for await (const frame of frames(child.stdout)) {
      if (frame.map) yield frame;
      else onFit?.(frame);
    }
    const [code, signal] = await closed;
    if (code !== 0) throw new Error(`${job.method}: the peer ended with ${code ?? signal}`);
  } finally {
    child.kill();
    await rm(folder, { recursive: true, force: true });
  }
}
