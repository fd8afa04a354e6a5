// The process that measures: gets one task from its parent, answers once, and ends.
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { toDdadError } from '../base/errors.js';
import { addon } from '../engine/native.js';
import { Trainer } from '../training/trainer.js';
import { packageVersion } from '../base/package.js';
import { machineFigures, type Suite } from './suites/common.js';
import { ioSuite } from './suites/io.js';
import { memorySuite } from './suites/memory.js';
import { opsSuite } from './suites/ops.js';
import { scoreSuite } from './suites/score.js';
import { trainSuite } from './suites/train.js';
import { unetSuite } from './suites/unet.js';
import { imageFile, imageSizes, modelFile, syntheticPng, writeDataset } from './synthetic.js';
import { type Environment, protocol, type Reply, type SuiteName, type Task } from './types.js';

const suites: Record<SuiteName, Suite> = {
  ops: opsSuite,
  unet: unetSuite,
  train: trainSuite,
  score: scoreSuite,
  io: ioSuite,
  memory: memorySuite,
};

interface EngineInfo {
  cpu: { name: string; isa: string; processors: number };
  onednn: { version: string };
}

function environment({ threads }: Task): Environment {
  const { cpu, onednn } = JSON.parse(addon().info()) as EngineInfo;
  return {
    package: packageVersion(),
    node: process.version,
    onednn: onednn.version,
    processor: cpu.name,
    instructionSet: cpu.isa,
    threads: threads || cpu.processors,
  };
}

/** A model and an image for the suites that need files: calibrated and complete, though trained for a step only. */
async function prepare({ folder, preset, threads }: Task): Promise<void> {
  const images = path.join(folder, `images-${preset}`);
  await writeDataset(images, imageSizes[preset], 24);
  const trainer = new Trainer({ preset, channels: 'rgb', steps: 1, batchSize: 2, device: 'cpu', threads });
  for await (const progress of trainer.fit(images)) void progress;
  await trainer.save(modelFile(folder, preset));
  trainer.dispose();
  await writeFile(imageFile(folder, preset), await syntheticPng(imageSizes[preset], 99));
}

async function answer(task: Task): Promise<Reply> {
  try {
    if (task.suite === 'environment') return { protocol, figures: [], machine: [], environment: environment(task) };
    if (task.suite === 'prepare') {
      await prepare(task);
      return { protocol, figures: [], machine: [] };
    }
    // Its buffers would count as memory of the suite.
    const before = task.suite === 'memory' ? undefined : await machineFigures(task);
    const figures = await suites[task.suite](task);
    const { machine, middle } = await machineFigures(task);
    return { protocol, figures, machine, ...(middle && { calm: Math.min(middle, before?.middle ?? middle) }) };
  } catch (thrown) {
    const { code, message } = toDdadError(thrown);
    return { protocol, error: { code, message } };
  }
}

// A terminal's Ctrl-C reaches the whole group; the parent decides what becomes of this process.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => process.exit(1));
process.on('disconnect', () => process.exit(1));
process.once('message', (task: Task) => {
  void answer(task).then((reply) => process.send?.(reply, () => process.exit(0)));
});
