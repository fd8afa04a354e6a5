import assert from 'node:assert/strict';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import { describe, test } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import native from '../../dist/engine/native.js';
import { makeDataset, makeProducts, pattern, png, temporaryFolder, trainTiny, until } from '../helpers/common.mjs';
import { form, halfHead, halfUpload, isClosed, readExposition, startApp } from '../helpers/service.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 6);
const model = at('part.safetensors');
await trainTiny({ Trainer }, parts, model);
const [good, bad] = await Promise.all(
  [at('parts', 'train', 'good', '00.png'), at('parts', 'test', 'bad', '00.png')].map((file) => readFile(file)),
);
const shared = await Detector.load(model, { threads: 1 });

/** A detector of the test's own, freed at its end. */
async function load(t, file = model, options = {}) {
  const detector = await Detector.load(file, { threads: 1, ...options });
  t.after(() => detector[Symbol.asyncDispose]());
  return detector;
}

const refusal = ({ status, body }) => [status, body.code];

test('an upload gets the score that the detector gives', async (t) => {
  const { upload } = await startApp(t, shared);
  for (const image of [good, bad]) {
    const { score, threshold, anomalous } = await shared.score(image);
    const { status, headers, body } = await upload(image);
    assert.equal(status, 200);
    assert.match(headers.get('content-type'), /^application\/json\b/);
    assert.deepEqual(body, { score, threshold, anomalous, scores: null, width: 72, height: 66 });
  }
});

test('whoever prefers a PNG gets the overlay, with the figures in headers', async (t) => {
  const { url } = await startApp(t, shared);
  const ask = (accept, query = '') => {
    const headers = { accept, 'content-type': 'image/png' };
    return fetch(`${url}/score${query}`, { method: 'POST', body: bad, headers });
  };
  const result = await shared.score(bad);
  for (const accept of ['image/png', 'IMAGE/*', 'image/png, application/json;q=0.9', 'application/json;q=0, */*']) {
    const response = await ask(accept);
    assert.equal(response.headers.get('content-type'), 'image/png', accept);
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), await result.heatmap());
    assert.equal(Number(response.headers.get('ddad-score')), result.score);
    assert.equal(Number(response.headers.get('ddad-threshold')), result.threshold);
    assert.equal(response.headers.get('ddad-verdict'), result.anomalous ? 'anomalous' : 'good');
  }
  for (const accept of ['*/*', 'text/html', 'application/json', 'image/png;q=0.5, application/json', 'image/png;q=0']) {
    const response = await ask(accept);
    assert.match(response.headers.get('content-type'), /^application\/json\b/, accept);
    assert.equal((await response.json()).score, result.score);
  }
  const verdict = async (threshold) => (await ask('image/png', `?threshold=${threshold}`)).headers.get('ddad-verdict');
  assert.deepEqual([await verdict(result.score + 1), await verdict(result.score - 1)], ['good', 'anomalous']);
});

test('without a threshold there is no verdict', async (t) => {
  const { upload, url, metrics } = await startApp(t, await load(t, model, { threshold: null }));
  const { body } = await upload(good);
  assert.deepEqual([body.threshold, body.anomalous], [null, null]);
  const headers = { accept: 'image/png' };
  const response = await fetch(`${url}/score`, { method: 'POST', body: form(good), headers });
  assert.equal(response.headers.get('ddad-threshold'), null);
  assert.equal(response.headers.get('ddad-verdict'), 'none');
  assert.equal((await metrics())('ddad_verdicts_total', { verdict: 'none', product: '' }), 2);
});

test('a threshold may come with the request: in the form, in the query, in JSON', async (t) => {
  const { upload, ask, byPath } = await startApp(t, shared, { images: parts });
  const { score } = await shared.score(bad);
  const above = score + 1;
  const headers = { 'content-type': 'image/png' };
  for (const { body } of [
    await upload(bad, { threshold: String(above) }),
    await ask(`/score?threshold=${above}`, { method: 'POST', body: form(bad) }),
    await ask(`/score?threshold=${above}`, { method: 'POST', body: bad, headers }),
    await byPath('test/bad/00.png', { threshold: above }),
  ]) {
    assert.deepEqual([body.score, body.threshold, body.anomalous], [score, above, false]);
  }
});

