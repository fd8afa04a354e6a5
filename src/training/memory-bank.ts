import { type ModelConfig, pixelSize } from '../config/config.js';
import type { Pixels } from '../image/decode.js';
import { callNative, type NativeDetector } from '../engine/native.js';
import { permutation, random, streams } from '../numeric/random.js';
import { mapAhead } from '../base/read-ahead.js';
import { turnInto } from '../data/crop.js';
import { scoreImage } from '../scoring/score-image.js';

/** More views of images than this say little more, and each takes a pass of the network. */
const mostViews = 1000;
/** Views of an image where good parts may lie in several ways. */
const viewsOfOne = 4;
/** Features that the rows of a bank are chosen from. */
const candidates = 40_000;

/** An image as it is (`view` 0), or as training may show it. */
export interface View {
  file: string;
  view: number;
}

/** What is looked at for what a model keeps of good images: a sample of them, in several views where these may differ. */
export function bankViews({ score, training, input }: ModelConfig, files: readonly string[], label = 0): View[] {
  if (!score.memoryBank && !score.evidence) return [];
  const order = permutation(files.length, random(training.seed, streams.memoryBank, label));
  const most = Math.min(mostViews, score.memoryBank?.patches ?? mostViews);
  const chosen = Array.from(order.subarray(0, most), (i) => files[i] as string);
  const turns = input.mode === 'resize' && ((training.rotation ?? 0) > 0 || training.flip !== 'none');
  const views = turns && chosen.length > 0 ? Math.max(1, Math.min(viewsOfOne, Math.floor(most / chosen.length))) : 1;
  return Array.from({ length: views }, (_, view) => chosen.map((file) => ({ file, view }))).flat();
}

/** Turns and mirrors an image as a training sample, in floats of 0 to 1; `n` chooses how. */
function shown(config: ModelConfig, pixels: Pixels, n: number): Float32Array {
  const { flip, rotation = 0, seed } = config.training;
  const next = random(seed, streams.views, n);
  const size = pixelSize(config);
  const out = new Float32Array(size * size * pixels.channels);
  const flipX = next() < 0.5 && (flip === 'horizontal' || flip === 'both');
  const flipY = next() < 0.5 && (flip === 'vertical' || flip === 'both');
  turnInto(out, pixels, { left: 0, top: 0, size, flipX, flipY }, rotation * (2 * next() - 1));
  for (let i = 0; i < out.length; i++) out[i] = Math.min(1, Math.max(0, ((out[i] as number) + 1) / 2));
  return out;
}

function concatenated(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Rows that are drawn evenly from the images: each gives its share of those that are still wanted. */
class Sample {
  readonly #rows: Float32Array[] = [];
  readonly #stream: number;
  readonly #seed: number;
  readonly #wanted: number;
  #count = 0;

  constructor(wanted: number, seed: number, stream: number) {
    this.#wanted = wanted;
    this.#seed = seed;
    this.#stream = stream;
  }

  /** Draws from the rows of the image that is the `image`-th of `images`. */
  draw(rows: Float32Array, channels: number, image: number, images: number): void {
    const share = Math.ceil((this.#wanted - this.#count) / (images - image));
    const order = permutation(rows.length / channels, random(this.#seed, this.#stream, 1 + image));
    const chosen = order.subarray(0, Math.max(0, share));
    const kept = new Float32Array(chosen.length * channels);
    chosen.forEach((row, i) => kept.set(rows.subarray(row * channels, (row + 1) * channels), i * channels));
    this.#rows.push(kept);
    this.#count += chosen.length;
  }

  get count(): number {
    return this.#count;
  }

  take(): Float32Array {
    return concatenated(this.#rows);
  }
}

/**
 * Gives the detector what it is to know of good images: residuals of their patches, as many as `config.score.memoryBank`
 * says, and the features that its evidence is fitted on, both drawn evenly from the images. Yields after each view.
 */
export async function* fillBanks(
  detector: NativeDetector,
  config: ModelConfig,
  views: readonly View[],
  { signal, label = 0 }: { signal?: AbortSignal | undefined; label?: number | undefined },
): AsyncGenerator<void, void, undefined> {
  const { memoryBank, evidence } = config.score;
  if (views.length === 0 || (!memoryBank && !evidence)) return;
  const { seed } = config.training;
  const residuals = new Sample(memoryBank?.patches ?? 0, seed, streams.memoryBank);
  const features = new Sample(candidates, seed, streams.evidence);
  const statistics: Float32Array[] = [];
  const bankLabel = config.products ? label : undefined;
  const look = async ({ file, view }: View, n: number, inner: AbortSignal) => {
    const transform = view === 0 ? undefined : (pixels: Pixels) => shown(config, pixels, n);
    const options = { signal: inner, networkSize: true, label: bankLabel, view: transform };
    const parts = { residuals: Boolean(memoryBank), features: Boolean(evidence), featuresOnly: !memoryBank };
    const scored = await scoreImage(detector, config, file, { ...options, ...parts });
    const { evidenceRows: rows, evidenceStatistics, evidenceChannels: channels, evidencePlaces: places } = scored;
    return { residuals: scored.residuals, rows, statistics: evidenceStatistics, channels, places };
  };
  let image = 0;
  const numbered = views.map((view, n) => ({ view, n }));
  for await (const found of mapAhead(numbered, ({ view, n }, inner) => look(view, n, inner), { ahead: 2, signal })) {
    if (memoryBank && found.residuals)
      residuals.draw(found.residuals, config.unet.featureChannels ?? 0, image, views.length);
    if (evidence && found.rows && found.statistics) {
      features.draw(found.rows, found.channels, image, views.length);
      statistics.push(found.statistics);
      const { places } = found;
      const first = image === 0 ? 1 : 0;
      if (evidence.placeStride && places) await callNative(signal, () => detector.observePlaces(places, first));
    }
    image += 1;
    yield;
  }
  if (memoryBank && residuals.count > 0)
    await callNative(signal, () => detector.setMemory(label, residuals.take(), residuals.count));
  if (evidence && features.count > 0) {
    const [rows, images] = [features.take(), concatenated(statistics)];
    await callNative(signal, (token) => detector.setEvidence(label, rows, images, evidence.rows, token));
  }
}
