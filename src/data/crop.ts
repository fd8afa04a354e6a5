import type { Pixels } from '../image/decode.js';

/** Index into 0..n-1 of a position that may lie outside: mirrored at the edges, which are not repeated. */
export function reflect(i: number, n: number): number {
  if (n === 1) return 0;
  const period = 2 * (n - 1);
  const at = ((i % period) + period) % period;
  return at < n ? at : period - at;
}

const scaleOf = (data: Pixels['data']): number => (data instanceof Uint16Array ? 1 / 32767.5 : 1 / 127.5);

/** A square of an image: `left` and `top` may lie outside, `size` may reach over the edge. */
export interface Window {
  left: number;
  top: number;
  size: number;
  flipX: boolean;
  flipY: boolean;
}

/** Copies a window of `size` pixels at (left, top), which may reach over the edge, to [-1, 1] floats in `out`. */
export function cropInto(out: Float32Array, pixels: Pixels, window: Window): void {
  const { data, width, height, channels } = pixels;
  const { left, top, size } = window;
  const scale = scaleOf(data);
  const columns = Uint32Array.from({ length: size }, (_, x) => {
    return channels * reflect(left + (window.flipX ? size - 1 - x : x), width);
  });
  let to = 0;
  for (let y = 0; y < size; y++) {
    const row = channels * width * reflect(top + (window.flipY ? size - 1 - y : y), height);
    for (let x = 0; x < size; x++) {
      const from = row + (columns[x] as number);
      for (let c = 0; c < channels; c++) out[to++] = (data[from + c] as number) * scale - 1;
    }
  }
}

/** Offsets of the pixels, `step` apart, at `count` positions from `first` on; mirrored at the edges. */
function offsets(first: number, count: number, length: number, step: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => step * reflect(first + i, length));
}

/**
 * The same window, mirrored and then turned about its centre: what it shows of the image turns clockwise by `degrees`.
 * Reads the image between its pixels bilinearly, and beyond its edges reflected, so that no corner stays empty.
 */
export function turnInto(out: Float32Array, pixels: Pixels, window: Window, degrees: number): void {
  const { data, width, height, channels } = pixels;
  const { left, top, size, flipX, flipY } = window;
  const scale = scaleOf(data);
  const [sin, cos] = [Math.sin((degrees * Math.PI) / 180), Math.cos((degrees * Math.PI) / 180)];
  const centre = (size - 1) / 2;
  // All positions that may be read, so that the loop need not look for edges.
  const reach = Math.ceil(centre * Math.SQRT2) + 2;
  const count = 2 * reach + 1;
  const firstX = Math.floor(left + centre) - reach;
  const firstY = Math.floor(top + centre) - reach;
  const columns = offsets(firstX, count, width, channels);
  const rows = offsets(firstY, count, height, channels * width);
  const [fromX, fromY] = [left + centre - firstX, top + centre - firstY];
  const [signX, signY] = [flipX ? -1 : 1, flipY ? -1 : 1];
  let to = 0;
  for (let y = 0; y < size; y++) {
    const v = y - centre;
    for (let x = 0; x < size; x++) {
      const u = x - centre;
      const atX = fromX + signX * (cos * u + sin * v);
      const atY = fromY + signY * (cos * v - sin * u);
      const x0 = Math.floor(atX);
      const y0 = Math.floor(atY);
      const fx = atX - x0;
      const fy = atY - y0;
      const c0 = columns[x0] as number;
      const c1 = columns[x0 + 1] as number;
      const r0 = rows[y0] as number;
      const r1 = rows[y0 + 1] as number;
      for (let c = 0; c < channels; c++) {
        const a = data[r0 + c0 + c] as number;
        const above = a + fx * ((data[r0 + c1 + c] as number) - a);
        const b = data[r1 + c0 + c] as number;
        const below = b + fx * ((data[r1 + c1 + c] as number) - b);
        out[to++] = (above + fy * (below - above)) * scale - 1;
      }
    }
  }
}