describe('images by path', () => {
  test('are those below the folder, also through links that stay in it', async (t) => {
    const images = at('opened');
    await makeDataset(images, 2);
    await symlink('test', path.join(images, 'link'));
    await symlink(images, at('opened-by-link'));
    for (const root of [images, at('opened-by-link'), path.relative('', images)]) {
      const { byPath } = await startApp(t, shared, { images: root });
      const { score } = await shared.score(path.join(images, 'test', 'bad', '00.png'));
      for (const name of ['test/bad/00.png', './test/good/../bad/00.png', 'link/bad/00.png']) {
        const { status, body } = await byPath(name);
        assert.deepEqual([status, body.score], [200, score], name);
      }
    }
  });

  test('are refused outside of it, whether they exist or not, and no answer says where it is', async (t) => {
    const images = at('closed');
    await makeDataset(images, 1);
    await writeFile(at('secret.png'), good);
    await mkdir(at('closed-too'));
    await writeFile(at('closed-too', 'secret.png'), good);
    await symlink(at('secret.png'), path.join(images, 'out.png'));
    await symlink('..', path.join(images, 'up'));
    await symlink(at('nowhere.png'), path.join(images, 'dangling.png'));
    await writeFile(path.join(images, 'text.png'), 'no image');
    await writeFile(path.join(images, 'large.png'), Buffer.alloc(40_000));
    const { byPath } = await startApp(t, shared, { images, maxUpload: 30_000 });
    for (const [name, status, code] of [
      ['../secret.png', 403, 'ERR_FORBIDDEN'],
      ['../nowhere.png', 403, 'ERR_FORBIDDEN'],
      ['../closed-too/secret.png', 403, 'ERR_FORBIDDEN'],
      // out and in again: the answer would tell what the folder is called
      [`../${path.basename(images)}/test/bad/00.png`, 403, 'ERR_FORBIDDEN'],
      [`test/../../${path.basename(images)}/test/bad/00.png`, 403, 'ERR_FORBIDDEN'],
      [`../guessed/test/bad/00.png`, 403, 'ERR_FORBIDDEN'],
      ['test/../../secret.png', 403, 'ERR_FORBIDDEN'],
      [at('secret.png'), 403, 'ERR_FORBIDDEN'],
      [path.join(images, 'test', 'bad', '00.png'), 403, 'ERR_FORBIDDEN'],
      ['/etc/passwd', 403, 'ERR_FORBIDDEN'],
      ['..', 403, 'ERR_FORBIDDEN'],
      ['.', 403, 'ERR_FORBIDDEN'],
      ['out.png', 403, 'ERR_FORBIDDEN'],
      ['up/secret.png', 403, 'ERR_FORBIDDEN'],
      ['dangling.png', 404, 'ERR_NOT_FOUND'],
      ['nowhere.png', 404, 'ERR_NOT_FOUND'],
      ['test', 404, 'ERR_NOT_FOUND'],
      ['text.png/x', 404, 'ERR_NOT_FOUND'],
      ['x'.repeat(5000), 404, 'ERR_NOT_FOUND'],
      ['text.png', 422, 'ERR_IMAGE'],
      ['large.png', 413, 'ERR_TOO_LARGE'],
      ['', 400, 'ERR_REQUEST'],
      ['a\0b', 400, 'ERR_REQUEST'],
      [7, 400, 'ERR_REQUEST'],
      [undefined, 400, 'ERR_REQUEST'],
      [['test/bad/00.png'], 400, 'ERR_REQUEST'],
    ]) {
      const answer = await byPath(name);
      assert.deepEqual(refusal(answer), [status, code], String(name));
      if (!path.isAbsolute(String(name))) assert.ok(!JSON.stringify(answer.body).includes(folder), String(name));
    }
  });

  test('are refused altogether unless the operator opens a folder', async (t) => {
    const { byPath } = await startApp(t, shared);
    const answer = await byPath('test/bad/00.png');
    assert.deepEqual(refusal(answer), [403, 'ERR_FORBIDDEN']);
    assert.match(answer.body.message, /--images/);
  });
});

