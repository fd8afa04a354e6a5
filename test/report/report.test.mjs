// What stands in a report: built from synthetic scores, read again by a parser of HTML.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, test } from 'node:test';
import v8 from 'node:v8';
import vm from 'node:vm';
import { parseHTML } from 'linkedom';
import sharp from 'sharp';
import { pattern, random, temporaryFolder } from '../helpers/common.mjs';
import { fromLine, hostile, makeEvaluation, makeReport, ReportWriter, toLine } from '../helpers/report.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const texts = (elements) => [...elements].map(({ textContent }) => textContent.trim().replace(/\s+/g, ' '));

async function parsed(file) {
  const html = await readFile(file, 'utf8');
  return { html, document: parseHTML(html).document };
}

const map = (value = 0, width = 32, height = 24) => ({
  data: new Float32Array(width * height).fill(value),
  width,
  height,
});
const gray = (width = 32, height = 24) => pattern(width, height);
const overlay = () =>
  sharp({ create: { width: 32, height: 24, channels: 3, background: '#888' } })
    .png()
    .toBuffer();

function scored(name, changes = {}) {
  const image = {
    image: name,
    product: null,
    defect: 'good',
    score: 1,
    threshold: null,
    anomalous: null,
    outcome: null,
  };
  return { ...image, ...changes };
}

function entry(image, changes = {}) {
  return {
    image,
    input: gray(),
    mask: null,
    result: { pixelMap: map(), featureMap: null, heatmap: overlay },
    ...changes,
  };
}

/** Writes a report of these images as they are. */
async function write(name, images, evaluation = makeEvaluation(images, { masks: false })) {
  const report = await ReportWriter.create(at(name));
  for (const image of images) await report.add(entry(image));
  return parsed(await report.finish(evaluation));
}

