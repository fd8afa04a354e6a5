// Attacks on `ddad-native serve` by who may send requests to it: reading what is not his, and sending what is none.
// Those `anywhere` are right for any service, also for one that the operator names; the others need flags of their own.
import assert from 'node:assert/strict';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { ask, authorize, connect, headOf, mustRefuse, mustServe, pause, send, upload, uploadHead } from './http.mjs';

const strangers = [
  {
    name: 'a page whose name leads here (DNS rebinding)',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const image = await readFile(bad);
      for (const name of ['evil.example', 'evil.example:8080', 'localhost.evil.example', '127.0.0.1.evil.example']) {
        for (const place of ['/', '/healthz', '/metrics', '/score']) {
          const { status, body } = await send(service.url, `GET ${place} HTTP/1.1\r\nhost: ${name}\r\n\r\n`);
          assert.equal(status, 403, `${name}${place}: ${JSON.stringify(body)}`);
        }
        const head = uploadHead(service.url, image.length, headOf(service)).replace(/host: .*/, `host: ${name}`);
        assert.equal(
          (await send(service.url, Buffer.concat([Buffer.from(head), image]).toString('latin1'))).status,
          403,
        );
      }
    },
  },
  {
    name: 'a form on a page of another site',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const image = await readFile(bad);
      const { port } = new URL(service.url);
      for (const headers of [
        { origin: 'https://evil.example' },
        { origin: 'null' },
        { origin: `http://localhost:${Number(port) + 1}` },
        { 'sec-fetch-site': 'cross-site' },
        { 'sec-fetch-site': 'same-site', 'sec-fetch-mode': 'navigate' },
      ]) {
        const { status, body } = await upload(service, image, headers);
        assert.deepEqual([status, body.code], [403, 'ERR_FORBIDDEN'], JSON.stringify(headers));
      }
      const preflight = await ask(service.url, '/score', {
        method: 'OPTIONS',
        headers: { origin: 'https://evil.example', 'access-control-request-method': 'POST' },
      });
      assert.equal(preflight.headers.get('access-control-allow-origin'), null);
    },
  },
  {
    name: 'a frame, a cache or another type for what it answers',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const answers = [await upload(service, await readFile(bad))];
      answers.push(await upload(service, await readFile(bad), { accept: 'image/png' }));
      for (const place of ['/', '/healthz', '/metrics', '/nothing']) answers.push(await ask(service.url, place));
      for (const { headers } of answers) {
        assert.equal(headers.get('x-content-type-options'), 'nosniff');
        assert.equal(headers.get('cache-control'), 'no-store');
        assert.match(headers.get('content-security-policy'), /default-src 'none';.*frame-ancestors 'none'/);
        assert.equal(headers.get('access-control-allow-origin'), null);
      }
    },
  },
  {
    name: 'use without the token',
    async run({ serve, dir, bad }) {
      const file = path.join(dir, 'token');
      const token = 'the-token-of-this-service';
      await writeFile(file, token, { mode: 0o600 });
      const { url } = await serve(['--token-file', file]);
      const image = await readFile(bad);
      for (const given of [undefined, 'the-token-of-this-servicf', token.slice(0, -1), `${token}x`, 'x'.repeat(5000)]) {
        const { status, body } = await upload({ url, token: given }, image);
        assert.deepEqual([status, body.code], [401, 'ERR_TOKEN']);
        const headers = authorize({ token: given });
        assert.equal((await ask(url, '/metrics', { headers })).status, 401);
        const health = await ask(url, '/healthz', { headers });
        assert.ok(!JSON.stringify(health.body).includes('tiny'), JSON.stringify(health.body));
      }
      for (const place of [`/score?token=${token}`, `/score?access_token=${token}`, `//score`, '/SCORE', '/score/']) {
        const { status } = await ask(url, place, {
          method: 'POST',
          body: image,
          headers: { 'content-type': 'image/png' },
        });
        assert.equal(status, 401, place);
      }
      assert.equal((await upload({ url, token }, image)).status, 200);
    },
  },
  {
    name: 'a service open to all machines by mistake',
    async run({ cli, model }) {
      const args = ['serve', model, '--port', '0', '--threads', '1', '--host'];
      for (const host of ['0.0.0.0', '::']) {
        const { status, stdout } = await cli([...args, host], { timeoutMs: 5000 });
        assert.deepEqual([status, stdout], [2, ''], host);
      }
    },
  },
  {
    name: 'paths and links out of the folder of images',
    async run({ serve, dir, images, bad }) {
      const opened = path.join(dir, 'opened');
      await mkdir(path.join(opened, 'in'), { recursive: true });
      await mkdir(path.join(dir, 'opened-too'));
      for (const file of ['opened/in/a.png', 'opened-too/secret.png', 'secret.png']) {
        await writeFile(path.join(dir, file), await readFile(bad));
      }
      await symlink(path.join(dir, 'secret.png'), path.join(opened, 'link.png'));
      await symlink('..', path.join(opened, 'in', 'up'));
      await symlink(images, path.join(opened, 'elsewhere'));
      await symlink('loop.png', path.join(opened, 'loop.png'));
      const { url } = await serve(['--images', opened]);
      const byPath = (body) =>
        ask(url, '/score', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
      assert.equal((await byPath('{"path":"in/a.png"}')).status, 200);
      for (const name of [
        ...[
          '../secret.png',
          '../opened-too/secret.png',
          'in/../../secret.png',
          path.join(dir, 'secret.png'),
          '..',
          '.',
        ],
        ...[
          'link.png',
          'in/up/../secret.png',
          'in/up/up/secret.png',
          'elsewhere/00.png',
          'loop.png',
          '/etc/passwd',
          '',
        ],
        ...['/proc/self/environ', '..\\secret.png', '%2e%2e/secret.png', 'in/a.png\0', '~/secret.png', 'in'],
        ...['x'.repeat(5000), 'file:///etc/passwd', '....//secret.png'],
      ]) {
        const { status, body } = await byPath(JSON.stringify({ path: name }));
        assert.ok([400, 403, 404].includes(status), `${name}: ${status}`);
        assert.ok(!path.isAbsolute(name) ? !JSON.stringify(body).includes(dir) : true, `${name}: ${body.message}`);
      }
      for (const text of [
        '{"__proto__":{"path":"in/a.png"}}',
        '{"path":{"toString":1}}',
        '[['.repeat(30_000),
        '{"path":1e999}',
      ]) {
        mustRefuse(await byPath(text), text.slice(0, 40));
      }
    },
  },
];

