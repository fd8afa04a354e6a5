import path from 'node:path';

/** Every code that an error of this package can carry; docs/errors.md has the situations, causes and remedies. */
export const errorCodes = [
  'ERR_ABORTED', // the AbortSignal fired
  'ERR_ADDON', // the native addon is missing or does not load
  'ERR_ARGUMENT', // a call at the wrong time or with the wrong kind of value
  'ERR_BASELINE', // a file of earlier measurements that is damaged or cannot be compared with
  'ERR_BUSY', // the detector's queue is full, or its memory for copies
  'ERR_CONFIG', // a configuration that contradicts itself
  'ERR_DATASET', // a folder without the images that were expected
  'ERR_DEVICE', // the device is not there
  'ERR_DISPOSED', // used after dispose
  'ERR_FILE_READ',
  'ERR_FILE_WRITE',
  'ERR_IMAGE', // missing, empty, truncated or not an image
  'ERR_INTERNAL',
  'ERR_MEMORY',
  'ERR_MODEL_FORMAT', // not a model: bad file, missing tensor, wrong shape, NaN weights
  'ERR_NUMERIC', // the loss is not finite
  'ERR_OPTION', // an unknown option or a bad value
  'ERR_SIGNATURE', // a model that the trusted key has not signed
] as const;

export type DdadErrorCode = (typeof errorCodes)[number];

// Node has codes of its own that begin with ERR_.
const isKnown = (code: unknown): code is DdadErrorCode => (errorCodes as readonly unknown[]).includes(code);

/** What this package throws: a stable `code` for programs, a sentence saying what was expected and what came. */
export class DdadError extends Error {
  readonly code: DdadErrorCode;

  constructor(code: DdadErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'DdadError';
    this.code = code;
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What a value of the wrong kind is, for messages. */
export function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  const kind = typeof value === 'object' ? (value.constructor?.name ?? 'object') : typeof value;
  return `${/^(?!uint|url)[aeiou]/i.test(kind) ? 'an' : 'a'} ${kind}`;
}

/** The error as a DdadError: one of the engine's keeps its code, anything else becomes ERR_INTERNAL. */
export function toDdadError(error: unknown): DdadError {
  if (error instanceof DdadError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  return new DdadError(isKnown(code) ? code : 'ERR_INTERNAL', messageOf(error), { cause: error });
}

/** What the engine says against a configuration that options have led to, in the words of the other option errors. */
export function optionError(error: unknown): DdadError {
  const failure = toDdadError(error);
  if (failure.code !== 'ERR_CONFIG') return failure;
  const message = failure.message.replace(/^(?:score\.)?([\w.]+):/, 'option "$1":');
  return new DdadError('ERR_OPTION', message, { cause: error });
}

/** The same where the configuration came with a file, whose fault it then is. */
export function modelError(error: unknown, file: string): DdadError {
  const failure = toDdadError(error);
  // the engine has one article for all kinds of files
  failure.message = failure.message.replace(/got a weights$/, 'got weights');
  if (failure.code !== 'ERR_CONFIG') return failure;
  return new DdadError('ERR_MODEL_FORMAT', `${file}: its configuration is not valid: ${failure.message}`, {
    cause: error,
  });
}

/** The error that an aborted call rejects with; its cause is the signal's reason. */
export function abortError(signal?: AbortSignal): DdadError {
  return new DdadError('ERR_ABORTED', 'the operation was aborted', { cause: signal?.reason });
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/** Where this package's own code lies: frames of a stack that start here are not the caller's. */
const packageCode = path.join(__dirname, '..') + path.sep;

/**
 * Remembers which line called the public method that this stands in. Errors of the engine arrive from another thread
 * with no JavaScript frames, so the returned function gives them the caller's stack.
 */
export function callSite(): (error: unknown) => DdadError {
  const { stack = '' } = new Error();
  return (error) => {
    const failure = toDdadError(error);
    const frames = stack.split('\n').slice(1);
    const outside = frames.filter((frame) => !frame.includes(packageCode)).join('\n');
    if (outside) failure.stack = `${failure.name} [${failure.code}]: ${failure.message}\n${outside}`;
    return failure;
  };
}

/** Runs a public asynchronous method, at once; its errors show the line that called it. */
export function atCaller<T>(run: () => Promise<T>): Promise<T> {
  const relocate = callSite();
  return new Promise<T>((resolve) => resolve(run())).catch((error: unknown) => {
    throw relocate(error);
  });
}
