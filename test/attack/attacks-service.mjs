// Attacks on `ddad-native serve`.
import assert from 'node:assert/strict';
import { connect, pause, uploadHead } from './http.mjs';

const megabytes = (kb) => `${Math.round(kb / 1000)} MB`;

export const attacks = [
  {
    name: 'sixty uploads of 48 MB that are never finished',
    async run({ serve }) {
      const service = await serve();
      await fetch(`${service.url}/healthz`);
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
      return figures;
    },
  },
];
