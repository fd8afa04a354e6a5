import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { test } from 'node:test';
import { capture, root } from '../../scripts/lib/run.mjs';

const require = createRequire(import.meta.url);

test('import and require give the same names and the same classes', async () => {
  const commonJs = require('ddad-native');
  const module = await import('ddad-native');
  assert.deepEqual(Object.keys(module).sort(), Object.keys(commonJs).sort());
  for (const name of Object.keys(commonJs)) assert.equal(module[name], commonJs[name], name);
});

test('the service is an entry of its own', async () => {
  const { createApp, startService, StartError } = await import('ddad-native/service');
  assert.equal(require('ddad-native/service').createApp, createApp);
  assert.equal(typeof startService, 'function');
  const error = await startService({ products: null }, { port: 0, allowHosts: ['a b'] }).catch((found) => found);
  assert.ok(error instanceof StartError, String(error));
  assert.equal(error.option, 'allowHosts');
});

test('requiring the package does not load the addon', () => {
  const code = `require('ddad-native');
    const libraries = process.report.getReport().sharedObjects;
    process.exitCode = libraries.some((file) => file.endsWith('ddad.node')) ? 1 : 0;`;
  const { code: status, output } = capture(process.execPath, ['-e', code]);
  assert.equal(status, 0, output);
});

test('types hold for ES modules and for CommonJS', (t) => {
  // Below the package, so that the name ddad-native means it.
  fs.mkdirSync(path.join(root, 'build'), { recursive: true });
  const folder = fs.mkdtempSync(path.join(root, 'build', 'types-'));
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }));
  const text = `
    import { createApp, type AppOptions } from 'ddad-native/service';
    export const options: AppOptions = { maxUpload: 1, logger: false };
    void createApp;
    import { DdadError, Detector, Trainer, presets, type ScoreMap } from 'ddad-native';
    export async function use(file: string): Promise<ScoreMap> {
      using detector = await Detector.load(file, { device: 'cpu', threads: 2 });
      const result = await detector.score(file);
      if (!(result.map.data instanceof Float32Array)) throw new DdadError('ERR_IMAGE', String(presets));
      return result.map;
    }
    // @ts-expect-error An unknown device.
    void Detector.load('m', { device: 'tpu' });
    export type T = typeof Trainer;
  `;
  fs.writeFileSync(path.join(folder, 'a.mts'), text);
  fs.writeFileSync(path.join(folder, 'b.cts'), text);
  const flags = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--types', 'node'];
  const tsc = [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), ...flags, '--lib', 'es2023,esnext.disposable'];
  const { code, output } = capture(process.execPath, [...tsc, '--ignoreConfig', 'a.mts', 'b.cts'], { cwd: folder });
  assert.equal(code, 0, output);
});
