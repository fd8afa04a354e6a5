// What keeps a client of the service from taking all of it: limits on connections, requests, bytes and time.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import limitsModule from '../../dist/service/limits.js';
import upload from '../../dist/service/upload.js';
import { connect, parse, pause, uploadHead } from '../attack/http.mjs';
import { until } from '../helpers/common.mjs';
import { raw, startApp } from '../helpers/service.mjs';

const { addressList, clientOf, Limits } = limitsModule;
const { collect } = upload;
const none = { queued: 0, running: 0, scored: 0, failed: 0, aborted: 0, refused: 0, batchSizes: [] };

/** In place of a detector: an image is scored when `work` resolves; its overlay has as many bytes as are asked for. */
function fake({ work = async () => undefined, overlay = 10 } = {}) {
  const score = async (image, { signal }) => {
    await work(signal);
    const map = { width: 1, height: 1 };
    return { score: image.length, threshold: null, anomalous: null, map, heatmap: async () => Buffer.alloc(overlay) };
  };
  return { products: null, stats: () => none, score };
}

const post = (ask, body, headers) =>
  ask('/score', { method: 'POST', body, headers: { 'content-type': 'image/png', ...headers } });
const refusal = ({ status, body }) => [status, body.code];

/** An upload of which only a part has come; `finish` sends the rest. */
async function begin(url, { bytes = 10, sent = 5, headers = '', from } = {}) {
  const connection = connect(url, { localAddress: from });
  await connection.send(uploadHead(url, bytes, headers) + 'x'.repeat(sent));
  connection.finish = async () => {
    await connection.send('x'.repeat(bytes - sent));
    await until(() => connection.answer || !connection.open);
    return parse(connection.answer);
  };
  return connection;
}

/** The same, once the service has it. */
async function beginAll(service, count, options) {
  const begun = [];
  for (let i = 0; i < count; i++) begun.push(await begin(service.url, options));
  await until(async () => {
    const { sent = 5 } = options ?? {};
    return (await service.metrics())('ddad_upload_bytes') >= count * sent;
  });
  return begun;
}

