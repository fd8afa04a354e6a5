// One attack in a process of its own: what it holds up, crashes or leaves open ends with it.
import { makeContext } from './context.mjs';

process.once('message', async ({ file, index, timeoutMs, shared }) => {
  const answer = (result) => process.send(result, () => process.exit(0));
  try {
    const { attacks } = await import(file);
    const signal = AbortSignal.timeout(timeoutMs);
    const figures = await attacks[index].run(makeContext({ ...shared, signal }));
    answer({ figures: typeof figures === 'string' ? figures : undefined });
  } catch (error) {
    answer({ reason: error?.message ?? String(error) });
  }
});
