// A worker or a process that scores or trains without end, until rounds.mjs or itself ends it.
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { Detector, Trainer } from '../../dist/index.js';
import { pattern } from '../helpers/common.mjs';

const task = isMainThread ? JSON.parse(process.argv[2]) : workerData;
const say = (word) => (isMainThread ? console.log(word) : parentPort.postMessage(word));
if (isMainThread) {
  // A signal ends Node.js at once unless somebody listens; exit() and an uncaught error run its exit path.
  if (task.way === 'exit') setTimeout(() => process.exit(7), task.after);
  if (task.way === 'throw') {
    setTimeout(() => {
      throw new Error('uncaught');
    }, task.after);
  }
}

const images = task.images ?? Array.from({ length: 4 }, (_, i) => pattern(100 + 60 * i, 80 + 50 * i, i));
if (task.train) {
  for (;;) {
    const trainer = new Trainer({ ...task.tiny, steps: 1000, threads: 2 });
    for await (const progress of trainer.fit(task.dataset)) if (progress.step === 1) say('busy');
    trainer.dispose();
  }
}
const detector = await Detector.load(task.model, { threads: 2, whenFull: 'wait' });
say('busy');
const client = async () => {
  for (let i = 0; ; i++) await detector.score(images[i % images.length]);
};
await Promise.all(Array.from({ length: 8 }, client));
