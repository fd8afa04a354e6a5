// Streams of random numbers by name: what is made depends on the seed and on what it is called, not on what else is made.
import { createHash } from 'node:crypto';
import { permutation as order, random } from '../../../dist/numeric/random.js';

/** Uniform numbers in [0, 1) for a seed and a name. */
export function stream(seed, name, counter = 0) {
  return random(seed, createHash('sha256').update(name).digest().readUInt32LE(0), counter);
}

/** The items in a random order. */
export function shuffled(items, next) {
  return Array.from(order(items.length, next), (i) => items[i]);
}
