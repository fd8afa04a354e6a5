// A process that computes on request: JSON lines in and out, see README.md.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

// Thread counts, instruction sets and allocators are the benchmark's to choose, not the shell's that starts it.
const tuning = /^(OPENBLAS|OMP|GOMP|KMP|MKL|BLIS|GOTO|NVPL|DNNL|ONEDNN|ATEN|TORCH|PYTORCH|MALLOC|PYTHON)_?/;

/** The environment of a worker. `isa` (avx2, avx512) caps the instruction set of both sides, of oneDNN and of MKL. */
export function workerEnvironment(isa) {
  const kept = Object.entries(process.env).filter(
    ([name]) => !tuning.test(name) && !['LD_PRELOAD', 'GLIBC_TUNABLES'].includes(name),
  );
  const environment = { ...Object.fromEntries(kept), CUDA_VISIBLE_DEVICES: '', PYTHONDONTWRITEBYTECODE: '1' };
  if (!isa) return environment;
  return {
    ...environment,
    DDAD_MAX_CPU_ISA: isa,
    ONEDNN_MAX_CPU_ISA: { avx2: 'AVX2', avx512: 'AVX512_CORE' }[isa],
    ATEN_CPU_CAPABILITY: isa,
    MKL_ENABLE_INSTRUCTIONS: isa.toUpperCase(),
  };
}

const alive = new Set();
process.on('exit', () => alive.forEach((child) => child.kill('SIGKILL')));

export class Worker {
  #child;
  #lines;
  #ended;
  #command;

  /** `command` is [program, ...arguments]. */
  constructor(command, environment) {
    this.#command = command;
    this.#child = spawn(command[0], command.slice(1), { env: environment, stdio: ['pipe', 'pipe', 'inherit'] });
    alive.add(this.#child);
    this.#child.stdin.on('error', () => {}); // a dead worker shows as the end of its output
    this.#ended = new Promise((resolve) => {
      this.#child.on('error', (error) => resolve(error.message));
      this.#child.on('exit', (code, signal) => resolve(signal ? `ended by ${signal}` : `exit code ${code}`));
    });
    this.#ended.then(() => alive.delete(this.#child));
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** Sends one request and waits for its reply; requests are never sent side by side. */
  async ask(message) {
    this.#child.stdin.write(`${JSON.stringify(message)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.#command[0]}: ${await this.#ended} at op "${message.op}"`);
    let reply;
    try {
      reply = JSON.parse(value);
    } catch {
      throw new Error(`${this.#command[0]}: expected a JSON line for op "${message.op}", got ${value.slice(0, 200)}`);
    }
    if (reply.error) throw new Error(`${this.#command[0]}: op "${message.op}": ${reply.error}`);
    return reply;
  }

  async quit() {
    this.#child.stdin.end(`${JSON.stringify({ op: 'quit' })}\n`);
    await this.#ended;
  }

  kill() {
    this.#child.kill('SIGKILL');
  }
}
