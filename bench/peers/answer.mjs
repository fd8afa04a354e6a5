// The side of a worker in the protocol that worker.mjs asks by: JSON lines in and out, one request after the other.
import { createInterface } from 'node:readline';

/** Answers requests by their `op` until `quit`, or until nobody asks any more. */
export async function answerRequests(handlers) {
  for await (const line of createInterface({ input: process.stdin })) {
    const message = JSON.parse(line);
    if (message.op === 'quit') break;
    let reply;
    try {
      reply = await handlers[message.op](message);
    } catch (error) {
      reply = { error: error.message }; // the other side decides what a failure means
    }
    process.stdout.write(`${JSON.stringify(reply)}\n`);
  }
}

/** How both benchmarks open a session of onnxruntime. */
export const sessionOptions = (threads) => ({
  executionProviders: ['cpu'],
  graphOptimizationLevel: 'all',
  intraOpNumThreads: threads,
  interOpNumThreads: 1,
  executionMode: 'sequential',
  enableCpuMemArena: true,
  enableMemPattern: true,
});
