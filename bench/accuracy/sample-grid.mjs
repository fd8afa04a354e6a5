/** Values of a map or mask at the centres of a grid of `cells` x `cells`. */
export function sampleGrid({ data, width, height }, cells) {
  return Float32Array.from({ length: cells * cells }, (_, i) => {
    const x = Math.floor((((i % cells) + 0.5) * width) / cells);
    const y = Math.floor(((Math.floor(i / cells) + 0.5) * height) / cells);
    return data[y * width + x];
  });
}