const malformed = [
  {
    name: 'heads that no parser should take',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const { url } = service;
      const own = `host: localhost\r\n${headOf(service)}`;
      const post = `POST /score HTTP/1.1\r\n${own}`;
      const heads = {
        'a large line': `GET / HTTP/1.1\r\n${own}x: ${'y'.repeat(100_000)}\r\n\r\n`,
        'many lines': `GET / HTTP/1.1\r\n${own}${'x-y: zzzzzzzz\r\n'.repeat(20_000)}\r\n`,
        'a long address': `GET /${'x'.repeat(100_000)} HTTP/1.1\r\n${own}\r\n`,
        'no name': 'GET /metrics HTTP/1.1\r\n\r\n',
        'two names': `GET /metrics HTTP/1.1\r\n${own}host: evil.example\r\n\r\n`,
        'a name with an account': `GET /metrics HTTP/1.1\r\nhost: localhost@evil.example\r\n\r\n`,
        'no HTTP': 'SSH-2.0-OpenSSH_9.2\r\n',
        'a hello of TLS': '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
        'HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
        'another address': `GET http://evil.example/metrics HTTP/1.1\r\nhost: evil.example\r\n\r\n`,
        'a tunnel': 'CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n',
        'a star': `OPTIONS * HTTP/1.1\r\n${own}\r\n`,
        'a trace': `TRACE /score HTTP/1.1\r\n${own}\r\n`,
        'two lengths': `${post}content-length: 5\r\ncontent-length: 6\r\n\r\nhello`,
        'a negative length': `${post}content-length: -5\r\n\r\n`,
        'a huge length': `${post}content-type: image/png\r\ncontent-length: 99999999999\r\n\r\n`,
        'a length beyond numbers': `${post}content-length: ${'9'.repeat(40)}\r\n\r\n`,
        'a length and chunks': `${post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
        'two encodings': `${post}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n`,
        'a chunk of a strange length': `${post}content-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n`,
        'a chunk beyond numbers': `${post}content-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n${'f'.repeat(30)}\r\n`,
        'a line without an end': `GET /metrics HTTP/1.1\nhost: localhost\rx: y\r\n\r\n`,
        'a line that goes on': `GET /metrics HTTP/1.1\r\n${own} folded\r\nx : y\r\n\r\n`,
        'a zero': `GET /metrics\0 HTTP/1.1\r\n${own}\r\n`,
        'an expectation': `${post}expect: 200-maybe\r\ncontent-length: 5\r\n\r\n`,
      };
      for (const [what, text] of Object.entries(heads)) mustRefuse(await send(url, text), what);
      // A second request behind a body must not be taken for the first one's.
      const { status } = await send(
        url,
        `${post}content-length: 0\r\n\r\nGET http://evil.example/ HTTP/1.1\r\nhost: evil.example\r\n\r\n`,
      );
      assert.equal(status, 415);
      return mustServe(service, await readFile(bad));
    },
  },
  {
    name: 'a thousand requests in one go',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const connection = connect(service.url);
      await connection.send('GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n'.repeat(1000));
      await pause(1500);
      connection.socket.destroy();
      return mustServe(service, await readFile(bad));
    },
  },
  {
    name: 'forms that no parser should take',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const image = (await readFile(bad)).toString('latin1');
      const file = 'content-disposition: form-data; name="image"; filename="a.png"\r\n\r\n';
      const field = (name, value) => `--b\r\ncontent-disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
      const end = '--b--\r\n';
      const bodies = {
        nothing: '',
        'no boundary in it': 'hello',
        'no end': `--b\r\n${file}${image}`,
        'an end alone': end,
        'no image': `${field('threshold', '1')}${end}`,
        'an empty image': `--b\r\n${file}\r\n${end}`,
        'no disposition': `--b\r\n\r\n${image}\r\n${end}`,
        'no name': `--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n${end}`,
        'a prototype': `${field('__proto__', 'x')}--b\r\n${file}${image}\r\n${end}`,
        'a constructor': `${field('constructor', 'x')}--b\r\n${file}${image}\r\n${end}`,
        'a file as a prototype': `--b\r\n${file.replace('"image"', '"__proto__"')}${image}\r\n${end}`,
        'many fields': `${Array.from({ length: 5000 }, (_, i) => field(`f${i}`, 'x')).join('')}${end}`,
        'many files': `--b\r\n${file}${image}\r\n`.repeat(200) + end,
        'a large field': `${field('product', 'x'.repeat(2_000_000))}${end}`,
        'a field with a long name': `${field('x'.repeat(200_000), '1')}${end}`,
        'a large head of a part': `--b\r\nx: ${'y'.repeat(500_000)}\r\n${file}${image}\r\n${end}`,
        'many lines in the head of a part': `--b\r\n${'x: y\r\n'.repeat(50_000)}${file}${image}\r\n${end}`,
        'a form in the form': `--b\r\ncontent-type: multipart/mixed; boundary=c\r\n${file}--c\r\n\r\nx\r\n--c--\r\n${end}`,
        'JSON as a field': `--b\r\ncontent-type: application/json\r\ncontent-disposition: form-data; name="product"\r\n\r\n{"__proto__":1}\r\n${end}`,
        'an end in the image': `--b\r\n${file}${image.slice(0, 100)}\r\n${end}${image.slice(100)}`,
        'a threshold without end': `${field('threshold', '1e999')}--b\r\n${file}${image}\r\n${end}`,
        'a product with line ends': `${field('product', 'x\r\nset-cookie: y')}--b\r\n${file}${image}\r\n${end}`,
        'a strange charset': `--b\r\ncontent-type: text/plain; charset=utf-99\r\ncontent-disposition: form-data; name*=utf-99''x\r\n\r\nx\r\n${end}`,
      };
      const head = (type, length) =>
        `POST /score HTTP/1.1\r\nhost: localhost\r\n${headOf(service)}content-type: ${type}\r\ncontent-length: ${length}\r\nconnection: close\r\n\r\n`;
      for (const [what, body] of Object.entries(bodies)) {
        const bytes = Buffer.from(body, 'latin1');
        const text = head('multipart/form-data; boundary=b', bytes.length);
        mustRefuse(await send(service.url, Buffer.concat([Buffer.from(text), bytes])), what);
      }
      for (const type of [
        ...[
          'multipart/form-data',
          'multipart/form-data; boundary=',
          `multipart/form-data; boundary=${'x'.repeat(5000)}`,
        ],
        ...[
          'multipart/mixed; boundary=b',
          'multipart/form-data; boundary="',
          'image/',
          'image/svg+xml',
          '/',
          'text/html',
        ],
        ...['application/x-www-form-urlencoded', 'application/json; charset=utf-16', ';', 'x'.repeat(8000)],
      ]) {
        mustRefuse(await send(service.url, `${head(type, 4)}--b\n`), type.slice(0, 60));
      }
      return mustServe(service, await readFile(bad));
    },
  },
  {
    name: 'names that fill the metrics',
    async run({ serve, bad }) {
      const service = await serve();
      const { url } = service;
      const before = (await ask(url, '/metrics')).body.length;
      for (let i = 0; i < 300; i++) await ask(url, `/n${i}?x=${i}`);
      for (const method of ['PUT', 'DELETE', 'PATCH', 'PROPFIND', 'REPORT']) await ask(url, '/score', { method });
      for (let i = 0; i < 50; i++)
        mustRefuse(
          await upload(service, await readFile(bad), { 'x-product': `p${i}` }).then(() =>
            ask(url, `/score?product=p${i}`, { method: 'POST', body: 'x', headers: { 'content-type': 'image/png' } }),
          ),
          'a product',
        );
      const more = (await ask(url, '/metrics')).body.length - before;
      assert.ok(more < 4000, `${more} bytes more`);
      return `${more} bytes more`;
    },
  },
];

export const attacks = [...strangers, ...malformed];
