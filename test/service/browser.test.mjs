/* global document, getComputedStyle, DataTransfer, ClipboardEvent -- of the page */
// The page of the service in a real browser. Leaves screenshots.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, test } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import { desktop, faults, launch, output, phone, skip } from '../helpers/browser.mjs';
import { makeDataset, makeProducts, pattern, png, temporaryFolder, trainTiny, until } from '../helpers/common.mjs';
import { startApp } from '../helpers/service.mjs';

describe('the page of the service', { skip }, async () => {
  if (skip) return;
  const folder = await temporaryFolder();
  const at = (...names) => path.join(folder, ...names);
  await makeDataset(at('parts'), 6, 240, 160);
  await trainTiny({ Trainer }, at('parts'), at('part.safetensors'));
  const detector = await Detector.load(at('part.safetensors'), { threads: 1 });
  const [good, bad] = [at('parts', 'train', 'good', '00.png'), at('parts', 'test', 'bad', '00.png')];
  const browser = await launch();
  const short = (value) => String(Number(value.toPrecision(4)));

  /** The page of a service of its own; what it asks for and complains about is collected. */
  async function open(t, { model = detector, view = desktop, ...options } = {}) {
    const { url, app, metrics } = await startApp(t, model, { model: 'part.safetensors', ...options });
    const context = await browser.newContext({ ...view, acceptDownloads: true });
    t.after(() => context.close());
    const [requests, complaints] = [[], []];
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on('request', (request) => {
      if (!/^(data|blob):/.test(request.url())) requests.push(`${request.method()} ${request.url().replace(url, '')}`);
    });
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(String(error)));
    await page.goto(url);
    await page.locator(options.token === undefined ? '#model:not(:empty)' : '#entry').waitFor();
    const shown = (id) => page.locator(`#${id}`).waitFor();
    const text = (id) => page.locator(`#${id}`).textContent();
    const choose = (...files) => page.locator('#file').setInputFiles(files);
    const shoot = (name) => page.screenshot({ path: path.join(output, `service-${name}.png`), fullPage: true });
    return { page, app, url, metrics, requests, complaints, shown, text, choose, shoot };
  }

  /** Files as a page's own, for events that carry them. */
  async function transfer(page, files) {
    const list = files.map(({ name, bytes }) => ({ name, base64: Buffer.from(bytes).toString('base64') }));
    return page.evaluateHandle((given) => {
      const found = new DataTransfer();
      for (const { name, base64 } of given) {
        found.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name));
      }
      return found;
    }, list);
  }

  async function drop(page, ...files) {
    const dataTransfer = await transfer(page, files);
    await page.dispatchEvent('#drop', 'dragover', { dataTransfer });
    assert.ok(await page.evaluate(() => document.body.classList.contains('dragging')));
    await page.dispatchEvent('#drop', 'drop', { dataTransfer });
    assert.ok(!(await page.evaluate(() => document.body.classList.contains('dragging'))));
  }

  /** Width and height of the picture, once it is there. */
  const pictureSize = (page) =>
    page.locator('#picture').evaluate(async (picture) => {
      await picture.decode();
      return [picture.naturalWidth, picture.naturalHeight];
    });

  for (const [name, view] of [
    ['light', desktop],
    ['dark', { ...desktop, colorScheme: 'dark' }],
    ['phone', phone],
  ]) {
    test(`a picture that is dropped is shown with its overlay, score and verdict (${name})`, async (t) => {
      const { page, requests, complaints, shown, text, shoot } = await open(t, { view });
      await shoot(`${name}-empty`);
      const { score, threshold, anomalous } = await detector.score(bad);
      const answer = page.waitForResponse(/score$/);
      await drop(page, { name: 'bad.png', bytes: await readFile(bad) });
      await shown('result');
      assert.equal((await answer).headers()['content-type'], 'image/png');
      assert.equal(await text('score'), short(score));
      assert.equal(await text('threshold'), short(threshold));
      assert.ok(anomalous);
      assert.equal(await text('verdict'), '✕ Anomalous');
      assert.equal(await text('name'), 'bad.png');
      assert.equal(await text('status'), `bad.png: Anomalous, score ${short(score)}, threshold ${short(threshold)}`);
      assert.deepEqual(await pictureSize(page), [240, 160]);
      await shoot(`${name}-result`);
      assert.deepEqual(requests, ['GET /', 'GET /healthz', 'POST /score']);
      assert.deepEqual(complaints, []);
    });

    test(`a file that is no picture is refused with the reason (${name})`, async (t) => {
      const { page, shown, text, choose, shoot } = await open(t, { view });
      await drop(page, { name: 'notes.txt', bytes: Buffer.from('no picture') });
      await shown('error');
      assert.equal(await text('error-title'), 'notes.txt could not be scored');
      assert.equal(await text('error-text'), 'Not an image that can be read.');
      assert.equal(await page.locator('#error').getAttribute('role'), 'alert');
      assert.equal(await page.locator('#result').isVisible(), false);
      await shoot(`${name}-error`);
      await choose(good);
      await shown('result');
      assert.equal(await page.locator('#error').isVisible(), false);
    });

    test(`axe finds no fault in any state (${name})`, async (t) => {
      const { page, shown, choose } = await open(t, { view });
      assert.deepEqual(await faults(page), []);
      for (const image of [good, bad]) {
        await choose(image);
        await shown('result');
        assert.deepEqual(await faults(page), []);
      }
      await drop(page, { name: 'notes.txt', bytes: Buffer.from('no picture') });
      await shown('error');
      assert.deepEqual(await faults(page), []);
    });
  }

  test('the overlay can be taken away and saved', async (t) => {
    const { page, shown, choose } = await open(t);
    await choose(bad);
    await shown('result');
    const picture = page.locator('#picture');
    const covered = await picture.getAttribute('src');
    assert.match(await picture.getAttribute('alt'), /coloured where it differs/);
    await page.getByLabel('Show where it differs').uncheck();
    const original = await picture.getAttribute('src');
    assert.notEqual(original, covered);
    assert.equal(await picture.getAttribute('alt'), '00.png');
    assert.deepEqual(await pictureSize(page), [240, 160]);
    await page.getByLabel('Show where it differs').check();
    assert.equal(await picture.getAttribute('src'), covered);
    const download = page.waitForEvent('download');
    await page.getByText('Save this overlay').click();
    const saved = await download;
    assert.equal(saved.suggestedFilename(), '00.heatmap.png');
    assert.deepEqual(await readFile(await saved.path()), await (await detector.score(bad)).heatmap());
  });

  test('formats that browsers do not show are scored and shown with their overlay alone', async (t) => {
    const { page, shown, choose } = await open(t);
    const file = at('part.tiff');
    await (await png(pattern(90, 60))).tiff().toFile(file);
    await choose(file);
    await shown('result');
    assert.deepEqual(await pictureSize(page), [90, 60]);
    assert.equal(await page.locator('#toggle').isVisible(), false);
  });

  test('a picture can be chosen by keyboard, and pasted', async (t) => {
    const { page, shown, text } = await open(t);
    const chooser = page.waitForEvent('filechooser');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'file');
    const outline = await page.locator('#drop').evaluate((part) => getComputedStyle(part).outlineStyle);
    assert.equal(outline, 'solid');
    await page.keyboard.press('Enter');
    await (await chooser).setFiles(bad);
    await shown('result');
    const clipboard = await transfer(page, [{ name: 'pasted.png', bytes: await readFile(good) }]);
    await page.evaluate((clipboardData) => {
      document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }));
    }, clipboard);
    await page.locator('#name', { hasText: 'pasted.png' }).waitFor();
    assert.equal(await text('score'), short((await detector.score(good)).score));
  });

  test('what is too large is not even sent, and several files are one too many', async (t) => {
    const { page, requests, shown, text } = await open(t, { maxUpload: 40_000 });
    assert.match(await text('limits'), /up to 0.04\sMB$/);
    await drop(page, { name: 'large.png', bytes: Buffer.alloc(52_000) });
    await shown('error');
    assert.match(await text('error-text'), /^It has 0.052\sMB; at most 0.04\sMB are allowed\.$/);
    const bytes = await readFile(good);
    await drop(page, { name: 'a.png', bytes }, { name: 'b.png', bytes });
    await page.locator('#error-title', { hasText: 'One picture at a time' }).waitFor();
    assert.deepEqual(requests, ['GET /', 'GET /healthz']);
  });

  test('a service that has gone is called gone', async (t) => {
    const { app, shown, text, choose } = await open(t);
    app.server.closeAllConnections();
    await app.close();
    await choose(good);
    await shown('error');
    assert.match(await text('error-text'), /cannot be reached/);
  });

  test('a new picture takes the place of one that is still computed', async (t) => {
    const { page, metrics, shown, text, choose } = await open(t);
    const large = at('large.png');
    await png(pattern(1500, 1500)).toFile(large); // a quarter of a minute of work
    await choose(large);
    await shown('progress');
    assert.equal(await text('status'), 'Scoring large.png…');
    await choose(good);
    await shown('result');
    assert.equal(await text('name'), '00.png');
    assert.equal(await page.locator('#progress').isVisible(), false);
    await until(async () => {
      const value = await metrics();
      return value('ddad_http_requests_total', { method: 'POST', route: '/score', status: '499' }) === 1;
    });
  });

  test('a unified model asks for the product, and scores again for another', async (t) => {
    await makeProducts(at('products'), { nut: 5, bolt: 5 });
    await trainTiny({ Trainer }, at('products'), at('all.safetensors'));
    const model = await Detector.load(at('all.safetensors'), { threads: 1 });
    t.after(() => model[Symbol.asyncDispose]());
    const { page, shown, text, choose } = await open(t, { model });
    const image = at('products', 'bolt', 'test', 'bad', '00.png');
    await choose(image);
    await shown('result');
    assert.deepEqual(await page.locator('#product option').allTextContents(), ['bolt', 'nut']);
    assert.equal(await text('score'), short((await model.score(image, { product: 'bolt' })).score));
    await page.getByLabel('Product').selectOption('nut');
    const { score } = await model.score(image, { product: 'nut' });
    await page.locator('#score', { hasText: short(score) }).waitFor();
    assert.deepEqual(await faults(page), []);
  });

  test('a service with a token asks for it, and forgets one that is wrong', async (t) => {
    const token = 'a-token-of-more-than-16';
    const { page, url, requests, complaints, shown, text, choose, shoot } = await open(t, { token });
    const kept = () => page.evaluate(() => sessionStorage.getItem('ddad-token'));
    const give = async (value) => {
      await page.getByLabel('Token').fill(value);
      await page.keyboard.press('Enter');
    };
    assert.equal(await page.evaluate(() => document.activeElement.id), 'token');
    for (const id of ['drop', 'error', 'result']) assert.equal(await page.locator(`#${id}`).isVisible(), false, id);
    assert.ok(!(await page.content()).includes('part.safetensors'));
    assert.deepEqual(await faults(page), []);
    await shoot('token');
    for (const wrong of ['not-the-token-at-all', 'wörter 🔑']) {
      await give(wrong);
      await page.locator('#error-title', { hasText: 'That token is not right' }).waitFor();
      await page.locator('#token:not(:disabled)').waitFor();
      assert.equal(await kept(), null);
      assert.equal(await page.getByLabel('Token').inputValue(), '');
    }
    await drop(page, { name: 'bad.png', bytes: await readFile(bad) }); // nothing happens before
    assert.deepEqual(await faults(page), []);
    await give(` ${token} `);
    await page.locator('#model', { hasText: 'part.safetensors' }).waitFor();
    assert.equal(await page.locator('#entry').isVisible(), false);
    await choose(bad);
    await shown('result');
    assert.equal(await text('score'), short((await detector.score(bad)).score));
    const answers = ['GET /', 'GET /healthz', 'GET /healthz', 'GET /healthz', 'POST /score'];
    assert.deepEqual(requests, answers);
    await page.reload();
    await page.locator('#model', { hasText: 'part.safetensors' }).waitFor();
    assert.equal(await kept(), token);
    const other = await page.context().newPage();
    await other.goto(url);
    await other.locator('#entry').waitFor(); // kept for the tab alone
    await page.evaluate(() => sessionStorage.setItem('ddad-token', 'one-of-yesterday'));
    await choose(bad);
    await page.locator('#error-title', { hasText: 'That token is not right' }).waitFor();
    assert.equal(await page.locator('#entry').isVisible(), true);
    assert.deepEqual(
      complaints.filter((line) => !line.includes('401')),
      [],
    );
  });

  test('names are text, whatever is in them, and nothing else runs', async (t) => {
    const { page, shown, text, complaints } = await open(t, { model: detector });
    const name = '<img src=x onerror="globalThis.hacked=1">.png';
    await drop(page, { name, bytes: await readFile(good) });
    await shown('result');
    assert.equal(await text('name'), name);
    await page.evaluate(() => {
      const script = document.createElement('script');
      script.textContent = 'globalThis.hacked = 1';
      document.body.append(script);
    });
    assert.equal(await page.evaluate(() => globalThis.hacked), undefined);
    assert.match(complaints.join(), /Content Security Policy/);
  });

  test('never scrolls sideways', async (t) => {
    const { page, shown } = await open(t, { model: detector });
    const bytes = await readFile(bad);
    for (const width of [320, 360, 600, 900, 1400]) {
      await page.setViewportSize({ width, height: 800 });
      await drop(page, { name: `${'a-long-name-without-an-end-'.repeat(5)}.png`, bytes });
      await shown('result');
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width, String(width));
    }
  });
});