test('requests that ask for nothing sensible are refused with the reason', async (t) => {
  const { ask, upload, url } = await startApp(t, shared, { images: parts });
  const post = (body, type) => ask('/score', { method: 'POST', body, headers: type && { 'content-type': type } });
  const twice = form(good);
  twice.append('image', new Blob([good]), 'b.png');
  const textual = new FormData();
  textual.append('image', 'text');
  const thresholds = form(good, { threshold: '1' });
  thresholds.append('threshold', '2');
  const many = form(good, Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`f${i}`, ''])));
  const named = 'content-disposition: form-data; name="image"; filename="a"';
  const cut = `--b\r\n${named}\r\n\r\nthe beginning`;
  for (const [what, send, status, code, message] of [
    ['no body', () => post(undefined), 415, 'ERR_MEDIA_TYPE', /expected an image/],
    ['text', () => post('hello', 'text/plain'), 415, 'ERR_MEDIA_TYPE', /multipart\/form-data/],
    ['no file', () => post(new FormData()), 400, 'ERR_REQUEST', /field "image", got none/],
    ['another field', () => post(form(good, {}, 'file')), 400, 'ERR_REQUEST', /got it in "file"/],
    ['text as image', () => post(textual), 400, 'ERR_REQUEST', /to be a file, got text/],
    ['two images', () => post(twice), 400, 'ERR_REQUEST', /expected one image/],
    ['two thresholds', () => post(thresholds), 400, 'ERR_REQUEST', /threshold: given twice/],
    ['too many fields', () => post(many), 400, 'ERR_REQUEST', /too many fields/],
    ['a long field', () => upload(good, { product: 'x'.repeat(2000) }), 400, 'ERR_REQUEST', /product: too long/],
    ['words as threshold', () => upload(good, { threshold: 'high' }), 400, 'ERR_REQUEST', /one number, got "high"/],
    ['nothing as threshold', () => upload(good, { threshold: ' ' }), 400, 'ERR_REQUEST', /one number, got " "/],
    ['an unknown field', () => upload(good, { treshold: '1' }), 400, 'ERR_REQUEST', /unknown field "treshold"/],
    ['a form cut off', () => post('--b\r\n', 'multipart/form-data; boundary=b'), 400, 'ERR_REQUEST', /./],
    [
      'a form cut off in its file',
      () => post(cut, 'multipart/form-data; boundary=b'),
      400,
      'ERR_REQUEST',
      /the form cannot be read/,
    ],
    ['a form without a boundary', () => post('--b--', 'multipart/form-data'), 400, 'ERR_REQUEST', /./],
    ['no JSON', () => post('{', 'application/json'), 400, 'ERR_REQUEST', /JSON/],
    ['a JSON list', () => post('[]', 'application/json'), 400, 'ERR_REQUEST', /JSON object/],
    ['JSON null', () => post('null', 'application/json'), 400, 'ERR_REQUEST', /JSON object/],
    ['large JSON', () => post(`"${'x'.repeat(70_000)}"`, 'application/json'), 413, 'ERR_TOO_LARGE', /larger/],
    ['an unknown place', () => ask('/nothing?secret=1'), 404, 'ERR_NOT_FOUND', /^there is no GET \/nothing$/],
    ['GET', () => ask('/score'), 404, 'ERR_NOT_FOUND', /no GET \/score/],
    ['a bad address', () => ask('/%ff'), 400, 'ERR_REQUEST', /./],
    ['a product', () => upload(good, { product: 'x' }), 422, 'ERR_OPTION', /single product/],
  ]) {
    const { status: got, headers, body } = await send();
    assert.deepEqual([got, Object.keys(body), body.code], [status, ['code', 'message'], code], what);
    assert.match(body.message, message, what);
    assert.match(headers.get('content-type'), /^application\/json\b/, what);
  }
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
});

