// Looks for the usual hardening in the addon that was built (cmake/hardening.cmake), with readelf; prints what is missing
// and exits with 1.
//   node scripts/check-hardening.mjs [file ...]     build/Release/ddad.node unless named
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { root } from './lib/run.mjs';

const readelf = (file, ...flags) =>
  execFileSync('readelf', ['--wide', ...flags, file], { encoding: 'utf8', maxBuffer: 1 << 26 });

const endbr64 = Buffer.from([0xf3, 0x0f, 0x1e, 0xfa]);

function countOf(bytes, pattern) {
  let count = 0;
  for (let at = bytes.indexOf(pattern); at >= 0; at = bytes.indexOf(pattern, at + 1)) count += 1;
  return count;
}

/** What an ELF file lacks, in words; empty where nothing. */
export function missingHardening(file) {
  const segments = readelf(file, '--program-headers');
  const dynamic = readelf(file, '--dynamic');
  const symbols = readelf(file, '--dyn-syms');
  const machine = /Machine:\s+(.*)/.exec(readelf(file, '--file-header'))?.[1] ?? '';
  const wanted = {
    'a stack that is not executable': /GNU_STACK.*\sRW\s/.test(segments),
    'no segment both writable and executable': !/LOAD.*RWE/.test(segments),
    'relocations that are read-only once done (relro)': /GNU_RELRO/.test(segments),
    'all symbols bound at the start (full relro)': /BIND_NOW|FLAGS_1.*NOW/.test(dynamic),
    'no relocations in code': !/TEXTREL/.test(dynamic),
    'no search path but its own folder': !/\((?:RPATH|RUNPATH)\)(?!.*\[\$ORIGIN\])/.test(dynamic),
    'stack protectors': /__stack_chk_fail/.test(symbols),
    'checked library calls (FORTIFY)': /__\w+_chk\b(?!_fail)/.test(symbols.replaceAll('__stack_chk_fail', '')),
  };
  if (/X86-64/i.test(machine)) {
    // not the note of it, which the linker leaves out where the C library's own objects do not have it
    wanted['landing places of indirect branches (-fcf-protection)'] = countOf(fs.readFileSync(file), endbr64) > 100;
  }
  return Object.entries(wanted)
    .filter(([, there]) => !there)
    .map(([what]) => what);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const files = process.argv.length > 2 ? process.argv.slice(2) : [path.join(root, 'build', 'Release', 'ddad.node')];
  for (const file of files) {
    const missing = missingHardening(file);
    for (const what of missing) console.log(`${file}: expected ${what}`);
    if (missing.length > 0) process.exitCode = 1;
    else console.log(`${file}: hardened`);
  }
}
