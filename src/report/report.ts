import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { typicalRange } from '../model/calibration.js';
import { parseOptions } from '../config/options.js';
import { DdadError } from '../base/errors.js';
import { goodName } from '../evaluation/metrics.js';
import type { EvaluatedImage, Evaluation } from '../evaluation/types.js';
import { readError, writing } from '../files/write.js';
import { mapRange } from '../image/heatmap.js';
import { temporaryBeside } from '../files/leftovers.js';
import {
  fromLine,
  type MapKind,
  mapKinds,
  type MapRanges,
  picturesOf,
  type ReportEntry,
  storeEntry,
  toLine,
} from './entry.js';
import { number } from './format.js';
import { type Legend, renderPage, renderRow } from './render.js';
import { palette } from './thumbnails.js';
import { type Columns, columnsOf } from './view.js';

export type { ReportEntry } from './entry.js';

const reportOptions = z.strictObject({
  limitInputPixels: z.number().int().min(1).optional(),
  date: z.date().optional(),
});

export interface ReportOptions {
  /** Images with more pixels are refused before they are decoded; 100 megapixels by default. */
  limitInputPixels?: number | undefined;
  /** When the evaluation was made; by default when the report is finished. */
  date?: Date | undefined;
}

const mapNames: Record<MapKind, string> = { pixelMap: 'Pixel level', featureMap: 'Feature level' };

/**
 * Writes `report.html`: one file that shows an evaluation and needs no other. Images come one at a time; their thumbnails
 * go to the disk at once, so that memory does not grow with their number, but for a few figures of each.
 *
 *     const report = await ReportWriter.create('out/');
 *     for (…) await report.add({ image, input, mask, result });
 *     await report.finish(evaluation); // or abort()
 */
export class ReportWriter {
  readonly #file: string;
  readonly #part: string;
  readonly #temporary: string;
  readonly #options: ReportOptions;
  /** Of the maps of good images and of the others: the median and the end of the normal range. */
  readonly #ranges = {
    pixelMap: { good: [] as [number, number][], bad: [] as [number, number][] },
    featureMap: { good: [] as [number, number][], bad: [] as [number, number][] },
  };
  /** The images that were added; the evaluation holds the same objects. */
  readonly #shown: EvaluatedImage[] = [];
  #handle: FileHandle | null;
  #masks = false;
  #reconstructions = false;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(file: string, part: string, handle: FileHandle, options: ReportOptions) {
    this.#file = file;
    this.#part = part;
    this.#temporary = temporaryBeside(file);
    this.#handle = handle;
    this.#options = options;
  }

  /** Begins a report in a folder, which is made when only itself is missing. Throws ERR_FILE_WRITE, ERR_OPTION. */
  static async create(folder: string, options: ReportOptions = {}): Promise<ReportWriter> {
    const checked = parseOptions(reportOptions, options);
    const file = path.join(folder, 'report.html');
    const part = temporaryBeside(file, 'part');
    return writing(file, async () => {
      await mkdir(folder).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error;
      });
      return new ReportWriter(file, part, await open(part, 'wx+'), checked);
    });
  }

  /** Adds an image; reads it and its mask again. Throws ERR_IMAGE, ERR_FILE_WRITE. */
  add(entry: ReportEntry): Promise<void> {
    return this.#inTurn(() => this.#add(entry));
  }

  /** Writes the report and returns its path; when that fails, nothing is left of it. Throws ERR_FILE_WRITE. */
  finish(evaluation: Evaluation): Promise<string> {
    return this.#inTurn(async () => {
      const part = this.#open();
      try {
        await writing(this.#file, () => this.#write(part, evaluation));
        return this.#file;
      } finally {
        await this.#clean();
      }
    });
  }

  /** Removes what was written so far; does nothing after `finish`. */
  abort(): Promise<void> {
    return this.#inTurn(() => this.#clean());
  }

  /** Calls follow each other, also when the caller does not wait. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => undefined);
    return done;
  }

  #open(): FileHandle {
    if (!this.#handle) throw new DdadError('ERR_ARGUMENT', 'the report has been finished or aborted');
    return this.#handle;
  }

  async #add(entry: ReportEntry): Promise<void> {
    const part = this.#open();
    const stored = await storeEntry(entry, this.#options.limitInputPixels);
    for (const kind of mapKinds) {
      const map = entry.result[kind];
      const side = entry.image.defect === goodName ? 'good' : 'bad';
      if (map) this.#ranges[kind][side].push(await mapRange(map.data));
    }
    this.#masks ||= stored.mask !== null;
    this.#reconstructions ||= stored.reconstruction !== null;
    await writing(this.#file, () => part.appendFile(toLine(stored)));
    this.#shown.push(entry.image);
  }

  async #write(part: FileHandle, evaluation: Evaluation): Promise<void> {
    const ranges = { pixelMap: this.#rangeOf('pixelMap'), featureMap: this.#rangeOf('featureMap') };
    const shown = this.#shown;
    const columns = columnsOf(shown, this.#shots(ranges));
    const legends = mapKinds.flatMap((kind) => legendOf(kind, ranges[kind]));
    const date = this.#options.date ?? new Date();
    const [before, after] = await renderPage(evaluation, { shown, date, columns, legends });
    const out = await open(this.#temporary, 'wx');
    try {
      await out.appendFile(before);
      const colours = await palette();
      let rows = 0;
      for await (const line of part.readLines({ start: 0, autoClose: false })) {
        const entry = fromLine(line);
        await out.appendFile(renderRow(entry.image, await picturesOf(entry, ranges, colours), columns));
        rows += 1;
      }
      if (rows !== shown.length) throw readError(this.#part, 'has changed while it was in use');
      await out.appendFile(after);
      await out.sync();
    } finally {
      await out.close();
    }
    await rename(this.#temporary, this.#file);
  }

  /** The colours of an overlay, but from the median of good images on: they begin dark and reach a third of the scale. */
  #rangeOf(kind: MapKind): [number, number] | null {
    const { good, bad } = this.#ranges[kind];
    const known = good.length > 0 ? good : bad;
    if (known.length === 0) return null;
    const [middle, end] = typicalRange(known);
    return [middle, middle + 3 * (end - middle)];
  }

  #shots(ranges: MapRanges): Columns['shots'] {
    return [
      { key: 'original', name: 'Original' },
      ...(this.#masks ? [{ key: 'mask' as const, name: 'Mask' }] : []),
      ...(this.#reconstructions
        ? [
            { key: 'reconstruction' as const, name: 'Reconstruction' },
            { key: 'difference' as const, name: 'Difference' },
          ]
        : []),
      { key: 'overlay', name: 'Overlay' },
      ...mapKinds.filter((kind) => ranges[kind]).map((key) => ({ key, name: mapNames[key] })),
      ...(this.#reconstructions ? [{ key: 'rounds' as const, name: 'Rounds' }] : []),
    ];
  }

  async #clean(): Promise<void> {
    const handle = this.#handle;
    this.#handle = null;
    await handle?.close().catch(() => undefined);
    await Promise.all([this.#part, this.#temporary].map((file) => rm(file, { force: true }).catch(() => undefined)));
  }
}

function legendOf(kind: MapKind, range: [number, number] | null): Legend[] {
  return range ? [{ name: mapNames[kind], low: number(range[0]), high: number(range[1]) }] : [];
}
