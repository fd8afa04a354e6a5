/** Finds the set that a label belongs to, halving the path on the way. */
function rootOf(parents: Uint32Array, label: number): number {
  let at = label;
  for (let up = parents[at] as number; up !== at; up = parents[at] as number) {
    const above = parents[up] as number;
    parents[at] = above;
    at = above;
  }
  return at;
}

/**
 * The regions of a mask: connected components of its non-zero pixels, with all 8 neighbours. `areas` has the area of its
 * region at every pixel, 0 outside.
 */
export function regionAreas(
  mask: Uint8Array,
  width: number,
  height: number,
): { count: number; pixels: number; areas: Uint32Array } {
  const labels = new Uint32Array(width * height);
  // No 2 x 2 block begins more than one region.
  const parents = new Uint32Array(Math.ceil(width / 2) * Math.ceil(height / 2) + 1);
  let next = 1;
  let pixels = 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (mask[i] === 0) continue;
      pixels += 1;
      let label = 0;
      const join = (neighbour: number): void => {
        const other = labels[neighbour] as number;
        if (other === 0) return;
        const root = rootOf(parents, other);
        if (label === 0 || root === label) label = root;
        else if (root < label) label = parents[label] = root;
        else parents[root] = label;
      };
      if (x > 0) join(i - 1);
      if (y > 0) {
        if (x > 0) join(i - width - 1);
        join(i - width);
        if (x + 1 < width) join(i - width + 1);
      }
      if (label === 0) {
        label = next++;
        parents[label] = label;
      }
      labels[i] = label;
    }
  }
  const sizes = new Uint32Array(next);
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] === 0) continue;
    const root = rootOf(parents, labels[i] as number);
    labels[i] = root;
    sizes[root] = (sizes[root] as number) + 1;
  }
  for (let i = 0; i < labels.length; i++) labels[i] = sizes[labels[i] as number] as number;
  return { count: sizes.reduce((count, size) => count + (size > 0 ? 1 : 0), 0), pixels, areas: labels };
}
