// Who the service lets in: names, origins and tokens; and where it listens.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, readFile, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { Detector, Trainer } from '../../dist/index.js';
import { makeDataset, run, start, temporaryFolder, trainTiny, until } from '../helpers/common.mjs';
import { form, raw, startApp } from '../helpers/service.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const parts = await makeDataset(at('parts'), 6);
const model = at('part.safetensors');
await trainTiny({ Trainer }, parts, model);
const good = await readFile(at('parts', 'train', 'good', '00.png'));
const shared = await Detector.load(model, { threads: 1 });
const token = 'a-token-of-more-than-16';
const ownAddress = Object.values(os.networkInterfaces())
  .flat()
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;
const ipv6 = Object.values(os.networkInterfaces())
  .flat()
  .some(({ address }) => address === '::1');

/** The status and code of a request with these headers, `host` among them or not. */
async function tell(url, headers, { method = 'GET', place = '/metrics' } = {}) {
  const lines = Object.entries(headers).flatMap(([name, values]) =>
    [values].flat().map((value) => `${name}: ${value}\r\n`),
  );
  const text = `${method} ${place} HTTP/1.1\r\n${lines.join('')}content-length: 0\r\nconnection: close\r\n\r\n`;
  const { status, body } = await raw(url, text);
  return status === 200 ? [status] : [status, body.code];
}

describe('the name that a request is for', () => {
  test('is one of this machine, or one that is allowed', async (t) => {
    const { url } = await startApp(t, shared, { allowHosts: ['Parts.Example', '192.0.2.7', '2001:db8::7'] });
    for (const host of [
      ...['localhost', 'LOCALHOST:8080', 'localhost.', '127.0.0.1', '127.0.0.1:1', '127.3.2.1', '[::1]:80'],
      ...['parts.example', 'PARTS.example:8443', '192.0.2.7', '[2001:db8:0::7]:80'],
    ]) {
      assert.deepEqual(await tell(url, { host }), [200], host);
    }
    for (const host of [
      ...['evil.example', 'evil.example:8080', 'localhost.evil.example', 'notlocalhost', 'parts.example.evil'],
      ...['203.0.113.9', '0.0.0.0', '[::]', '[2001:db8::8]', '127.0.0.1.evil.example', '127.0.0.1@evil.example'],
      ...['localhost/', 'a b', '', 'localhost:99999999', 'localhost#', '%6cocalhost.evil'],
    ]) {
      assert.deepEqual(await tell(url, { host }), [403, 'ERR_FORBIDDEN'], host);
    }
    assert.deepEqual(await tell(url, {}), [400, 'ERR_REQUEST']);
    assert.deepEqual(await tell(url, { host: ['localhost', 'evil.example'] }), [400, 'ERR_REQUEST']);
    for (const place of ['/', '/healthz', '/score', '/nothing']) {
      assert.deepEqual(await tell(url, { host: 'evil.example' }, { place }), [403, 'ERR_FORBIDDEN'], place);
    }
  });

  test('may be the address at which it has come in', { skip: !ownAddress && 'there is no network' }, async (t) => {
    const open = await startApp(t, shared, {}, '0.0.0.0');
    const { port } = new URL(open.url);
    const url = `http://${ownAddress}:${port}`;
    assert.deepEqual(await tell(url, { host: `${ownAddress}:${port}` }), [200]);
    assert.deepEqual(await tell(open.url, { host: ownAddress }), [403, 'ERR_FORBIDDEN']);
  });

  test('that is allowed must be one', async () => {
    const { createApp } = await import('ddad-native/service');
    for (const name of ['http://a.example', '*.example', '*', 'a b', 'a/b', '']) {
      await assert.rejects(createApp(shared, { allowHosts: [name] }), { option: 'allowHosts' }, name);
    }
  });
});