describe('a report', async () => {
  const warnings = ['2 masks are <empty>'];
  const { file, evaluation } = await makeReport(at('usual'), { images: 12, date: new Date('2026-03-04T05:06:07Z') });
  const { html, document } = await parsed(file);

  test('says what was evaluated', () => {
    const names = texts(document.querySelectorAll('.facts dt'));
    const facts = texts(document.querySelectorAll('.facts dd'));
    const alarms = evaluation.scores.filter(({ outcome }) => outcome === 'false-alarm').length;
    assert.deepEqual(names, ['Model', 'Dataset', 'Date', 'Images', 'Threshold', 'False alarms']);
    assert.deepEqual(facts.slice(0, 5), [
      'models/parts.safetensors',
      'data/parts',
      '4 March 2026 at 05:06 UTC',
      '12 4 good, 8 with defects; 12 in the pixel figures',
      '1.200',
    ]);
    assert.match(facts[5], new RegExp(`^[\\d.]+% ${alarms} of 4 good images; expected 1%$`));
    assert.equal(document.title, 'Evaluation of parts.safetensors');
  });

  test('has the figures in total and for each defect', () => {
    const tiles = texts(document.querySelectorAll('.figures dt'));
    const names = ['Image AUROC', 'Image AP', 'Image F1, best', 'Pixel AUROC', 'Pixel AP', 'Pixel F1, best'];
    assert.deepEqual(tiles, [...names, 'AUPRO', 'AUPRO 0.05']);
    const value = document.querySelector('.figures b').textContent;
    assert.equal(value, evaluation.imageAuroc.toFixed(4));
    const table = document.querySelector('table.stacked');
    assert.deepEqual(texts(table.querySelectorAll('tbody th')), ['crack', 'stain']);
    assert.equal(table.querySelectorAll('thead th').length, table.querySelectorAll('tbody tr')[0].children.length);
    const sorted = table.querySelector('tbody td[data-label="AUPRO"]').getAttribute('data-sort');
    assert.equal(Number(sorted), evaluation.perDefect.crack.aupro);
  });

  test('counts the verdicts', () => {
    const counts = texts(document.querySelectorAll('.verdicts b')).map(Number);
    const outcomes = ['caught', 'missed', 'false-alarm', 'passed'];
    const expected = outcomes.map((name) => evaluation.scores.filter(({ outcome }) => outcome === name).length);
    assert.deepEqual(counts, expected);
    assert.equal(
      counts.reduce((a, b) => a + b),
      12,
    );
  });

  test('draws six charts that are described in words', () => {
    const charts = [...document.querySelectorAll('.charts figure')];
    assert.equal(charts.length, 6);
    for (const chart of charts) {
      const svg = chart.querySelector('svg');
      assert.equal(svg.getAttribute('role'), 'img');
      assert.ok(svg.getAttribute('aria-label').length > 20);
    }
    const bars = [...charts[0].querySelectorAll('rect title')].map(({ textContent }) => Number.parseInt(textContent));
    assert.equal(
      bars.reduce((a, b) => a + b),
      12,
      'every image is in a bar',
    );
    assert.match(charts[0].textContent, /dashed: the threshold, 1\.200/);
  });

  test('has a row for each image, in order, with five pictures that are described in words', () => {
    const rows = [...document.querySelectorAll('#rows tbody tr')];
    assert.deepEqual(
      texts(document.querySelectorAll('#rows tbody th')),
      evaluation.scores.map(({ image }) => image),
    );
    const header = texts(document.querySelectorAll('#rows thead th'));
    const shots = ['Original', 'Mask', 'Overlay', 'Pixel level', 'Feature level'];
    assert.deepEqual(header, ['Image', ...shots, 'Defect', 'Score', 'Threshold', 'Outcome']);
    for (const [i, row] of rows.entries()) {
      const { image, defect, score, outcome } = evaluation.scores[i];
      assert.equal(row.children.length, header.length);
      assert.equal(row.dataset.defect, defect);
      assert.equal(row.dataset.outcome, outcome);
      assert.equal(Number(row.querySelector('.score').dataset.sort), score);
      assert.equal(row.querySelectorAll('img').length, defect === 'good' ? 4 : 5);
      for (const picture of row.querySelectorAll('img')) {
        assert.ok(picture.alt.endsWith(`: ${image}`));
        assert.match(picture.src, /^data:image\/webp;base64,/);
        assert.ok(Number(picture.getAttribute('width')) > 0 && Number(picture.getAttribute('height')) > 0);
        assert.equal(picture.getAttribute('loading'), 'lazy');
      }
    }
  });

  test('has filters with counts', () => {
    const fieldsets = [...document.querySelectorAll('#filters fieldset')];
    assert.deepEqual(texts(document.querySelectorAll('#filters legend')), ['Defect', 'Outcome']);
    for (const fieldset of fieldsets) {
      const counts = texts(fieldset.querySelectorAll('.count')).map(Number);
      assert.equal(
        counts.reduce((a, b) => a + b),
        12,
      );
    }
  });

  test('loads nothing from anywhere, and lets no other script run', () => {
    assert.doesNotMatch(html.replaceAll('http://www.w3.org/', ''), /https?:|\/\/[\w-]+\.\w|@import|url\((?!#)/);
    const loading = document.querySelectorAll('link, iframe, object, embed, base, script[src], form');
    assert.equal(loading.length, 0);
    const policy = document.querySelector('meta[http-equiv="Content-Security-Policy"]').getAttribute('content');
    const script = /<script>([\s\S]*)<\/script>/.exec(html)[1];
    const hash = createHash('sha256').update(script).digest('base64');
    assert.match(policy, /default-src 'none'; img-src data:/);
    assert.ok(policy.includes(`script-src 'sha256-${hash}'`));
    assert.equal(document.querySelectorAll('script').length, 1);
  });

  test('leaves nothing else in its folder', async () => {
    const others = (await readdir(at('usual'))).filter((name) => !name.startsWith('mask-'));
    assert.deepEqual(others, ['report.html']);
  });

  test('shows the warnings of the evaluation', async () => {
    const images = [scored('a.png')];
    const { document } = await write('warnings', images, makeEvaluation(images, { masks: false, warnings }));
    assert.deepEqual(texts(document.querySelectorAll('.warning')), warnings);
  });
});

describe('a report without', () => {
  test('masks, threshold and features leaves out their columns', async () => {
    const { file } = await makeReport(at('bare'), { images: 6, masks: false, threshold: null, features: false });
    const { document } = await parsed(file);
    const header = texts(document.querySelectorAll('#rows thead th'));
    assert.deepEqual(header, ['Image', 'Original', 'Overlay', 'Pixel level', 'Defect', 'Score']);
    assert.match(document.querySelector('main').textContent, /no threshold: its images are ranked/);
    assert.deepEqual(texts(document.querySelectorAll('#filters legend')), ['Defect']);
    const missing = texts(document.querySelectorAll('.charts figcaption small')).filter((note) => /masks/.test(note));
    assert.equal(missing.length, 3);
    for (const script of document.querySelectorAll('script, style')) script.remove();
    assert.doesNotMatch(document.body.textContent, /NaN|undefined|null|Infinity|\[object/);
  });

  test('defects has its histogram and says what is missing', async () => {
    const { document } = await write('good-only', [scored('a.png'), scored('b.png')]);
    assert.equal(document.querySelectorAll('.charts svg').length, 1, 'both scores are the same');
    assert.equal(document.querySelectorAll('table.stacked').length, 0);
    assert.match(document.querySelector('.charts').textContent, /Needs good images and images with defects/);
  });

  test('images, or with scores that are not numbers, is written all the same', async () => {
    const none = await write('none', []);
    assert.equal(none.document.querySelectorAll('#rows tbody tr').length, 0);
    const { document } = await write('not-a-number', [scored('a.png', { score: NaN }), scored('b.png', { score: -3 })]);
    assert.deepEqual(texts(document.querySelectorAll('#rows .score')).slice(1), ['–', '−3.000']);
  });

  test('all images says so, and counts those that it has', async () => {
    const images = [scored('a.png'), scored('b.png')];
    const more = [...images, scored('c.png', { defect: 'crack' })];
    const { document } = await write('some', images, makeEvaluation(more, { masks: false }));
    assert.match(document.querySelector('main').textContent, /The table has 2 of the 3 images/);
    assert.deepEqual(texts(document.querySelectorAll('#filters label')), ['good 2']);
  });
});

test('names are text, whatever they hold', async () => {
  const model = 'models/<b>parts & "more".safetensors';
  const { file, evaluation } = await makeReport(at('hostile'), { images: 18, defects: hostile, model });
  const { html, document } = await parsed(file);
  assert.deepEqual(
    [...document.querySelectorAll('#rows tbody th')].map((cell) => cell.textContent),
    evaluation.scores.map(({ image }) => image),
  );
  assert.deepEqual(
    [...document.querySelectorAll('#rows tbody th')].map((cell) => cell.dataset.sort),
    evaluation.scores.map(({ image }) => image),
  );
  const values = [...document.querySelectorAll('#filters input[name=defect]')].map((box) => box.value);
  assert.deepEqual(values, ['good', ...hostile]);
  assert.equal(document.querySelectorAll('#rows tbody tr').length, 18);
  assert.equal(document.querySelectorAll('script').length, 1);
  assert.equal(document.querySelectorAll('img:not([src^="data:image/webp"])').length, 0);
  assert.equal(html.match(/<\/script>/g).length, 1);
  assert.equal(document.querySelector('h1').textContent, 'Evaluation of <b>parts & "more".safetensors');
});

test('a name cannot end the line that its image waits in', () => {
  const stored = { image: { image: 'a\nb\rc\u2028d\u2029e\0' } };
  assert.doesNotMatch(toLine(stored).slice(0, -1), /[\n\r\u2028\u2029]/);
  assert.deepEqual(fromLine(toLine(stored)), stored);
});

test('products of a unified model get a column and a filter', async () => {
  const { file } = await makeReport(at('products'), { images: 6, products: ['bolt', 'nut & washer'] });
  const { document } = await parsed(file);
  assert.ok(texts(document.querySelectorAll('#rows thead th')).includes('Product'));
  assert.deepEqual(texts(document.querySelectorAll('#filters fieldset')[0].querySelectorAll('label')), [
    'bolt 3',
    'nut & washer 3',
  ]);
});

test('a few scores far above the others do not press those into one bar', async () => {
  const next = random(1);
  const good = Array.from({ length: 40 }, (_, i) => scored(`${i}.png`, { score: 0.5 + next() }));
  const bad = [20, 200, 900].map((score) => scored(`bad-${score}.png`, { score, defect: 'crack' }));
  const { document } = await write('tail', [...good, ...bad]);
  const histogram = document.querySelector('.charts figure');
  assert.match(histogram.textContent, /logarithmic axis/);
  assert.ok(histogram.querySelectorAll('rect').length > 6);
});

describe('pictures', () => {
  async function pixelsOf(document, row, label) {
    const { src } = document.querySelectorAll('#rows tbody tr')[row].querySelector(`[data-label="${label}"] img`);
    return sharp(Buffer.from(src.split(',')[1], 'base64'));
  }
  const brightness = async (image) => (await image.greyscale().stats()).channels[0].mean;

  test('maps share one scale, so that those of good images stay dark', async () => {
    const { file, evaluation } = await makeReport(at('maps'), { images: 12, threshold: 1.2 });
    const { document } = await parsed(file);
    const caught = evaluation.scores.findIndex(({ outcome }) => outcome === 'caught');
    const strongest = async (row) => (await (await pixelsOf(document, row, 'Feature level')).stats()).channels[0].max;
    assert.ok((await strongest(0)) < 150, `good: ${await strongest(0)}`);
    assert.ok((await strongest(caught)) > 200, `caught: ${await strongest(caught)}`);
    assert.equal(document.querySelectorAll('.legend i').length, 2);
  });

  test('a defect of one pixel is still in the small mask', async () => {
    const mask = new Uint8Array(2000 * 1000);
    mask[700 * 2000 + 900] = 255;
    const file = at('dot.png');
    await sharp(mask, { raw: { width: 2000, height: 1000, channels: 1 } })
      .png()
      .toFile(file);
    const report = await ReportWriter.create(at('dot'));
    const image = scored('a.png', { defect: 'dot' });
    await report.add(entry(image, { mask: file }));
    const { document } = await parsed(await report.finish(makeEvaluation([image], { masks: false })));
    const small = await pixelsOf(document, 0, 'Mask');
    const { width, height } = await small.metadata();
    assert.deepEqual([width, height], [320, 160]);
    assert.equal((await small.stats()).channels[0].max, 255);
  });

  test('16 bits and any proportions give small pictures of the same look', async () => {
    const deep = (value, width, height) => ({
      ...{ width, height, channels: 1 },
      data: new Uint16Array(width * height).fill(value * 257),
    });
    const inputs = [deep(100, 400, 300), { ...deep(0, 400, 300), data: new Uint8Array(400 * 300).fill(100) }];
    const report = await ReportWriter.create(at('deep'));
    const images = [...inputs, deep(100, 3000, 1)].map((_, i) => scored(`${i}.png`));
    for (const [i, input] of [...inputs, deep(100, 3000, 1)].entries()) await report.add(entry(images[i], { input }));
    const { document } = await parsed(await report.finish(makeEvaluation(images, { masks: false })));
    const [a, b] = [await pixelsOf(document, 0, 'Original'), await pixelsOf(document, 1, 'Original')];
    assert.ok(Math.abs((await brightness(a)) - (await brightness(b))) < 1);
    const { width, height } = await (await pixelsOf(document, 2, 'Original')).metadata();
    assert.deepEqual([width, height], [320, 1]);
  });

  test('a row takes at most 320 kB, even of noise', async () => {
    const next = random(3);
    const side = 512;
    const data = Uint8Array.from({ length: side * side * 3 }, () => 256 * next());
    const noise = { data: Float32Array.from({ length: side * side }, next), width: side, height: side };
    const input = { data, width: side, height: side, channels: 3 };
    const encoded = () =>
      sharp(data, { raw: { width: side, height: side, channels: 3 } })
        .png()
        .toBuffer();
    const size = async (name, entries) => {
      const report = await ReportWriter.create(at(name));
      for (const one of entries) await report.add(one);
      const images = entries.map(({ image }) => image);
      return (await stat(await report.finish(makeEvaluation(images, { masks: false })))).size;
    };
    const mask = at('noise.png');
    const spots = Uint8Array.from({ length: side * side }, () => 255 * Math.round(next()));
    await sharp(spots, { raw: { width: side, height: side, channels: 1 } })
      .png()
      .toFile(mask);
    const result = { pixelMap: noise, featureMap: noise, heatmap: encoded };
    const one = entry(scored('a.png', { defect: 'noise' }), { input, mask, result });
    const [single, three] = [await size('noise-1', [one]), await size('noise-3', [one, one, one])];
    assert.ok((three - single) / 2 < 320_000, `${(three - single) / 2} bytes`);
  });
});

describe('writing', () => {
  test('an image that cannot be read fails alone', async () => {
    const report = await ReportWriter.create(at('unreadable'));
    const images = [scored('a.png'), scored('b.png')];
    await assert.rejects(report.add(entry(images[0], { input: at('missing.png') })), { code: 'ERR_IMAGE' });
    await report.add(entry(images[1]));
    const { document } = await parsed(await report.finish(makeEvaluation(images, { masks: false })));
    assert.deepEqual(texts(document.querySelectorAll('#rows tbody th')), ['b.png']);
  });

  test('calls that do not wait keep their order', async () => {
    const report = await ReportWriter.create(at('order'));
    const images = Array.from({ length: 8 }, (_, i) => scored(`${i}.png`));
    const sizes = (i) => ({ input: gray(i % 2 ? 16 : 900, i % 2 ? 16 : 900) });
    const added = images.map((image, i) => report.add(entry(image, sizes(i))));
    const finished = report.finish(makeEvaluation(images, { masks: false }));
    await Promise.all(added);
    const { document } = await parsed(await finished);
    assert.deepEqual(
      texts(document.querySelectorAll('#rows tbody th')),
      images.map(({ image }) => image),
    );
  });

  test('abort removes everything, and nothing can follow', async () => {
    const report = await ReportWriter.create(at('aborted'));
    await report.add(entry(scored('a.png')));
    assert.equal((await readdir(at('aborted'))).length, 1);
    await report.abort();
    await report.abort();
    assert.deepEqual(await readdir(at('aborted')), []);
    await assert.rejects(report.add(entry(scored('b.png'))), { code: 'ERR_ARGUMENT' });
    await assert.rejects(report.finish(makeEvaluation([])), { code: 'ERR_ARGUMENT' });
  });

  test('an earlier report stays until the new one is complete', async () => {
    await mkdir(at('again'));
    await writeFile(path.join(at('again'), 'report.html'), 'earlier');
    const report = await ReportWriter.create(at('again'));
    await report.add(entry(scored('a.png')));
    await assert.rejects(report.finish({ ...makeEvaluation([]), scores: null }), TypeError);
    assert.deepEqual(await readdir(at('again')), ['report.html']);
    assert.equal(await readFile(path.join(at('again'), 'report.html'), 'utf8'), 'earlier');
    await write('again', [scored('a.png')]);
    assert.notEqual(await readFile(path.join(at('again'), 'report.html'), 'utf8'), 'earlier');
  });

  test('a disk that refuses is ERR_FILE_WRITE with the name of the file', async () => {
    const refused = { code: 'ERR_FILE_WRITE', message: /report\.html: cannot be written/ };
    await writeFile(at('a-file'), '');
    await assert.rejects(ReportWriter.create(at('a-file')), refused);
    await assert.rejects(ReportWriter.create(path.join(folder, 'no', 'such', 'folder')), refused);
    const report = await ReportWriter.create(at('gone'));
    await rm(at('gone'), { recursive: true });
    await assert.rejects(report.finish(makeEvaluation([])), refused);
  });

  test('unknown options are refused', async () => {
    await assert.rejects(ReportWriter.create(at('options'), { tilte: '' }), { code: 'ERR_OPTION' });
  });

  test('memory does not grow with the number of images', async () => {
    v8.setFlagsFromString('--expose-gc');
    const collect = vm.runInNewContext('gc');
    const used = () => {
      collect();
      const { heapUsed, arrayBuffers } = process.memoryUsage();
      return heapUsed + arrayBuffers;
    };
    // Images that sharp has just let go of still count now and then: the least of ten.
    let [early, late] = [Infinity, Infinity];
    const onImage = (i) => {
      if (i < 10) early = Math.min(early, used());
      if (i >= 50) late = Math.min(late, used());
    };
    const { file } = await makeReport(at('memory'), { images: 60, width: 240, height: 180, onImage });
    const written = (await stat(file)).size;
    assert.ok(written > 2e6, `${written} bytes`);
    assert.ok(late - early < 1e6, `50 images took ${late - early} bytes`);
  });
});