test('images that cannot be read are refused with the reason', async (t) => {
  const large = await png(pattern(400, 300)).toBuffer();
  const { upload } = await startApp(t, shared, { maxPixels: 100_000 });
  for (const [image, status, code, message] of [
    [Buffer.from('hello'), 422, 'ERR_IMAGE', /not an image/],
    [Buffer.alloc(0), 422, 'ERR_IMAGE', /empty/],
    [good.subarray(0, good.length >> 1), 422, 'ERR_IMAGE', /damaged or truncated/],
    [Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), 422, 'ERR_IMAGE', /got svg/],
    [large, 413, 'ERR_TOO_LARGE', /at most 100000 pixels .* got 400 x 300/],
  ]) {
    const answer = await upload(image);
    assert.deepEqual(refusal(answer), [status, code]);
    assert.match(answer.body.message, message);
  }
  assert.equal((await upload(good)).status, 200);
});

test('uploads beyond the limit are refused, announced or not', async (t) => {
  const { ask, upload } = await startApp(t, shared, { maxUpload: good.length });
  assert.equal((await upload(good)).status, 200);
  const post = (body, headers) => ask('/score', { method: 'POST', body, headers, duplex: 'half' });
  const stream = (bytes) => new Response(bytes).body;
  const encoded = new Response(form(Buffer.alloc(3_000_000)));
  const type = encoded.headers.get('content-type');
  for (const answer of [
    await upload(Buffer.alloc(good.length + 1)),
    await upload(Buffer.alloc(3_000_000)),
    await post(Buffer.alloc(3_000_000), { 'content-type': 'image/png' }),
    await post(stream(Buffer.alloc(good.length + 1)), { 'content-type': 'image/png' }),
    await post(encoded.body, { 'content-type': type }), // in chunks, without its length
  ]) {
    assert.deepEqual(refusal(answer), [413, 'ERR_TOO_LARGE']);
  }
  assert.equal((await upload(good)).status, 200);
});

test('an upload that announces too much is refused before it comes', async (t) => {
  const { url } = await startApp(t, shared);
  const headers = { 'content-type': 'multipart/form-data; boundary=b', 'content-length': 10 ** 12 };
  const request = http.request(`${url}/score`, { method: 'POST', headers, agent: false });
  request.on('error', () => undefined); // of the connection, which is given up below
  request.flushHeaders();
  const [response] = await once(request, 'response');
  assert.equal(response.statusCode, 413);
  request.destroy();
});

test('a unified model is told the product', async (t) => {
  const products = await makeProducts(at('products'), { nut: 5, bolt: 5 });
  await trainTiny({ Trainer }, products, at('all.safetensors'));
  const detector = await load(t, at('all.safetensors'));
  const { upload, ask, metrics } = await startApp(t, detector);
  const image = await readFile(at('products', 'bolt', 'test', 'bad', '00.png'));
  for (const product of ['bolt', 'nut']) {
    const { score, threshold } = await detector.score(image, { product });
    const { body } = await upload(image, { product });
    assert.deepEqual([body.score, body.threshold], [score, threshold]);
  }
  const unknown = await upload(image, { product: 'bold' });
  assert.deepEqual(refusal(unknown), [422, 'ERR_OPTION']);
  assert.match(unknown.body.message, /"bolt", "nut", got "bold"; did you mean "bolt"\?/);
  assert.deepEqual(refusal(await upload(image)), [422, 'ERR_OPTION']);
  assert.deepEqual((await ask('/healthz')).body.products, ['bolt', 'nut']);
  const value = await metrics();
  const count = (product) =>
    ['good', 'anomalous', 'none'].map((verdict) => value('ddad_verdicts_total', { verdict, product }));
  for (const product of ['bolt', 'nut'])
    assert.equal(
      count(product).reduce((sum, n) => sum + n),
      1,
    );
});

