// A configuration as the engine and the files of models have it: JSON in which some fields have older names.

/** Fields of the objects below, by their names here; the engine calls the bank of good residuals its memory. */
const engineNames: Record<string, string> = {
  memoryBank: 'memory',
  memoryBankMean: 'memoryMean',
  memoryBankStd: 'memoryStd',
};
const namesHere = Object.fromEntries(Object.entries(engineNames).map(([here, engine]) => [engine, here]));

/** Bytes by purpose, as the engine tells them. */
export function memoryUsageOf(json: string): Record<string, number> {
  const { residualMemory, ...others } = JSON.parse(json) as Record<string, number>;
  return { ...others, ...(residualMemory !== undefined && { memoryBank: residualMemory }) };
}

/** Where those fields stand: no other object may have a field renamed that happens to be called so, such as a product. */
const renamedIn = new Set(['score', 'calibration']);

function renamed(key: string, value: unknown, names: Record<string, string>): unknown {
  if (!renamedIn.has(key) || value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  const fields = Object.entries(value).map(([name, inner]): [string, unknown] => [
    Object.hasOwn(names, name) ? (names[name] as string) : name,
    inner,
  ]);
  return Object.fromEntries(fields);
}

/** A configuration for the engine, or for a file. */
export const toEngineJson = (config: object): string =>
  JSON.stringify(config, (key, value: unknown) => renamed(key, value, engineNames));

/** A configuration of the engine, or of a file. Throws what `JSON.parse` throws. */
export const fromEngineJson = (json: string): unknown =>
  JSON.parse(json, (key, value: unknown) => renamed(key, value, namesHere));