test('a client is an address, or a network of IPv6', () => {
  assert.equal(clientOf('192.0.2.1'), '192.0.2.1');
  assert.equal(clientOf('::ffff:192.0.2.1'), '192.0.2.1');
  assert.equal(clientOf('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2::/64');
  for (const address of ['2001:db8::7', '2001:db8::ffff:1:2:3', '2001:db8:0:0:1::', '2001:db8::5%eth0']) {
    assert.equal(clientOf(address), '2001:db8:0:0::/64', address);
  }
  assert.equal(clientOf('::1'), '0:0:0:0::/64');
  assert.equal(clientOf('unknown'), 'unknown');
  const isProxy = addressList(['127.0.0.1', '10.0.0.0/8', '2001:db8::/32']);
  for (const address of ['127.0.0.1', '::ffff:127.0.0.1', '10.9.8.7', '2001:db8::1'])
    assert.ok(isProxy(address), address);
  for (const address of ['127.0.0.2', '11.0.0.1', '2001:db9::1', 'x', undefined]) assert.ok(!isProxy(address), address);
});

describe('what the parser refuses has a code', () => {
  const head = 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n';
  const chunked =
    'POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n';
  for (const [what, text, status, code] of [
    ['no HTTP', 'hello\r\n\r\n', 400, 'ERR_REQUEST'],
    ['an unknown method', `X${head}\r\n`, 400, 'ERR_REQUEST'],
    ['a head without colons', `${head}no colon\r\n\r\n`, 400, 'ERR_REQUEST'],
    ['a length that is none', `${head}content-length: many\r\n\r\n`, 400, 'ERR_REQUEST'],
    ['two ways to give the length', `${chunked}content-length: 5\r\n\r\n0\r\n\r\n`, 400, 'ERR_REQUEST'],
    ['a chunk without a length', `${chunked}\r\nx\r\n`, 400, 'ERR_REQUEST'],
    ['no name', 'GET /healthz HTTP/1.1\r\n\r\n', 400, 'ERR_REQUEST'],
    ['a large head', `${head}x: ${'y'.repeat(17_000)}\r\n\r\n`, 431, 'ERR_REQUEST'],
    ['many lines of a head', `${head}${'x: yyyyyyyy\r\n'.repeat(2000)}\r\n`, 431, 'ERR_REQUEST'],
    ['a long address', `GET /${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`, 431, 'ERR_REQUEST'],
    ['large extensions of a chunk', `${chunked}\r\n1;${'x'.repeat(20_000)}\r\n`, 413, 'ERR_TOO_LARGE'],
    ['another expectation', `${head}expect: a miracle\r\n\r\n`, 417, 'ERR_REQUEST'],
  ]) {
    test(what, async (t) => {
      const { url } = await startApp(t, fake());
      const answer = await raw(url, text);
      assert.deepEqual(refusal(answer), [status, code], JSON.stringify(answer.body));
      assert.ok(answer.body.message.length > 5);
      assert.match(answer.headers.get('content-type'), /^application\/json/);
      assert.equal(answer.headers.get('cache-control'), 'no-store');
      assert.equal((await fetch(`${url}/healthz`)).status, 200);
    });
  }
});

describe('time', () => {
  test('a head that does not come is given up', async (t) => {
    const { url } = await startApp(t, fake(), { uploadMs: 300 });
    assert.deepEqual(refusal(await raw(url, 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n')), [408, 'ERR_TIMEOUT']);
  });

  for (const [what, options] of [
    ['that comes slowly', { uploadMs: 500, stallMs: 10_000 }],
    ['that stands still', { uploadMs: 10_000, stallMs: 300 }],
  ]) {
    test(`an upload ${what} is given up, and its memory given back`, async (t) => {
      const service = await startApp(t, fake(), options);
      const [connection] = await beginAll(service, 1, { bytes: 100 });
      const beginTime = performance.now();
      while (connection.open && !connection.answer && performance.now() - beginTime < 5000) {
        if (options.uploadMs < 1000) await connection.send('x');
        await pause(100);
      }
      assert.deepEqual(refusal(parse(connection.answer)), [408, 'ERR_TIMEOUT']);
      await connection.closed;
      await until(async () => (await service.metrics())('ddad_upload_bytes') === 0);
    });
  }

  test('an upload that goes on is not given up', async (t) => {
    const { url } = await startApp(t, fake(), { stallMs: 400 });
    const connection = await begin(url, { bytes: 20, sent: 10 });
    for (let i = 0; i < 9; i++) {
      await pause(100);
      await connection.send('x');
    }
    await connection.send('x');
    await until(() => connection.answer);
    assert.equal(parse(connection.answer).body.score, 20);
  });

  test('work that takes too long is given up', async (t) => {
    let aborted = false;
    const work = async (signal) => {
      await once(signal, 'abort');
      aborted = true;
      throw Object.assign(new Error('aborted'), { code: 'ERR_ABORTED' });
    };
    const { ask } = await startApp(t, fake({ work }), { requestMs: 300, stallMs: 100 });
    const answer = await post(ask, 'image');
    assert.deepEqual(refusal(answer), [408, 'ERR_TIMEOUT']);
    assert.match(answer.body.message, /more than 0.3 s/);
    assert.ok(aborted);
  });

  test('work may take longer than what stands still', async (t) => {
    const work = () => pause(800);
    const { ask } = await startApp(t, fake({ work }), { stallMs: 200 });
    assert.equal((await post(ask, 'image')).status, 200);
  });

  test('an answer that nobody takes is given up', async (t) => {
    const service = await startApp(t, fake({ overlay: 50_000_000 }), { stallMs: 500 });
    const { socket, send, closed } = connect(service.url);
    socket.pause();
    await send(`${uploadHead(service.url, 5, 'accept: image/png\r\n')}image`);
    await until(async () => (await service.metrics())('ddad_upload_bytes') >= 50_000_000);
    await until(async () => (await service.metrics())('ddad_upload_bytes') === 0, 5000);
    socket.resume();
    await closed;
  });
});

describe('requests', () => {
  test('are limited for a client, who may do all else, and for all together', async (t) => {
    const service = await startApp(t, fake(), { maxClientRequests: 2, maxRequests: 3 });
    const { url, ask } = service;
    const begun = await beginAll(service, 2);
    const answer = await post(ask, 'image');
    assert.deepEqual(refusal(answer), [429, 'ERR_LIMIT']);
    assert.match(answer.headers.get('retry-after'), /^[1-9]\d*$/);
    assert.equal((await ask('/healthz')).status, 200);
    const other = await begin(url, { from: '127.0.0.2' });
    await until(async () => (await service.metrics())('ddad_upload_bytes') === 15);
    const third = await begin(url, { from: '127.0.0.3' });
    assert.deepEqual(refusal(await third.finish()), [503, 'ERR_BUSY']);
    for (const { finish } of [...begun, other]) assert.equal((await finish()).body.score, 10);
    assert.equal((await post(ask, 'image')).status, 200);
  });

  test('whose client has gone keep their place until their work has ended', async (t) => {
    let end;
    const work = () => new Promise((resolve) => (end = resolve));
    const { url, ask, metrics } = await startApp(t, fake({ work }), { maxClientRequests: 1 });
    const { socket } = await begin(url, { sent: 10 });
    await until(() => end);
    socket.destroy();
    await until(async () =>
      (await metrics())('ddad_http_requests_total', { method: 'POST', route: '/score', status: '499' }),
    );
    assert.deepEqual(refusal(await post(ask, 'image')), [429, 'ERR_LIMIT']);
    end();
    await until(async () => (await metrics())('ddad_upload_bytes') === 0);
    const answered = post(ask, 'image');
    end = undefined;
    await until(() => end);
    end();
    assert.equal((await answered).status, 200);
  });

  test('are those of the client that a trusted proxy names, and of nobody else', async (t) => {
    const limits = { maxClientRequests: 1 };
    const one = { headers: 'x-forwarded-for: 203.0.113.1\r\n' };
    const second = { 'x-forwarded-for': '203.0.113.2' };
    const trusting = await startApp(t, fake(), { ...limits, trustProxy: ['127.0.0.1'] });
    await beginAll(trusting, 1, one);
    assert.equal((await post(trusting.ask, 'image', second)).status, 200);
    // What the client itself has written stands before what the proxy has.
    const forged = { 'x-forwarded-for': '203.0.113.9, 203.0.113.1' };
    assert.deepEqual(refusal(await post(trusting.ask, 'image', forged)), [429, 'ERR_LIMIT']);
    const plain = await startApp(t, fake(), limits);
    await beginAll(plain, 1, one);
    assert.deepEqual(refusal(await post(plain.ask, 'image', second)), [429, 'ERR_LIMIT']);
  });
});

describe('bytes of images', () => {
  test('are limited in all, and one client has half of them', async (t) => {
    const service = await startApp(t, fake(), { maxUpload: 1000, uploadMemory: 2000 });
    const begun = await beginAll(service, 1, { bytes: 900, sent: 800 });
    assert.deepEqual(refusal(await post(service.ask, Buffer.alloc(201))), [503, 'ERR_BUSY']);
    assert.equal((await post(service.ask, Buffer.alloc(200))).status, 200);
    begun.push(await begin(service.url, { bytes: 900, sent: 800, from: '127.0.0.2' }));
    await until(async () => (await service.metrics())('ddad_upload_bytes') === 1600);
    const third = await begin(service.url, { bytes: 500, sent: 401, from: '127.0.0.3' });
    await until(() => third.answer);
    assert.deepEqual(refusal(parse(third.answer)), [503, 'ERR_BUSY']);
    for (const { finish } of begun) assert.equal((await finish()).body.score, 900);
    await until(async () => (await service.metrics())('ddad_upload_bytes') === 0);
  });

  test('count in forms, and with overlays', async (t) => {
    const service = await startApp(t, fake({ overlay: 900 }), { maxUpload: 1000, uploadMemory: 2000 });
    const form = (bytes) => {
      const data = new FormData();
      data.append('image', new Blob([Buffer.alloc(bytes)]), 'a.png');
      return data;
    };
    const send = (bytes, accept) => service.ask('/score', { method: 'POST', body: form(bytes), headers: { accept } });
    assert.equal((await send(1000, '*/*')).body.score, 1000);
    assert.deepEqual(refusal(await send(1001, '*/*')), [413, 'ERR_TOO_LARGE']);
    assert.deepEqual(refusal(await send(101, 'image/png')), [503, 'ERR_BUSY']);
    await begin(service.url, { bytes: 900, sent: 800 });
    await until(async () => (await service.metrics())('ddad_upload_bytes') === 800);
    assert.deepEqual(refusal(await send(201, '*/*')), [503, 'ERR_BUSY']);
    assert.equal((await send(200, '*/*')).status, 200);
  });

  test('are given back at once where an upload does not end well', async () => {
    const limits = new Limits({ maxRequests: 9, maxClientRequests: 9, uploadMemory: 2e9 });
    const lease = limits.lease('192.0.2.1');
    const release = lease.hold();
    const piece = Buffer.alloc(65_536, 1);
    const before = process.memoryUsage.rss();
    let most = 0;
    async function* pieces() {
      for (let i = 0; i < 4000; i++) yield piece;
      most = process.memoryUsage.rss() - before;
      throw new Error('gone');
    }
    await assert.rejects(collect(Readable.from(pieces()), lease, 300_000_000), /gone/);
    const after = process.memoryUsage.rss() - before;
    assert.ok(most > 240e6 && after < 30e6, `${most} ${after}`);
    assert.equal(limits.uploads.used, 0);
    release();
    assert.equal(limits.requests.used, 0);
  });

  test('must have room for two of the largest images', async (t) => {
    await assert.rejects(startApp(t, fake(), { maxUpload: 1000, uploadMemory: 1999 }), { option: 'uploadMemory' });
    const { ask } = await startApp(t, fake(), { maxUpload: 1_000_000_000 });
    assert.equal((await ask('/healthz')).status, 200);
  });
});

test('a client that goes away while it sends is no failure of the service', async (t) => {
  const lines = [];
  const logger = { level: 'error', stream: { write: (line) => lines.push(line) } };
  const service = await startApp(t, fake(), { logger });
  const [image] = await beginAll(service, 1);
  const form = connect(service.url);
  const part = '--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\nhello';
  await form.send(uploadHead(service.url, 500).replace('image/png', 'multipart/form-data; boundary=b') + part);
  await pause(100);
  for (const { socket } of [image, form]) socket.destroy();
  const gone = { method: 'POST', route: '/score', status: '499' };
  await until(async () => (await service.metrics())('ddad_http_requests_total', gone) === 2);
  assert.equal((await service.metrics())('ddad_upload_bytes'), 0);
  assert.deepEqual(lines, []);
});

describe('connections', () => {
  test('that wait make room for others, those with a request do not', async (t) => {
    const service = await startApp(t, fake(), { maxClientConnections: 5 });
    const [upload] = await beginAll(service, 1);
    const open = [];
    for (let i = 0; i < 20; i++) {
      open.push(connect(service.url));
      await once(open.at(-1).socket, 'connect');
    }
    assert.equal((await fetch(`${service.url}/healthz`)).status, 200);
    await until(() => open.filter((connection) => connection.open).length < 5);
    const value = await service.metrics();
    assert.ok(value('ddad_http_connections') <= 5);
    assert.ok(value('ddad_http_connections_closed_total') >= 16);
    assert.equal((await upload.finish()).body.score, 10);
  });

  test('are refused where all have a request', async (t) => {
    const service = await startApp(t, fake(), { maxClientConnections: 2 });
    const begun = await beginAll(service, 1);
    begun.push(await begin(service.url));
    await pause(200); // until it has arrived; asking would take a connection
    const late = connect(service.url);
    assert.ok(await late.over(2000));
    assert.deepEqual(refusal(parse(late.answer)), [503, 'ERR_BUSY']);
    const other = connect(service.url, { localAddress: '127.0.0.2' });
    await other.send('GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await until(() => other.answer);
    assert.equal(parse(other.answer).status, 200);
    for (const { finish } of begun) assert.equal((await finish()).body.score, 10);
  });

  test('of a trusted proxy are not those of one client', async (t) => {
    const limits = { maxClientConnections: 2, maxConnections: 6 };
    const { url } = await startApp(t, fake(), { ...limits, trustProxy: ['127.0.0.1'] });
    const open = [];
    for (let i = 0; i < 6; i++) {
      open.push(connect(url));
      await once(open.at(-1).socket, 'connect');
    }
    for (const { send } of open) await send('GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await until(() => open.every(({ answer }) => answer.startsWith('HTTP/1.1 200')));
  });
});
