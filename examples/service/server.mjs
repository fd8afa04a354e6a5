// A service of your own around a detector, with a route of its own:
//   node server.mjs model.safetensors [folder of images]
// HOST, PORT, TOKEN_FILE and ALLOW_HOSTS (with commas) say where it listens, and to whom.
import path from 'node:path';
import { Detector } from 'ddad-native';
import { startService } from 'ddad-native/service';

const [model, images] = process.argv.slice(2);
if (model === undefined) throw new Error('expected a model file');

const detector = await Detector.load(model, { maxQueue: 64, whenFull: 'reject' });
const address = await startService(detector, {
  host: process.env.HOST ?? '127.0.0.1',
  port: Number(process.env.PORT ?? 8080),
  model: path.basename(model),
  images,
  tokenFile: process.env.TOKEN_FILE,
  allowHosts: process.env.ALLOW_HOSTS?.split(','),
  logger: { level: 'error' },
});
console.error(`${model}: ready on ${address}`);
