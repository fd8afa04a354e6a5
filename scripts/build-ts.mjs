// Compiles src/ to CommonJS in dist/, and writes the ES module entry: a wrapper that names every export of the
// CommonJS one, so that both see the same classes. Templates, style sheets and the scripts of pages follow.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fail, root, run } from './lib/run.mjs';

const source = path.join(root, 'src');
const dist = path.join(root, 'dist');
const copied = /\.(css|eta|html)$/;

/** Removes what a source that is gone has left behind. */
function removeStale() {
  if (!fs.existsSync(dist)) return;
  for (const file of fs.readdirSync(dist, { recursive: true })) {
    const compiled = /^(.*)\.(js|js\.map|d\.ts)$/.exec(file);
    const origin = compiled ? `${compiled[1]}.ts` : copied.test(file) ? file : undefined;
    if (origin && !fs.existsSync(path.join(source, origin))) fs.rmSync(path.join(dist, file));
  }
}

/** Runs the compiler on the project in a folder. */
function compile(folder) {
  run(process.execPath, [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '--project', folder]);
}

function copyTexts() {
  for (const file of fs.readdirSync(source, { recursive: true })) {
    if (!copied.test(file)) continue;
    fs.mkdirSync(path.dirname(path.join(dist, file)), { recursive: true });
    fs.copyFileSync(path.join(source, file), path.join(dist, file));
  }
}

/** The names of the values, not the types, that src/index.ts exports. */
const exportedValues = () => Object.keys(createRequire(import.meta.url)(path.join(dist, 'index.js'))).sort();

removeStale();
const record = path.join(dist, '.tsbuildinfo');
const wrapper = path.join(dist, 'index.mjs');
// With its record of the last run but without the output, tsc would write nothing.
if (!fs.existsSync(path.join(dist, 'index.js'))) fs.rmSync(record, { force: true });
compile(root);
// What runs in a browser has other types.
for (const page of ['report/client', 'service/page']) compile(path.join(source, page));
copyTexts();

if (!fs.existsSync(wrapper) || fs.statSync(wrapper).mtimeMs < fs.statSync(record).mtimeMs) {
  const names = exportedValues();
  if (names.includes('default')) fail('src/index.ts must not have a default export: the wrapper could not repeat it.');
  fs.writeFileSync(path.join(dist, 'index.d.mts'), `export * from './index.js';\n`);
  fs.writeFileSync(wrapper, `export { ${names.join(', ')} } from './index.js';\n`);
}
