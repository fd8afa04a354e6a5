/** Gaussian smoothing of a small map in row order, borders repeated; `sigma` in cells. */
export function gaussianSmooth(values: Float64Array, width: number, height: number, sigma: number): Float64Array {
  const radius = Math.ceil(3 * sigma);
  const weights = Array.from({ length: 2 * radius + 1 }, (_, i) => Math.exp(-((i - radius) ** 2) / (2 * sigma ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const pass = (from: Float64Array, lines: number, length: number, line: number, step: number): Float64Array => {
    const to = new Float64Array(from.length);
    for (let l = 0; l < lines; l++) {
      for (let i = 0; i < length; i++) {
        let sum = 0;
        weights.forEach((weight, k) => {
          const at = Math.min(length - 1, Math.max(0, i + k - radius));
          sum += weight * (from[l * line + at * step] as number);
        });
        to[l * line + i * step] = sum / total;
      }
    }
    return to;
  };
  return pass(pass(values, height, width, width, 1), width, height, 1, width);
}
