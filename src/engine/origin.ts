import { availableParallelism } from 'node:os';
import { DdadError } from '../base/errors.js';
import type { NativeDetector, NativeOrigin } from './native.js';

/** An older build says nothing of where a model comes from; it cannot hold it to a key either, and is then refused. */
export function originOf(native: NativeDetector, trusted: boolean): NativeOrigin {
  const json = native.origin?.();
  if (json !== undefined) return JSON.parse(json) as NativeOrigin;
  if (trusted) throw new DdadError('ERR_INTERNAL', 'this build of the addon is too old to check signatures');
  return { digest: '', signature: null, signatureKey: null, threads: Infinity };
}

/** What whoever loads a model should know of it. */
export function originWarnings(path: string, { digest, threads }: NativeOrigin, asked: number): string[] {
  const doubtful: string[] = [];
  if (digest === null) {
    doubtful.push(
      `${path}: has no digest, so that damage to it would not be seen; whatever writes it anew gives it one`,
    );
  }
  const expected = asked || availableParallelism();
  if (threads < expected) {
    const why =
      asked > availableParallelism()
        ? `this process may use ${availableParallelism()} processors`
        : 'the system gives no more';
    doubtful.push(`threads: ${expected} asked for, ${threads} used: ${why}`);
  }
  return doubtful;
}
