interface MediaRange {
  range: string | undefined;
  q: number;
}

/** How much a client wants a type, by the most specific range of its Accept header that has it. */
function quality(ranges: readonly MediaRange[], type: string): number {
  for (const wanted of [type, `${type.split('/')[0]}/*`, '*/*']) {
    const match = ranges.find(({ range }) => range === wanted);
    if (match) return match.q;
  }
  return 0;
}

/** Whether a client would rather have the overlay than JSON, which it gets where it does not care. */
export function prefersPng(accept = '*/*'): boolean {
  const ranges = accept.split(',').map((part) => {
    const [range, ...parameters] = part.split(';').map((word) => word.trim().toLowerCase());
    const q = parameters.find((parameter) => parameter.startsWith('q='));
    return { range, q: q === undefined ? 1 : Number(q.slice(2)) };
  });
  return quality(ranges, 'image/png') > quality(ranges, 'application/json');
}
