// A real browser for tests: Chromium, found through CHROMIUM or the PATH; without one its tests are skipped. Screenshots
// go to test-output/, or to the folder that DDAD_TEST_OUTPUT names.
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after } from 'node:test';
import { chromium } from 'playwright-core';
import { root } from './common.mjs';

export const output = process.env.DDAD_TEST_OUTPUT || path.join(root, 'test-output');
const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js');

function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const names = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome'];
  const folders = (process.env.PATH ?? '').split(path.delimiter);
  return folders.flatMap((folder) => names.map((name) => path.join(folder, name))).find((file) => existsSync(file));
}

const executablePath = findChromium();
export const skip = executablePath
  ? false
  : 'no Chromium: set CHROMIUM, or install one, such as the Debian package chromium';

export const desktop = { viewport: { width: 1360, height: 900 } };
export const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

/** A browser until the tests of the file have ended. */
export async function launch() {
  await mkdir(output, { recursive: true });
  // A container's root cannot use the sandbox; the pages are our own.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  const browser = await chromium.launch({ executablePath, args });
  after(() => browser.close());
  return browser;
}

/** What axe finds wrong with a page, a line each. */
export async function faults(page) {
  await page.evaluate(await readFile(axe, 'utf8'));
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes[0].html.slice(0, 200)}`);
}
