// A small safetensors reader for the check inputs.
import { readFileSync } from 'node:fs';

const types = { F32: Float32Array, I32: Int32Array };

/** The tensors of a file by name: `{ shape, values }`. */
export function readTensors(path) {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, start));
  delete header.__metadata__;
  return Object.fromEntries(
    Object.entries(header).map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => {
        const at = bytes.byteOffset + start;
        return [name, { shape, values: new types[dtype](bytes.buffer.slice(at + begin, at + end)) }];
      },
    ),
  );
}