describe('requests that browsers send for other sites', () => {
  test('are refused by their Origin', async (t) => {
    const { url } = await startApp(t, shared);
    const post = (origin, host = 'localhost:8080') => tell(url, { host, origin }, { method: 'POST', place: '/score' });
    const empty = [415, 'ERR_MEDIA_TYPE'];
    assert.deepEqual(await post('http://localhost:8080'), empty);
    assert.deepEqual(await post('https://localhost', 'localhost'), empty); // behind a proxy with TLS
    assert.deepEqual(await post('https://localhost', 'localhost:443'), empty);
    for (const origin of [
      ...['http://evil.example', 'http://localhost', 'http://localhost:3000', 'http://127.0.0.1:8080', 'null', ''],
      ...['file://localhost:8080', 'chrome-extension://localhost:8080', 'http://localhost:8080.evil.example', 'x'],
    ]) {
      assert.deepEqual(await post(origin), [403, 'ERR_FORBIDDEN'], origin);
    }
  });

  test('are refused by Sec-Fetch-Site, but for links to the page', async (t) => {
    const { url } = await startApp(t, shared);
    const ask = (site, place, mode = 'no-cors') =>
      tell(url, { host: 'localhost', 'sec-fetch-site': site, 'sec-fetch-mode': mode }, { place });
    for (const site of ['same-origin', 'none']) assert.deepEqual(await ask(site, '/metrics'), [200]);
    for (const site of ['cross-site', 'same-site', 'anything']) {
      for (const place of ['/metrics', '/healthz', '/', '/nothing']) {
        assert.deepEqual(await ask(site, place), [403, 'ERR_FORBIDDEN'], place);
      }
      assert.deepEqual(await ask(site, '/healthz', 'navigate'), [403, 'ERR_FORBIDDEN']);
      assert.deepEqual(await ask(site, '/', 'navigate'), [200]);
    }
  });

  test('get no leave for more by asking first', async (t) => {
    const { url } = await startApp(t, shared);
    const headers = { host: 'localhost', origin: 'http://evil.example', 'access-control-request-method': 'POST' };
    assert.deepEqual(await tell(url, headers, { method: 'OPTIONS', place: '/score' }), [403, 'ERR_FORBIDDEN']);
  });
});

describe('the token', () => {
  test('is needed for all but the page and the word that the service is there', async (t) => {
    const { url, ask } = await startApp(t, shared, { token, model: 'secret.safetensors' });
    const authorization = `Bearer ${token}`;
    const post = (headers) => ask('/score', { method: 'POST', body: form(good), headers });
    assert.equal((await post({ authorization })).body.score, (await shared.score(good)).score);
    assert.equal((await post({ authorization: `bearer  ${token} ` })).status, 200);
    for (const headers of [
      {},
      ...[`Bearer ${token}x`, `Bearer ${token.slice(1)}`, 'Bearer', 'Bearer ', token, `Basic ${token}`, ''].map(
        (given) => ({
          authorization: given,
        }),
      ),
    ]) {
      const { status, body, headers: answered } = await post(headers);
      assert.deepEqual([status, body.code], [401, 'ERR_TOKEN'], JSON.stringify(headers));
      assert.equal(answered.get('www-authenticate'), 'Bearer');
      assert.ok(!JSON.stringify(body).includes(token));
    }
    for (const place of ['/metrics', '/nothing']) assert.equal((await ask(place)).status, 401, place);
    assert.deepEqual((await ask('/healthz')).body, { status: 'ready' });
    assert.equal((await ask('/healthz', { headers: { authorization } })).body.model, 'secret.safetensors');
    assert.equal((await ask('/healthz', { headers: { authorization: 'Bearer x' } })).status, 401);
    const page = await fetch(url);
    assert.equal(page.status, 200);
    assert.ok(!(await page.text()).includes('secret.safetensors'));
    assert.equal((await fetch(`${url}/metrics`, { headers: { authorization } })).status, 200);
    assert.equal((await ask(`/score?token=${token}`, { method: 'POST', body: form(good) })).status, 401);
  });

  test('is not needed for metrics that are opened', async (t) => {
    const { url, ask } = await startApp(t, shared, { token, openMetrics: true });
    assert.equal((await fetch(`${url}/metrics`)).status, 200);
    assert.equal((await ask('/score', { method: 'POST', body: form(good) })).status, 401);
  });
});

