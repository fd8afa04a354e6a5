import { readFileSync } from 'node:fs';
import path from 'node:path';

/** The folder that holds package.json. */
export const packageRoot = path.join(__dirname, '..', '..');

/** This package's version. */
export function packageVersion(): string {
  const text = readFileSync(path.join(packageRoot, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
