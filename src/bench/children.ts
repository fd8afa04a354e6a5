import { fork } from 'node:child_process';
import { abortError, DdadError, type DdadErrorCode, throwIfAborted } from '../base/errors.js';
import type { Build } from './builds.js';
import { protocol, type Reply, type Task } from './types.js';

type Answer = Exclude<Reply, { error: unknown }>;

/** How long a process that is told to stop may take. */
const graceMs = 2000;

/**
 * Lets a fresh process of a build do a task. Once `signal` fires the process is ended, and this returns only when it
 * is gone. Throws what went wrong there, ERR_ABORTED, or ERR_INTERNAL where the process died.
 */
export async function runTask(build: Build, task: Task, signal: AbortSignal): Promise<Answer> {
  throwIfAborted(signal);
  const env: NodeJS.ProcessEnv = { ...process.env, ...(build.addon && { DDAD_ADDON: build.addon }) };
  if (build.addon === undefined) delete env['DDAD_ADDON'];
  const child = fork(build.worker, [], { env, execArgv: [], stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  let reply: Reply | undefined;
  let complaint = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(-2000)));
  child.on('message', (message) => (reply = message as Reply));
  let last: NodeJS.Timeout | undefined;
  const stop = (): void => {
    child.kill('SIGTERM');
    last = setTimeout(() => child.kill('SIGKILL'), graceMs);
  };
  signal.addEventListener('abort', stop, { once: true });
  try {
    const ended = new Promise<string>((resolve, reject) => {
      child.on('error', reject).on('close', (code, killed) => resolve(String(killed ?? code)));
    });
    child.send(task, () => undefined); // where it cannot be sent, the process has ended
    const end = await ended;
    if (signal.aborted) throw abortError(signal);
    if (!reply) {
      const why = complaint.trim().split('\n').slice(-3).join(' ');
      const said = why ? `: ${why}` : '';
      throw new DdadError('ERR_INTERNAL', `${build.name}, ${task.suite}: the process ended with ${end}${said}`);
    }
    if (reply.protocol !== protocol) {
      const got = `got version ${reply.protocol}; use the same version of ddad-native, or give the build's addon`;
      throw new DdadError('ERR_OPTION', `${build.name}: expected measurements of version ${protocol}, ${got}`);
    }
    if ('error' in reply) {
      const { code, message } = reply.error;
      throw new DdadError(code as DdadErrorCode, `${build.name}, ${task.suite}: ${message}`);
    }
    return reply;
  } finally {
    clearTimeout(last);
    signal.removeEventListener('abort', stop);
  }
}
