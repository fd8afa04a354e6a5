import { availableParallelism } from 'node:os';
import { DdadError } from '../base/errors.js';
import type { NativeDetector, NativeOrigin } from './native.js';

/** An older build says nothing of where a model comes from; it cannot hold it to a key either, and is then refused. */
export function originOf(native: NativeDetector, trusted: boolean): NativeOrigin {
  const told = native.origin?.();
  if (told !== undefined) return JSON.parse(told) as NativeOrigin;
  if (trusted) throw new DdadError('ERR_INTERNAL', 'this build of the addon is too old to check signatures');
  return { digest: '', signature: null, signatureKey: null, threads: Infinity };
}

/** What whoever loads a model should know of it. */
export function doubts(path: string, { digest, threads }: NativeOrigin, asked: number): string[] {
  const found: string[] = [];
  if (digest === null) {
    found.push(`${path}: has no digest, so that damage to it would not be seen; whatever writes it anew gives it one`);
  }
  const wanted = asked || availableParallelism();
  if (threads < wanted) {
    const why =
      asked > availableParallelism()
        ? `this process may use ${availableParallelism()} processors`
        : 'the system gives no more';
    found.push(`threads: ${wanted} asked for, ${threads} used: ${why}`);
  }
  return found;
}
