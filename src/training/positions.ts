import { gaussianSmooth } from '../numeric/smoothing.js';

/** Maps of good images reduced to a coarse grid over the whole image. */
export interface Grid {
  width: number;
  height: number;
  values: Float64Array;
}

/** Mean and standard deviation of a score at each place. */
export interface PlaceStatistics {
  mean: number[];
  std: number[];
}

/** Places are told apart no finer than this many cells: objects are never aligned to the pixel. */
const smoothing = 1.5;
/** Held-back images that the statistics over all places count for; few images say little about one place. */
const priorImages = 4;
/** Smallest standard deviation of a place, relative to that over all places. */
const floor = 0.05;

/** Means of the cells of a grid over a square map. */
export function toGrid(map: Float32Array, size: number, cells: number): Grid {
  const values = new Float64Array(cells * cells);
  const counts = new Float64Array(cells * cells);
  for (let y = 0; y < size; y++) {
    const row = Math.floor((y * cells) / size) * cells;
    for (let x = 0; x < size; x++) {
      const cell = row + Math.floor((x * cells) / size);
      (values[cell] as number) += map[y * size + x] as number;
      (counts[cell] as number) += 1;
    }
  }
  return { width: cells, height: cells, values: values.map((sum, i) => sum / (counts[i] as number)) };
}

/** Mean and standard deviation at each place of the grids of good images, smoothed, drawn towards those of all places. */
export function placeStatistics(grids: readonly Grid[]): PlaceStatistics {
  const { width, height } = grids[0] as Grid;
  const places = width * height;
  const sum = new Float64Array(places);
  for (const { values } of grids) values.forEach((value, i) => ((sum[i] as number) += value));
  const mean = sum.map((value) => value / grids.length);
  const overall = mean.reduce((total, value) => total + value, 0) / places;
  const squares = new Float64Array(places);
  let all = 0;
  for (const { values } of grids) {
    values.forEach((value, i) => {
      (squares[i] as number) += (value - (mean[i] as number)) ** 2;
      all += (value - overall) ** 2;
    });
  }
  const spread = all / (grids.length * places);
  const share = grids.length / (grids.length + priorImages);
  const smoothMean = gaussianSmooth(mean, width, height, smoothing);
  const variance = gaussianSmooth(
    squares.map((value) => value / Math.max(1, grids.length - 1)),
    width,
    height,
    smoothing,
  );
  const least = Math.max(floor * Math.sqrt(spread), 1e-6);
  return {
    mean: Array.from(smoothMean, (value) => rounded(share * value + (1 - share) * overall)),
    std: Array.from(variance, (value) => rounded(Math.sqrt(share * value + (1 - share) * spread) + least)),
  };
}

/** Six digits: the numbers go into the model's header as text. */
const rounded = (value: number): number => Number(value.toPrecision(6));
