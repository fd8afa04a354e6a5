// The same service with a route of its own, and ended by its own rules: createApp returns a Fastify instance, which
// listens when you say so. The detector stays yours.
//   node extended.mjs model.safetensors
import { Detector } from 'ddad-native';
import { createApp } from 'ddad-native/service';

const [model] = process.argv.slice(2);
if (model === undefined) throw new Error('expected a model file');

const detector = await Detector.load(model, { maxQueue: 64, whenFull: 'reject' });
const app = await createApp(detector, { model, token: process.env.TOKEN });

// A route of yours stands behind the same checks of sender and token as the others.
app.get('/queue', () => {
  const { queued, running } = detector.stats();
  return { queued, running };
});

console.error(`${model}: ready on ${await app.listen({ port: Number(process.env.PORT ?? 8080) })}`);
process.once('SIGTERM', async () => {
  await app.close();
  detector.dispose();
});
