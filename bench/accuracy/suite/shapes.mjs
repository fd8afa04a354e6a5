// Where a defect is: planes of 0 to 1, and 0 outside of it.
import sharp from 'sharp';
import { createNoise2D } from 'simplex-noise';

/** Less than this of a defect's strength is no defect: what is in the mask and what changes are the same pixels. */
const faintest = 0.1;

export const between = (next, low, high) => low + (high - low) * next();
export const sign = (next) => (next() < 0.5 ? -1 : 1);
export const sideOf = ({ width, height }) => Math.sqrt(width * height);

function cut(plane) {
  return plane.map((value) => (value < faintest ? 0 : Math.min(1, value)));
}

/** A place at least `margin` of its side away from the border. */
export function place(next, { width, height }, margin = 0.12) {
  return { x: between(next, margin, 1 - margin) * width, y: between(next, margin, 1 - margin) * height };
}

/** Strokes `{ d, width }`, `d` as in SVG's path, drawn by librsvg. */
export async function strokes({ width, height }, paths) {
  const drawn = paths.map(({ d, width: line }) => `<path d="${d}" stroke-width="${line.toFixed(2)}"/>`).join('');
  const style = 'fill="none" stroke="#fff" stroke-linecap="round" stroke-linejoin="round"';
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><g ${style}>${drawn}</g></svg>`;
  const alpha = await sharp(Buffer.from(svg)).ensureAlpha().extractChannel(3).raw().toBuffer();
  return cut(Float32Array.from(alpha, (value) => value / 255));
}

const point = ({ x, y }) => `${x.toFixed(2)} ${y.toFixed(2)}`;

/** A bent line through the image, as a path. */
export function bentLine(next, shape, shortest, longest) {
  const side = sideOf(shape);
  const length = between(next, shortest, longest) * side;
  const angle = between(next, 0, Math.PI);
  const middle = place(next, shape);
  const along = (share, aside) => ({
    x: middle.x + (share - 0.5) * length * Math.cos(angle) - aside * length * Math.sin(angle),
    y: middle.y + (share - 0.5) * length * Math.sin(angle) + aside * length * Math.cos(angle),
  });
  const bend = [between(next, -0.15, 0.15), between(next, -0.15, 0.15)];
  return `M${point(along(0, 0))} C${point(along(1 / 3, bend[0]))} ${point(along(2 / 3, bend[1]))} ${point(along(1, 0))}`;
}

/** A walk that turns at random and branches, as paths that become thinner. */
export function branchingWalk(next, shape) {
  const side = sideOf(shape);
  const step = 0.02 * side;
  const paths = [];
  const open = [
    { ...place(next, shape), angle: between(next, 0, 2 * Math.PI), steps: 10 + Math.floor(10 * next()), depth: 0 },
  ];
  while (open.length > 0) {
    const walk = open.shift();
    let { x, y, angle } = walk;
    let d = `M${point({ x, y })}`;
    for (let i = 0; i < walk.steps; i++) {
      angle += between(next, -0.6, 0.6);
      x += step * Math.cos(angle);
      y += step * Math.sin(angle);
      d += ` L${point({ x, y })}`;
      if (walk.depth < 2 && next() < 0.2) {
        const turned = angle + sign(next) * between(next, 0.5, 1.2);
        open.push({ x, y, angle: turned, steps: Math.ceil((walk.steps - i) * 0.7), depth: walk.depth + 1 });
      }
    }
    paths.push({ d, width: Math.max(1, 0.008 * side * 0.7 ** walk.depth) });
  }
  return paths;
}

/**
 * A round region of a radius between two shares of the image's side, its border uneven by simplex noise; `soft` is the
 * share of the radius over which it fades.
 */
export function blob(next, shape, { smallest, largest, uneven = 0.35, soft = 0.25 }) {
  const { width, height } = shape;
  const radius = between(next, smallest, largest) * sideOf(shape);
  const { x: cx, y: cy } = place(next, shape);
  const stretch = between(next, 0.7, 1);
  const angle = between(next, 0, Math.PI);
  const noise = createNoise2D(next);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const alpha = new Float32Array(width * height);
  // Coordinates in radii, along the region's own axes.
  const own = (x, y) => {
    const [dx, dy] = [(x - cx) / radius, (y - cy) / radius];
    return [dx * cos + dy * sin, (dy * cos - dx * sin) / stretch];
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [u, v] = own(x, y);
      const distance = Math.hypot(u, v);
      if (distance > 1 + uneven) continue;
      // By direction alone, so that the region is one.
      const border = 1 + uneven * noise((0.6 * u) / (distance || 1), (0.6 * v) / (distance || 1));
      alpha[y * width + x] = (border - distance) / soft;
    }
  }
  return { alpha: cut(alpha), x: cx, y: cy, radius, own };
}

/** Noise of about -1 to 1 with details of the given size in pixels. */
export function noisePlane(next, { width, height }, detail) {
  const noise = createNoise2D(next);
  return Float32Array.from({ length: width * height }, (_, i) =>
    noise((i % width) / detail, Math.floor(i / width) / detail),
  );
}