test('a client that goes away takes its work along', async (t) => {
  const detector = await load(t);
  const { url, upload, metrics } = await startApp(t, detector);
  const large = await png(pattern(2000, 2000)).toBuffer(); // half a minute of work
  const controller = new AbortController();
  const asked = fetch(`${url}/score`, { method: 'POST', body: form(large), signal: controller.signal });
  asked.catch(() => undefined);
  await until(() => detector.stats().running === 1);
  controller.abort();
  await assert.rejects(asked, { name: 'AbortError' });
  await until(() => detector.stats().aborted === 1, 5000);
  assert.equal((await upload(good)).status, 200);
  const value = await metrics();
  const requests = (status) => value('ddad_http_requests_total', { method: 'POST', route: '/score', status });
  assert.deepEqual([requests('499'), requests('200'), requests('500')], [1, 1, undefined]);
  assert.equal(value('ddad_images_total', { outcome: 'aborted' }), 1);
});

test('an upload that is never finished is no trouble for others', async (t) => {
  const { app, url, upload, metrics } = await startApp(t, shared);
  const { answered } = await halfUpload(url, bad);
  assert.equal((await upload(good)).status, 200);
  app.server.closeAllConnections();
  await assert.rejects(answered);
  await until(async () =>
    (await metrics())('ddad_http_requests_total', { method: 'POST', route: '/score', status: '499' }),
  );
});

/** Detectors that are loaded from now on give no scores until the function that is returned is called. */
function holdBatches(t) {
  const engine = native.addon();
  const { loadDetector } = engine;
  t.after(() => (engine.loadDetector = loadDetector));
  let release;
  const released = new Promise((resolve) => (release = resolve));
  engine.loadDetector = async (...given) => {
    const detector = await loadDetector.apply(engine, given);
    const scoreBatch = detector.scoreBatch.bind(detector);
    // the images are the engine's as soon as the call returns
    const value = (...batch) => {
      const scored = scoreBatch(...batch);
      return released.then(() => scored);
    };
    return Object.defineProperty(detector, 'scoreBatch', { value });
  };
  t.after(release);
  return release;
}

test('what does not fit into the queue is to come back later', async (t) => {
  const release = holdBatches(t);
  const detector = await load(t, model, { maxQueue: 1, maxBatch: 1, whenFull: 'reject' });
  const { upload, metrics } = await startApp(t, detector);
  const taken = [];
  // The engine takes more than one batch, so that it never waits for the next: as many as go, and one that has to wait.
  for (let queued = 0; queued === 0; { queued } = detector.stats()) {
    taken.push(upload(good));
    // decoded, and given to the engine in the same turn where that takes it
    await until(() => {
      const { running, queued: waiting, decoding } = detector.stats();
      return decoding === 0 && running + waiting === taken.length;
    });
  }
  const { running } = detector.stats();
  assert.ok(running > 0);
  const answer = await upload(good);
  assert.deepEqual(refusal(answer), [503, 'ERR_BUSY']);
  assert.match(answer.headers.get('retry-after'), /^[1-9]\d*$/);
  let value = await metrics();
  assert.deepEqual([value('ddad_queue_length'), value('ddad_running')], [1, running]);
  assert.equal(value('ddad_images_total', { outcome: 'refused' }), 1);
  release();
  for (const { status } of await Promise.all(taken)) assert.equal(status, 200);
  assert.equal((await upload(good)).status, 200);
  value = await metrics();
  assert.deepEqual([value('ddad_queue_length'), value('ddad_running')], [0, 0]);
});

test('what fails inside is logged, and told to nobody', async (t) => {
  const lines = [];
  const failing = { products: null, score: () => Promise.reject(new Error('/secret/place failed')) };
  const logger = { level: 'error', stream: { write: (line) => lines.push(JSON.parse(line)) } };
  const { upload } = await startApp(t, failing, { logger });
  const answer = await upload(good);
  assert.deepEqual(refusal(answer), [500, 'ERR_INTERNAL']);
  assert.ok(!/secret|place|node:|\.mjs/.test(JSON.stringify(answer.body)));
  assert.deepEqual(
    lines.map(({ err }) => err.message),
    ['/secret/place failed'],
  );
});

