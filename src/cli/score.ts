import path from 'node:path';
import type { DeviceOptions } from '../config/options.js';
import type { ScoreResult } from '../scoring/result.js';
import { type DdadError, toDdadError } from '../base/errors.js';
import { mapAhead } from '../base/read-ahead.js';
import type { Command } from './command.js';
import { makeFolder, WholeFile, writing } from '../files/write.js';
import { removeLeftovers } from '../files/leftovers.js';
import { type Entry, listImages, overlayOf } from './image-list.js';
import { loadModel, trustFlag, type TrustArguments } from './load.js';
import { checkReplaceable, forceFlag, writePicture } from './outputs.js';
import { images, log, memoryLine, print, ProgressLine, short } from './output.js';
import { type ScoringArguments, scoringFlags, scoringOf } from './scoring-flags.js';
import {
  deviceFlags,
  exitCodes,
  type MemoryArguments,
  memoryBudgetOf,
  memoryFlag,
  number,
  text,
  UsageError,
} from './usage.js';

interface ScoreArguments extends DeviceOptions, ScoringArguments, MemoryArguments, TrustArguments {
  model: string;
  images: string[];
  json: boolean;
  out?: string;
  heatmaps?: boolean;
  threshold?: number;
  product?: string;
  failOnAnomaly: boolean;
  force: boolean;
}

export const scoreCommand: Command<ScoreArguments> = {
  usage: 'score <model> <images..>',
  describe: 'Tell good images from anomalous ones and show where',
  positionals: { model: 'A model file', images: 'Image files, or folders of them' },
  flags: {
    out: text('out', 'Folder for the overlays (<name>.heatmap.png) and scores.jsonl'),
    heatmaps: {
      type: 'boolean',
      describe: 'Write overlays (and scores.jsonl): to --out, without it to heatmaps/  [default: true with --out]',
    },
    threshold: number('threshold', 'Scores above it are anomalous', "the model's"),
    product: text('product', 'What the images show; a unified model needs it'),
    'fail-on-anomaly': { type: 'boolean', default: false, describe: 'Exit with status 3 when an image is anomalous' },
    ...scoringFlags,
    ...memoryFlag,
    ...forceFlag,
    ...trustFlag,
    ...deviceFlags,
  },
  example: ['$0 score part.safetensors photos/ --out found/', 'Score a folder and write overlays'],
  work: score,
};

/** Where overlays go that are asked for without a folder. */
const defaultOut = 'heatmaps';

type Scored = { entry: Entry; line: Record<string, unknown>; result?: ScoreResult; error?: DdadError };

async function score(argv: ScoreArguments, signal: AbortSignal): Promise<number> {
  const heatmaps = argv.heatmaps ?? argv.out !== undefined;
  const out = argv.out ?? (heatmaps ? defaultOut : undefined);
  const { device, precision, threads, threshold, product } = argv;
  const scoring = scoringOf(argv);
  await using detector = await loadModel(argv.model, {
    device,
    precision,
    threads,
    threshold,
    trustedKey: argv.trustedKey,
    scoring,
    memoryBudget: memoryBudgetOf(argv),
    signal,
  });
  const limit = detector.thresholdOf(product); // refuses a product that the model does not know
  if (argv.failOnAnomaly && limit === null) {
    const why = scoring ? "a model's threshold holds for its own score alone" : 'the model has no threshold';
    throw new UsageError(`--fail-on-anomaly: ${why}; give one with --threshold`);
  }
  const entries = await listImages(argv.images.map(String));
  const scores = out === undefined ? undefined : await prepare(out, heatmaps ? entries : [], argv.force);

  const one = async (entry: Entry, inner: AbortSignal): Promise<Scored> => {
    const { image } = entry;
    try {
      const result = await detector.score(image, { product, signal: inner });
      const map = out !== undefined && heatmaps ? await writeHeatmap(out, entry, result) : null;
      const { score, scores, threshold, anomalous } = result;
      return { entry, result, line: { image, score, threshold, anomalous, scores, map } };
    } catch (thrown) {
      const error = toDdadError(thrown);
      // The image's own fault is reported and the others go on; anything else ends the run.
      if (error.code !== 'ERR_IMAGE' && error.code !== 'ERR_MEMORY') throw error;
      return { entry, error, line: { image, error: { code: error.code, message: error.message } } };
    }
  };

  const progress = new ProgressLine();
  const start = performance.now();
  let [count, anomalous, failed] = [0, 0, 0];
  try {
    for await (const { entry, line, result, error } of mapAhead(entries, one, { ahead: detector.readAhead, signal })) {
      count += 1;
      if (result?.anomalous) anomalous += 1;
      const json = JSON.stringify(line);
      await scores?.append(`${json}\n`);
      if (error) {
        failed += 1;
        log(`ddad-native: ${error.code}: ${error.message}`);
      }
      if (argv.json) print(json);
      else if (result) print(verdict(entry.image, result));
      // Lines on a terminal are progress enough.
      if (!process.stdout.isTTY) progress.update('score', count / entries.length, `${count}/${entries.length} images`);
    }
    await scores?.commit();
  } catch (error) {
    await scores?.discard();
    throw error;
  } finally {
    progress.stop();
  }
  const rate = (1000 * count) / (performance.now() - start);
  log(`${images(count)}, ${anomalous} anomalous, ${failed} failed, ${rate.toFixed(1)} images/s`);
  log(memoryLine(detector.memoryUsage));
  if (out !== undefined) log(`written to ${out}`);
  if (failed > 0) return exitCodes.failed;
  return argv.failOnAnomaly && anomalous > 0 ? exitCodes.anomalies : exitCodes.done;
}

function verdict(image: string, { score, threshold, anomalous }: ScoreResult): string {
  const limit = threshold === null ? '' : `  (threshold ${short(threshold)})`;
  return `${anomalous === null ? '' : anomalous ? 'ANOMALOUS  ' : 'good       '}${short(score)}${limit}  ${image}`;
}

/** Makes the folder, refuses to replace what is not ours before there is any work, and begins scores.jsonl. */
async function prepare(out: string, overlays: readonly Entry[], force: boolean): Promise<WholeFile> {
  const file = path.join(out, 'scores.jsonl');
  await writing(out, () => makeFolder(path.resolve(out)));
  await removeLeftovers(out);
  await checkReplaceable(file, 'scores', force);
  for (const entry of overlays) await checkReplaceable(overlayOf(out, entry), 'picture', force);
  return WholeFile.create(file);
}

async function writeHeatmap(out: string, entry: Entry, result: ScoreResult): Promise<string> {
  const file = overlayOf(out, entry);
  await writePicture(file, await result.heatmap());
  return file;
}