describe('ddad-native serve', () => {
  /** The service until the test ends; what it has printed when it was ready. */
  async function serve(t, ...flags) {
    const { child, finished } = start(['serve', model, '--port', '0', '--threads', '1', '--json', ...flags]);
    t.after(() => child.kill('SIGKILL'));
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr']) child[name].on('data', (text) => (output[name] += text));
    let ended = false;
    void finished.then(() => (ended = true));
    await until(() => ended || output.stdout.endsWith('\n'));
    return { ...output, address: /"address":"([^"]+)"/.exec(output.stdout)?.[1] };
  }

  test('prints the address that it listens on', async (t) => {
    for (const [host, expected] of [
      ['127.0.0.1', /^http:\/\/127\.0\.0\.1:[1-9]\d*$/],
      ['127.9.8.7', /^http:\/\/127\.9\.8\.7:[1-9]\d*$/],
      ['localhost', /^http:\/\/(127\.0\.0\.1|\[::1\]):[1-9]\d*$/],
      ['0.0.0.0', /^http:\/\/0\.0\.0\.0:[1-9]\d*$/],
      ...(ipv6
        ? [
            ['::1', /^http:\/\/\[::1\]:[1-9]\d*$/],
            ['::', /^http:\/\/\[::\]:[1-9]\d*$/],
          ]
        : []),
    ]) {
      const { address, stderr } = await serve(t, '--host', host, '--insecure');
      assert.match(address, expected);
      const health = await fetch(`${address}/healthz`);
      assert.equal((await health.json()).model, 'part.safetensors', host);
      assert.equal(/warning: whoever reaches/.test(stderr), /^(0\.0\.0\.0|::)$/.test(host), stderr);
    }
  });

  test('listens to other machines with a token alone, unless it is told otherwise', async (t) => {
    for (const host of ['0.0.0.0', ...(ipv6 ? ['::'] : []), ...(ownAddress ? [ownAddress] : [])]) {
      const { code, stderr, stdout } = await run(['serve', model, '--port', '0', '--host', host, '--threads', '1']);
      assert.deepEqual([code, stdout], [2, ''], host);
      assert.match(stderr, /--host: .* needs a token \(--token-file\), or --insecure/);
    }
    await writeFile(at('token'), `${token}\n`, { mode: 0o600 });
    const { address, stderr } = await serve(t, '--host', '0.0.0.0', '--token-file', at('token'));
    assert.equal(stderr, '');
    const probe = await fetch(`${address}/healthz`);
    assert.deepEqual(await probe.json(), { status: 'ready' });
    assert.equal((await fetch(`${address}/metrics`)).status, 401);
    const headers = { authorization: `Bearer ${token}` };
    assert.equal((await fetch(`${address}/metrics`, { headers })).status, 200);
  });

  test('takes names, open metrics and links to the file of the token, and warns where others can read it', async (t) => {
    await writeFile(at('open'), token);
    await chmod(at('open'), 0o644);
    await symlink(at('open'), at('link')); // as the secrets of containers are
    const names = ['--allow-host', 'a.example,b.example', '--allow-host', 'c.example'];
    const { address, stderr } = await serve(t, '--token-file', at('link'), '--open-metrics', ...names);
    assert.match(stderr, /^warning: .*link can be used by others than its owner \(mode 644\); chmod 600 ends that\n$/);
    for (const host of ['a.example', 'b.example', 'c.example']) assert.deepEqual(await tell(address, { host }), [200]);
    assert.deepEqual(await tell(address, { host: 'd.example' }), [403, 'ERR_FORBIDDEN']);
  });

  test('does not wait for a pipe in place of the file of the token', async (t) => {
    if (spawnSync('mkfifo', [at('fifo')]).status !== 0) return t.skip('there is no mkfifo');
    const { code, stderr } = await run(['serve', model, '--port', '0', '--threads', '1', '--token-file', at('fifo')]);
    assert.equal(code, 2);
    assert.match(stderr, /--token-file: expected a regular file/);
    return undefined;
  });
});