test('metrics are in the format of Prometheus, and right', async (t) => {
  const detector = await load(t);
  const { url, upload, ask, metrics } = await startApp(t, detector);
  const before = await metrics();
  assert.equal(before('ddad_verdicts_total', { verdict: 'anomalous', product: '' }), 0);
  const verdicts = { good: 0, anomalous: 0 };
  for (const image of [good, bad, bad]) verdicts[(await upload(image)).body.anomalous ? 'anomalous' : 'good'] += 1;
  await upload(Buffer.from('no image'));
  await ask('/nothing');
  const response = await fetch(`${url}/metrics`);
  assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
  const value = readExposition(await response.text());
  const requests = (method, route, status) => value('ddad_http_requests_total', { method, route, status });
  assert.equal(requests('POST', '/score', '200'), 3);
  assert.equal(requests('POST', '/score', '422'), 1);
  assert.equal(requests('GET', 'unknown', '404'), 1);
  assert.equal(requests('GET', '/metrics', '200'), 1);
  for (const [verdict, count] of Object.entries(verdicts)) {
    assert.equal(value('ddad_verdicts_total', { verdict, product: '' }), count, verdict);
  }
  assert.equal(value('ddad_score_seconds_count'), 3);
  assert.ok(value('ddad_score_seconds_sum') > 0);
  for (const read of [value, await metrics()]) assert.equal(read('ddad_images_total', { outcome: 'scored' }), 3);
  const { batchSizes } = detector.stats();
  batchSizes.forEach((count, i) => assert.equal(value('ddad_batches_total', { size: String(i + 1) }), count));
  assert.equal(
    batchSizes.reduce((sum, count, i) => sum + count * (i + 1), 0),
    3,
  );
  assert.ok(value('process_resident_memory_bytes') > 1e6);
});

test('the reader of metrics that these tests use refuses what is broken', () => {
  const head = '# HELP a x\n# TYPE a counter\n';
  assert.equal(readExposition(`${head}a{b="1"} 2\n`)('a', { b: '1' }), 2);
  for (const text of [
    `${head}a 1`,
    `${head}a 1\na 1\n`,
    `${head}a -1\n`,
    `${head}a one\n`,
    `${head}a{b=1} 1\n`,
    `${head}a{b="1} 1\n`,
    `${head}a{b="1",} x\n`,
    `${head}b 1\n`,
    `a 1\n`,
    `${head}${head}a 1\n`,
    '# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n',
    '# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\n',
  ]) {
    assert.throws(() => readExposition(text), text);
  }
});

test('/healthz says what is served', async (t) => {
  const { ask } = await startApp(t, shared, { model: 'part.safetensors', device: 'cpu', maxPixels: 5, maxUpload: 6 });
  const { status, body } = await ask('/healthz');
  assert.equal(status, 200);
  const limits = { bytes: 6, pixels: 5 };
  assert.deepEqual(body, { status: 'ready', model: 'part.safetensors', device: 'cpu', products: null, limits });
});

test('no answer is kept or taken for something else, and the page may load nothing but itself', async (t) => {
  const { url } = await startApp(t, shared);
  for (const place of ['/', '/healthz', '/metrics', '/nothing']) {
    const { headers } = await fetch(url + place);
    assert.equal(headers.get('x-content-type-options'), 'nosniff', place);
    assert.equal(headers.get('cache-control'), 'no-store', place);
  }
  const { headers } = await fetch(url);
  const policy = headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+';/);
  assert.ok(!/unsafe|http|\*/.test(policy), policy);
});

test('a shutdown finishes what has begun and refuses what comes', async (t) => {
  const { app, url } = await startApp(t, shared);
  const begun = await halfUpload(url, bad);
  const late = await halfHead(url, '/healthz'); // its connection is neither idle nor new
  let closed = false;
  const closing = app.close().then(() => (closed = true));
  await until(() => isClosed(url));
  assert.match(
    await late.finish(),
    /^HTTP\/1.1 503 [^]*\r\nretry-after: [^]*{"code":"ERR_CLOSING","message":"[^"]+"}$/i,
  );
  assert.equal(closed, false);
  const { status, headers, body } = await begun.finish();
  assert.equal(headers.connection, 'close');
  assert.deepEqual([status, body.score], [200, (await shared.score(bad)).score]);
  await closing;
});
