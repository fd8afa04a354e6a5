// The recipes for TLS behind a proxy, as they stand in the guide of the service, with the proxies that are installed.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { root, temporaryFolder, until } from '../helpers/common.mjs';
import { startApp } from '../helpers/service.mjs';

const folder = await temporaryFolder();
const at = (...names) => path.join(folder, ...names);
const guide = await readFile(path.join(root, 'docs', 'service.md'), 'utf8');
const recipe = (language) => new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``).exec(guide)[1];
const has = (program, flag) => spawnSync(program, [flag]).status === 0;
const token = 'a-token-of-more-than-16';
const detector = {
  products: null,
  stats: () => ({}),
  score: async ({ length }) => ({ score: length, threshold: null, anomalous: null, map: { width: 1, height: 1 } }),
};

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.on('listening', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Each starts the proxy with the recipe, changed in nothing but ports and where certificates are from; the certificate. */
const proxies = {
  async caddy(t, port, service) {
    const site = recipe('caddyfile')
      .replace('parts.example {', `parts.example:${port} {\n\ttls internal`)
      .replace('127.0.0.1:8080', service);
    const options = `admin off\nskip_install_trust\nauto_https disable_redirects\nstorage file_system ${at('caddy')}`;
    await writeFile(at('Caddyfile'), `{\n${options}\n}\n${site}`);
    const args = ['run', '--config', at('Caddyfile'), '--adapter', 'caddyfile'];
    const child = spawn('caddy', args, { stdio: 'ignore', env: { ...process.env, HOME: folder } });
    t.after(() => child.kill());
    const authority = async () => {
      const names = await readdir(at('caddy'), { recursive: true }).catch(() => []);
      return names.find((name) => name.endsWith('root.crt'));
    };
    await until(authority);
    return readFile(at('caddy', await authority()));
  },
  async nginx(t, port, service) {
    const [key, certificate] = [at('key.pem'), at('certificate.pem')];
    const names = ['-subj', '/CN=parts.example', '-addext', 'subjectAltName=DNS:parts.example'];
    const files = ['-keyout', key, '-out', certificate];
    spawnSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...names, ...files]);
    const site = recipe('nginx')
      .replace('listen 443', `listen 127.0.0.1:${port}`)
      .replace(/ssl_certificate .*/, `ssl_certificate ${certificate};`)
      .replace(/ssl_certificate_key .*/, `ssl_certificate_key ${key};`)
      .replace('127.0.0.1:8080', service);
    const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${at(name)};`);
    const http = `http {\naccess_log off;\n${places.join('\n')}\n${site}}`;
    const user = process.getuid?.() === 0 ? 'user root;\n' : ''; // who may write where bodies are kept
    await writeFile(at('nginx.conf'), `${user}pid ${at('pid')};\nerror_log ${at('error.log')};\nevents {}\n${http}\n`);
    const child = spawn('nginx', ['-c', at('nginx.conf'), '-g', 'daemon off;'], { stdio: 'ignore' });
    t.after(() => child.kill());
    return readFile(certificate);
  },
};

for (const [name, flag] of [
  ['caddy', 'version'],
  ['nginx', '-v'],
]) {
  test(`behind ${name}`, { skip: !has(name, flag) && `${name} is not installed` }, async (t) => {
    const options = { token, allowHosts: ['parts.example'], trustProxy: ['127.0.0.1'], maxClientRequests: 1 };
    const { url } = await startApp(t, detector, options);
    const port = await freePort();
    const ca = await proxies[name](t, port, new URL(url).host);
    const own = `https://parts.example:${port}`;

    /** Status and JSON of a request through the proxy. */
    const ask = (place, { body, ...headers } = {}) =>
      new Promise((resolve, reject) => {
        const names = { servername: 'parts.example', host: '127.0.0.1', port, path: place, ca, agent: false };
        const method = body === undefined ? 'GET' : 'POST';
        const request = https.request({ ...names, method, headers: { host: `parts.example:${port}`, ...headers } });
        request.on('error', reject).on('response', (response) => {
          let text = '';
          response.on('data', (part) => (text += part)).on('end', () => resolve({ status: response.statusCode, text }));
        });
        request.end(body);
      });
    const image = { 'content-type': 'image/png', authorization: `Bearer ${token}`, body: 'image' };

    await until(() =>
      ask('/healthz').then(
        ({ status }) => status === 200,
        () => false,
      ),
    );
    assert.equal((await ask('/healthz')).text, '{"status":"ready"}');
    assert.equal((await ask('/')).status, 200);
    assert.equal((await ask('/metrics')).status, 401);
    const { status, text } = await ask('/score', { ...image, origin: own });
    assert.deepEqual([status, JSON.parse(text).score], [200, 5]);
    assert.equal((await ask('/score', { ...image, origin: 'https://evil.example' })).status, 403);
    // A proxy may also close the connection while the rest is still coming.
    assert.equal(
      (await ask('/score', { ...image, body: Buffer.alloc(60_000_000) }).catch(() => ({ status: 413 }))).status,
      413,
    );
  });
}
