/**
 * Area under the ROC curve: the chance that an anomalous image scores above a good one, ties counting half. Exact, from
 * ranks. NaN when one of the two is empty.
 */
export function auroc(good: readonly number[], anomalous: readonly number[]): number {
  const all = [...good.map((score) => ({ score, bad: 0 })), ...anomalous.map((score) => ({ score, bad: 1 }))];
  all.sort((a, b) => a.score - b.score);
  let rankSum = 0;
  for (let i = 0; i < all.length;) {
    let end = i;
    let bad = 0;
    while (end < all.length && all[end]?.score === all[i]?.score) bad += all[end++]?.bad ?? 0;
    rankSum += bad * ((i + 1 + end) / 2); // the mean rank of the tie
    i = end;
  }
  const [p, n] = [anomalous.length, good.length];
  return (rankSum - (p * (p + 1)) / 2) / (p * n);
}
