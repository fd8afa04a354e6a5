/** Shown where a figure has no meaning. */
export const none = '–';

/** A number of any size in four significant digits. */
export function number(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return none;
  const size = Math.abs(value);
  const outOfScale = size !== 0 && (size < 1e-3 || size >= 1e6);
  const text = outOfScale ? value.toExponential(2) : size < 1000 ? value.toPrecision(4) : value.toFixed(0);
  return text.replaceAll('-', '−').replace('e+', 'e');
}

/** A figure between 0 and 1. */
export function rate(value: number | null): string {
  return value === null || !Number.isFinite(value) ? none : value.toFixed(4);
}

/** A share in per cent. */
export function percent(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return none;
  return `${Number((100 * value).toPrecision(value < 0.1 ? 2 : 3))}%`;
}

/** A point in time, in UTC: a report is read in other places than the one it was made in. */
export function dateTime(date: Date): string {
  const format = new Intl.DateTimeFormat('en-GB', { dateStyle: 'long', timeStyle: 'short', timeZone: 'UTC' });
  return `${format.format(date)} UTC`;
}
