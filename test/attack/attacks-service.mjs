// Attacks on `ddad-native serve`.
import assert from 'node:assert/strict';

export const attacks = [
  {
    name: 'paths out of the folder of images',
    async run({ serve, images }) {
      const { url } = await serve(['--images', images]);
      for (const name of [
        '../tiny.safetensors',
        '/etc/passwd',
        '00.png/../../bad.png',
        '..\\bad.png',
        '%2e%2e/bad.png',
      ]) {
        const response = await fetch(`${url}/score`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ path: name }),
        });
        assert.ok([403, 404].includes(response.status), `${name}: ${response.status}`);
      }
    },
  },
];
