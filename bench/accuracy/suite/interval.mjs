// What a rate over few images says of the rate over all.

/** Of the normal distribution, for 95 % between both ends. */
const z95 = 1.959963984540054;

/** The interval of Wilson (95 %) of a rate that `hits` of `count` show: `{ rate, low, high }`; null of none. */
export function wilson(hits, count, z = z95) {
  if (!Number.isInteger(hits) || !Number.isInteger(count) || hits < 0 || hits > count) {
    throw new RangeError(`expected 0 to ${count} hits, got ${hits}`);
  }
  if (count === 0) return null;
  const rate = hits / count;
  const square = z * z;
  const middle = (rate + square / (2 * count)) / (1 + square / count);
  const half = (z / (1 + square / count)) * Math.sqrt((rate * (1 - rate)) / count + square / (4 * count * count));
  // Without what rounding leaves at the ends.
  return { rate, low: hits === 0 ? 0 : middle - half, high: hits === count ? 1 : middle + half };
}
