// The addon is built with the usual hardening, and the check sees where something of it is missing.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import test from 'node:test';
import { missingHardening } from '../../scripts/check-hardening.mjs';
import { root, temporaryFolder } from '../helpers/common.mjs';

const there = (program) => spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;

test('the addon is hardened', { skip: !there('readelf') }, () => {
  assert.deepEqual(missingHardening(process.env.DDAD_ADDON ?? path.join(root, 'build', 'Release', 'ddad.node')), []);
});

test('a library without any of it is told so', { skip: !there('readelf') || !there('cc') }, async () => {
  const folder = await temporaryFolder();
  const source = path.join(folder, 'plain.c');
  const library = path.join(folder, 'plain.so');
  await writeFile(source, 'int plain(int x) { return x + 1; }\n');
  const flags = ['-shared', '-fPIC', '-fcf-protection=none', '-fno-stack-protector', '-Wl,-z,lazy,-z,norelro,-z,execstack'];
  const built = spawnSync('cc', [...flags, source, '-o', library], { encoding: 'utf8' });
  assert.equal(built.status, 0, built.stderr);
  const missing = missingHardening(library).join('; ');
  for (const what of [/stack that is not executable/, /relro\)/, /full relro/, /stack protectors/, /FORTIFY/]) {
    assert.match(missing, what);
  }
});
