// Attacks on `ddad-native serve` by who sends much of what he may send, or sends it slowly, to keep others out.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { authorize, connect, mustRefuse, mustServe, pause, upload, uploadHead } from './http.mjs';

const megabytes = (kb) => `${Math.round(kb / 1000)} MB`;

export const attacks = [
  {
    name: 'five hundred connections whose requests never begin',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const image = await readFile(bad);
      const open = [];
      for (let i = 0; i < 500; i++) {
        open.push(connect(service.url));
        await open[i].send(`GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-${i}: `);
      }
      const trickle = setInterval(() => open.forEach((one) => one.open && one.socket.write('y')), 500);
      try {
        await pause(1500);
        const figures = await mustServe(service, image);
        return `${figures}, ${open.filter((one) => one.open).length} of the 500 were open`;
      } finally {
        clearInterval(trickle);
        for (const { socket } of open) socket.destroy();
      }
    },
  },
  {
    name: 'three thousand connections that say nothing',
    anywhere: true,
    async run({ target, bad }) {
      const service = await target();
      const open = [];
      for (let i = 0; i < 3000; i++) {
        open.push(connect(service.url));
        if (i % 100 === 99) await pause(20);
      }
      await pause(1000);
      const figures = await mustServe(service, await readFile(bad));
      let left = Infinity;
      for (let waited = 0; left > 1024 && waited < 15_000; waited += 100) {
        left = open.filter((one) => one.open).length;
        await pause(100);
      }
      for (const { socket } of open) socket.destroy();
      assert.ok(left <= 1024, `${left} were left open`);
      return `${figures}, ${left} of the 3000 were open`;
    },
  },
  {
    name: 'two hundred slow uploads of one client, while another has an image',
    async run({ serve, bad }) {
      const service = await serve();
      const image = await readFile(bad);
      const open = [];
      for (let i = 0; i < 200; i++) {
        open.push(connect(service.url, { localAddress: '127.0.0.2' }));
        await open[i].send(`${uploadHead(service.url, 1_000_000)}\x89PNG`);
      }
      await pause(1000);
      const refused = open.filter(({ answer }) => /^HTTP\/1\.1 429/.test(answer)).length;
      assert.ok(refused > 100, `${refused} were refused`);
      const figures = await mustServe(service, image);
      for (const { socket } of open) socket.destroy();
      await pause(500);
      await mustServe(service, image);
      return `${figures}, ${refused} of 200 were refused`;
    },
  },
  {
    name: 'sixty uploads of 48 MB that are never finished',
    async run({ serve, bad }) {
      const service = await serve();
      const image = await readFile(bad);
      await mustServe(service, image);
      const idle = await service.rssKb();
      const piece = Buffer.alloc(1_000_000, 7);
      const open = [];
      for (let i = 0; i < 60; i++) {
        const connection = connect(service.url);
        open.push(connection);
        await connection.send(uploadHead(service.url, 49_000_000));
        for (let sent = 0; sent < 48 && connection.open && !connection.answer; sent++) await connection.send(piece);
      }
      await pause(500);
      const peak = service.maxRssKb() - idle;
      for (const { socket } of open) socket.destroy();
      await pause(2000);
      const after = (await service.rssKb()) - idle;
      const figures = `${megabytes(peak)} more at most, ${megabytes(after)} more afterwards`;
      assert.ok(peak < 650_000 && after < 100_000, figures);
      await mustServe(service, image);
      return figures;
    },
  },
  {
    name: 'uploads of 48 MB that are no images',
    timeoutMs: 120_000,
    async run({ serve, bad }) {
      const service = await serve();
      const image = await readFile(bad);
      await mustServe(service, image);
      const idle = await service.rssKb();
      const junk = Buffer.alloc(48_000_000, 7);
      for (let i = 0; i < 2; i++) {
        const answers = await Promise.all(
          Array.from({ length: 6 }, () => upload(service, junk).catch(() => undefined)),
        );
        for (const answer of answers) if (answer) mustRefuse(answer, 'no image');
      }
      await mustServe(service, image);
      await pause(2000);
      const peak = service.maxRssKb() - idle;
      const after = (await service.rssKb()) - idle;
      const figures = `${megabytes(peak)} more at most, ${megabytes(after)} more afterwards`;
      assert.ok(peak < 900_000 && after < 200_000, figures);

      return figures;
    },
  },
  {
    name: 'four hundred uploads at once, half of them cut off',
    anywhere: true,
    timeoutMs: 120_000,
    async run({ target, bad }) {
      const service = await target();
      const image = await readFile(bad);
      const counts = {};
      await Promise.all(
        Array.from({ length: 400 }, async (_, i) => {
          const options = {
            method: 'POST',
            body: image,
            headers: { 'content-type': 'image/png', ...authorize(service) },
          };
          if (i % 2) options.signal = AbortSignal.timeout(1 + (i % 40));
          const status = await fetch(`${service.url}/score`, options).then(
            ({ status }) => status,
            () => 'cut off',
          );
          counts[status] = (counts[status] ?? 0) + 1;
        }),
      );
      const strange = Object.keys(counts).filter((status) => !['200', '429', '503', 'cut off'].includes(status));
      assert.deepEqual(strange, []);
      return `${JSON.stringify(counts)}; ${await mustServe(service, image)}`;
    },
  },
];
