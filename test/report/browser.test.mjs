/* global document, getComputedStyle, innerHeight, requestAnimationFrame -- of the page */
// A report in a real browser. Leaves screenshots and a print.
import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { desktop, faults, launch, output, phone, skip } from '../helpers/browser.mjs';
import { temporaryFolder } from '../helpers/common.mjs';
import { hostile, makeReport } from '../helpers/report.mjs';

describe('a report in a browser', { skip }, async () => {
  if (skip) return;
  const folder = await temporaryFolder();
  const { file, evaluation } = await makeReport(path.join(folder, 'report'), {
    images: 30,
    defects: ['crack', 'stain'],
  });
  const bad = await makeReport(path.join(folder, 'hostile'), { images: 12, defects: hostile, model: hostile[0] });
  const browser = await launch();
  const { scores } = evaluation;

  /** Opens a report without a network; what the page asks for and complains about is collected. */
  async function open(options = desktop, report = file) {
    const context = await browser.newContext({ ...options, offline: true });
    const [requests, complaints] = [[], []];
    await context.route('**/*', (route) => {
      const url = route.request().url();
      if (!url.startsWith('data:')) requests.push(url);
      return url.startsWith('file:') ? route.continue() : route.abort();
    });
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(String(error)));
    await page.goto(pathToFileURL(report).href);
    const seen = async () => {
      const rows = page.locator('#rows tbody tr:visible th');
      return (await rows.allTextContents()).map((text) => text.trim());
    };
    const settled = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20))));
    const shoot = async (name) => {
      await page.evaluate(() => {
        // Pictures further away are not loaded at all.
        const near = [...document.images].filter((image) => {
          const { top, bottom } = image.getBoundingClientRect();
          return image.checkVisibility() && bottom > 0 && top < innerHeight;
        });
        return Promise.all(near.map((image) => image.decode()));
      });
      await page.screenshot({ path: path.join(output, `report-${name}.png`) });
    };
    const top = (id) => page.evaluate((name) => document.getElementById(name).scrollIntoView(), id);
    const close = async () => {
      assert.deepEqual(complaints, []);
      assert.deepEqual(requests, [pathToFileURL(report).href]);
      await context.close();
    };
    return { page, seen, settled, shoot, top, close };
  }

  const namesOf = (images) => images.map(({ image }) => image);

  test('loads nothing but itself and complains about nothing', async () => {
    const { page, seen, shoot, top, close } = await open();
    assert.deepEqual(await seen(), namesOf(scores));
    assert.equal(await page.locator('#shown').textContent(), '30 images');
    await shoot('desktop');
    for (const id of ['charts', 'images']) {
      await top(id);
      await shoot(`desktop-${id}`);
    }
    const loaded = await page.evaluate(() => [...document.images].filter((image) => image.naturalWidth > 0).length);
    assert.ok(loaded >= 10, `${loaded} pictures`);
    await close();
  });

  test('sorts by a click and by the keyboard, and says so', async () => {
    const { page, seen, settled, close } = await open();
    const header = page.locator('#rows thead th.score');
    await header.getByRole('button').click();
    await settled();
    const descending = namesOf([...scores].sort((a, b) => b.score - a.score));
    assert.equal(await header.getAttribute('aria-sort'), 'descending');
    assert.deepEqual(await seen(), descending);
    await header.getByRole('button').focus();
    await page.keyboard.press('Enter');
    await settled();
    assert.equal(await header.getAttribute('aria-sort'), 'ascending');
    assert.deepEqual(await seen(), descending.toReversed());
    await page.locator('#rows thead th.outcome button').focus();
    await page.keyboard.press('Space');
    await settled();
    assert.equal(await header.getAttribute('aria-sort'), null);
    assert.equal(await page.locator('#rows [aria-sort]').count(), 1);
    await page.locator('table.stacked thead button').first().click();
    await settled();
    assert.deepEqual(await page.locator('table.stacked tbody th').allTextContents(), ['stain', 'crack']);
    await close();
  });

  test('filters by defect and outcome together, and counts what each would show', async () => {
    const { page, seen, settled, shoot, top, close } = await open();
    const box = (name, value) => page.locator(`#filters input[name="${name}"][value="${value}"]`);
    const count = async (name, value) =>
      Number(await box(name, value).locator('xpath=..').locator('.count').textContent());
    const matching = (test) => scores.filter(test);
    const cracks = matching(({ defect }) => defect === 'crack');
    await box('defect', 'crack').check();
    assert.deepEqual(await seen(), namesOf(cracks));
    assert.equal(await count('outcome', 'caught'), cracks.filter(({ outcome }) => outcome === 'caught').length);
    assert.equal(await count('outcome', 'passed'), 0);
    assert.equal(await count('defect', 'stain'), matching(({ defect }) => defect === 'stain').length);
    await box('outcome', 'caught').check();
    const caught = cracks.filter(({ outcome }) => outcome === 'caught');
    assert.ok(caught.length > 0 && caught.length < cracks.length, 'the images leave something to filter');
    assert.deepEqual(await seen(), namesOf(caught));
    await box('defect', 'good').check(); // good ones are never caught, so nothing more appears
    assert.deepEqual(await seen(), namesOf(caught));
    assert.equal(await page.locator('#shown').textContent(), `${caught.length} of 30 images`);
    await page.locator('#rows thead th.score button').click();
    await settled();
    assert.deepEqual(await seen(), namesOf([...caught].sort((a, b) => b.score - a.score)));
    await top('images');
    await shoot('desktop-filtered');
    await page.locator('#reset').click();
    assert.equal((await seen()).length, 30);
    assert.equal(await page.locator('#filters input:checked').count(), 0);
    await close();
  });

  test('enlarges a picture, turns to its neighbours, and comes back', async () => {
    const { page, shoot, close } = await open();
    const shot = page.locator('#rows tbody tr').nth(1).locator('.shot button');
    await shot.nth(2).focus();
    const small = await shot.nth(2).locator('img').boundingBox();
    await page.keyboard.press('Enter');
    const caption = page.locator('#caption');
    assert.equal(await caption.textContent(), `Overlay: ${scores[1].image}`);
    const large = await page.locator('#picture img').boundingBox();
    assert.ok(large.width > 3 * small.width);
    await shoot('desktop-enlarged');
    await page.keyboard.press('ArrowRight');
    assert.equal(await caption.textContent(), `Pixel level: ${scores[1].image}`);
    await page.locator('#previous').click();
    assert.equal(await caption.textContent(), `Overlay: ${scores[1].image}`);
    await page.keyboard.press('Escape');
    assert.equal(await page.locator('#viewer').isVisible(), false);
    assert.match(await page.evaluate(() => document.activeElement.querySelector('img').alt), /^Overlay/);
    await shot.first().click();
    await page.locator('#picture img').click();
    assert.equal(await page.locator('#viewer').isVisible(), false);
    await close();
  });

  for (const [name, options, report] of [
    ['a desktop', desktop, file],
    ['a desktop, dark', { ...desktop, colorScheme: 'dark' }, file],
    ['a phone', phone, file],
    ['a phone, with names of all kinds', phone, bad.file],
  ]) {
    test(`has no fault that axe finds on ${name}`, async () => {
      const { page, close } = await open(options, report);
      assert.deepEqual(await faults(page), []);
      await close();
    });
  }

  test('fits a phone', async () => {
    for (const [name, report] of [
      ['phone', file],
      ['phone-hostile', bad.file],
    ]) {
      const { page, shoot, top, close } = await open(phone, report);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= 390, `${name}: ${width} pixels wide`);
      await shoot(name);
      for (const id of ['figures', 'charts', 'images']) {
        await top(id);
        await shoot(`${name}-${id}`);
      }
      await page.locator('#rows .shot button').first().tap();
      const picture = await page.locator('#picture img').boundingBox();
      assert.ok(picture.x >= 0 && picture.x + picture.width <= 390);
      await shoot(`${name}-enlarged`);
      await page.locator('#close').tap();
      await close();
    }
  });

  test('never scrolls sideways, around every width where the layout changes', async () => {
    for (const report of [file, bad.file]) {
      const { page, settled, top, close } = await open(desktop, report);
      for (const width of [320, 640, 641, 960, 1200, 1201, 1280, 1920]) {
        await page.setViewportSize({ width, height: 900 });
        await top('images');
        await settled();
        const over = await page.evaluate(() => {
          const past = [...document.querySelectorAll('th button, td, .badge')].filter((part) => {
            const [inner, outer] = [part, part.closest('tr') ?? document.body].map((at) => at.getBoundingClientRect());
            // What is out of sight has not been laid out for this width yet.
            return part.checkVisibility({ contentVisibilityAuto: true }) && inner.right > outer.right + 1;
          });
          return [document.documentElement.scrollWidth, ...past.map((part) => part.textContent)];
        });
        assert.deepEqual(over, [width]);
      }
      await close();
    }
  });

  test('is dark where the system is', async () => {
    const { page, shoot, top, close } = await open({ ...desktop, colorScheme: 'dark' });
    const paper = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.ok(
      paper.match(/\d+/g).every((part) => Number(part) < 64),
      paper,
    );
    await top('images');
    await shoot('dark-images');
    await close();
  });

  test('prints what is shown, light, without filters, rows whole', async () => {
    const { page, shoot, top, close } = await open({ viewport: { width: 718, height: 1000 }, colorScheme: 'dark' });
    await page.locator('#filters input[name=outcome][value=caught]').check();
    const file = path.join(output, 'report-print.pdf');
    const pdf = await page.pdf({ path: file, preferCSSPageSize: true, printBackground: true });
    assert.equal(pdf.subarray(0, 5).toString(), '%PDF-');
    const unloaded = await page.locator('#rows tbody tr:visible img').evaluateAll((images) => {
      return images.filter((image) => image.naturalWidth === 0).length;
    });
    assert.equal(unloaded, 0, 'a print has the pictures that were out of sight');
    await page.emulateMedia({ media: 'print' });
    assert.equal(await page.locator('#filters').isVisible(), false);
    assert.equal(await page.locator('#rows thead').isVisible(), false);
    const caught = scores.filter(({ outcome }) => outcome === 'caught').length;
    assert.equal(await page.locator('#rows tbody tr:visible').count(), caught);
    const row = await page.evaluate(() => {
      const { breakInside, contentVisibility } = getComputedStyle(document.querySelector('#rows tbody tr'));
      return { breakInside, contentVisibility, paper: getComputedStyle(document.body).backgroundColor };
    });
    assert.deepEqual(row, { breakInside: 'avoid', contentVisibility: 'visible', paper: 'rgb(255, 255, 255)' });
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 718);
    await page.evaluate(() => globalThis.scrollTo(0, 0));
    await shoot('print');
    await top('images');
    await shoot('print-images');
    await close();
  });

  test('runs nothing that a name brings along', async () => {
    const { page, seen, close } = await open(desktop, bad.file);
    assert.equal(await page.evaluate(() => globalThis.hacked), undefined);
    assert.deepEqual(await seen(), namesOf(bad.evaluation.scores));
    const boxes = page.locator('#filters input[name=defect]');
    for (const [i, name] of ['good', ...hostile].entries()) {
      assert.equal(await boxes.nth(i).inputValue(), name);
      await boxes.nth(i).check();
      const own = bad.evaluation.scores.filter(({ defect }) => defect === name);
      assert.deepEqual(await seen(), namesOf(own));
      await boxes.nth(i).uncheck();
    }
    await close();
  });

  test('shows everything without its script', async () => {
    const { page, seen, close } = await open({ ...desktop, javaScriptEnabled: false });
    assert.equal((await seen()).length, 30);
    assert.equal(await page.locator('#filters').isVisible(), false);
    await close();
  });
});
