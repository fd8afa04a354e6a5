// The addon as src/engine/native.ts sees it: what its calls do, what they refuse and how.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import {
  addon,
  configOf,
  file,
  grayImage,
  open,
  openDetector,
  options,
  pixelsOf,
  small,
  token,
} from '../helpers/addon.mjs';
import { temporaryFolder } from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);

const argument = (message) => (error) => {
  assert.ok(error instanceof Error);
  assert.equal(error.code, 'ERR_ARGUMENT', error.message);
  assert.match(error.message, message);
  return true;
};

test('info tells about the machine and the libraries', () => {
  const info = JSON.parse(addon.info());
  assert.match(info.version, /^\d+\.\d+\.\d+$/);
  assert.ok(info.cpu.isas.includes(info.cpu.isa) && info.cpu.isas.includes('baseline'));
  assert.ok(info.cpu.processors >= 1 && info.cpu.name.length > 0);
  assert.match(info.onednn.version, /^3\.\d+\.\d+$/);
  assert.deepEqual(
    info.devices.map(({ name }) => name),
    ['cpu', 'cuda'],
  );
  assert.equal(info.devices[0].available, true);
  assert.ok(info.devices[1].available || info.devices[1].reason.length > 0);
  assert.ok(info.memory.processPeak >= info.memory.process && info.memory.process > 0);
  assert.ok(info.memory.total >= info.memory.available && info.memory.available > 0);
});

test('profile times ops, passes and the machine, and refuses what it cannot', async () => {
  const few = (more) => JSON.stringify({ device: 'cpu', threads: 1, batch: 1, samples: 2, seconds: 0, ...more });
  const profile = (what, given = few()) => addon.profile(what, configOf(), given, token());
  const [forward, pass, ceiling] = (await Promise.all(['forward', 'pass', 'ceiling'].map((what) => profile(what)))).map(
    (text) => JSON.parse(text),
  );
  assert.ok(forward.ops.length > 10 && forward.ops.every(({ seconds }) => seconds.length === 2));
  assert.ok(pass.flops > 0 && pass.seconds.length === 2);
  assert.ok(ceiling.flopsPerSecond.every((rate) => rate > 1e7) && ceiling.bytesPerSecond.length === 3);
  for (const [call, message] of [
    [() => profile('sideways'), /profile: what: expected ceiling, forward, backward or pass, got "sideways"/],
    [() => profile('pass', few({ batch: 0 })), /profile: options\.batch: expected a number from 1\.0 to 4096/],
    [() => profile('pass', few({ seconds: 'long' })), /options\.seconds: expected a number from .*, got "long"/],
    [() => profile('pass', '{"batch":1}'), /options\.samples: expected a number .*, got nothing/],
    [() => addon.profile('pass', configOf(), few()), /token: expected a CancelToken/],
  ]) {
    await assert.rejects(call(), argument(message));
  }
  await assert.rejects(addon.profile('forward', '{}', few(), token()), { code: 'ERR_CONFIG' });
  const stopped = token();
  const running = addon.profile('forward', configOf(), few({ seconds: 600 }), stopped);
  setTimeout(() => stopped.cancel(), 50);
  await assert.rejects(running, { code: 'ERR_ABORTED' });
});

test('trains, scores, saves and loads', async (t) => {
  const trainer = await open(t);
  const memory = JSON.parse(trainer.memory());
  assert.ok(memory.parameters > 0 && memory.optimizer > 0 && memory.activations > 0);
  const result = await trainer.step(pixelsOf(small), null, 1e-4, token());
  assert.deepEqual(Object.keys(result), ['loss', 'mse', 'vb', 'feature', 'gradNorm', 'step']);
  assert.equal(result.step, 1);
  assert.ok(Number.isFinite(result.loss) && Number.isFinite(result.gradNorm));

  await trainer.saveCheckpoint(at('checkpoint.safetensors'), configOf(), token());
  const other = await open(t);
  const loaded = await other.loadCheckpoint(at('checkpoint.safetensors'), token());
  assert.deepEqual(JSON.parse(loaded), JSON.parse(configOf()));
  const [second, resumed] = [
    await trainer.step(pixelsOf(small), null, 1e-4, token()),
    await other.step(pixelsOf(small), null, 1e-4, token()),
  ];
  assert.deepEqual(resumed, second);

  const detector = await trainer.toDetector(configOf());
  trainer.dispose();
  assert.deepEqual(JSON.parse(detector.config()), JSON.parse(configOf()));
  const score = await detector.score({ ...grayImage(), outWidth: 20, outHeight: 30 }, token());
  assert.ok(score.map instanceof Float32Array && score.map.length === 600);
  assert.deepEqual([score.width, score.height, score.pixel.elements], [20, 30, 256]);
  assert.ok(score.pixel.mean instanceof Float64Array && score.pixel.std instanceof Float64Array);
  assert.deepEqual([score.pixel.mean.length, score.pixel.std.length], [2, 2]);
  assert.ok(score.pixelMap.length === 600 && score.featureMap === null && score.feature === null);
  assert.ok(Number.isFinite(score.score));
  const map = structuredClone(score.map, { transfer: [score.map.buffer] }); // goes to other threads without a copy
  assert.equal(map.length, 600);

  await detector.save(at('model.safetensors'), configOf(), token());
  const again = await addon.loadDetector(at('model.safetensors'), options, token());
  t.after(() => again.dispose());
  const { map: same } = await again.score({ ...grayImage(), outWidth: 20, outHeight: 30 }, token());
  assert.deepEqual(same, map);
  const config = { ...JSON.parse(configOf()), threshold: 0.5, calibration: null };
  assert.equal(await again.setConfig(JSON.stringify(config)), undefined);
  assert.equal(JSON.parse(again.config()).threshold, 0.5);
  assert.ok(JSON.parse(again.memory()).parameters > 0);
});

test('pixels of 8 bits, 16 bits and floats score alike, and are copied before the call returns', async (t) => {
  const detector = await openDetector(t);
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  const kinds = [bytes, Uint16Array.from(bytes, (v) => v * 257), Float32Array.from(bytes, (v) => v / 255)];
  const scores = [];
  for (const data of kinds) {
    const work = detector.score({ ...grayImage(), data }, token());
    data.fill(0);
    scores.push((await work).score);
  }
  for (const score of scores) assert.ok(Math.abs(score - scores[0]) <= 1e-3 * Math.abs(scores[0]), scores.join());
});

test('rejects bad arguments of the trainer', async (t) => {
  const { NativeTrainer, CancelToken } = addon;
  assert.throws(() => new NativeTrainer(), argument(/config: expected a string, got undefined/));
  assert.throws(() => new NativeTrainer('{', options), argument(/config: expected JSON/));
  assert.throws(() => new NativeTrainer('[]', options), argument(/config: expected a JSON object, got a JSON array/));
  assert.throws(() => new NativeTrainer('['.repeat(1e6), options), argument(/nested at most 64 deep/));
  assert.throws(() => new NativeTrainer('{}', 5), argument(/options: expected a string, got 5/));
  assert.throws(() => new NativeTrainer('{}', '{"device":1}'), argument(/options.device: expected a string, got 1/));
  for (const threads of ['-1', '1.5', '1025', '"2"', 'null'])
    assert.throws(() => new NativeTrainer('{}', `{"threads":${threads}}`), argument(/threads: .* 0 to 1024/));
  assert.throws(() => NativeTrainer('{}', '{}'), TypeError);
  assert.throws(() => CancelToken(), TypeError);

  const reject = (work, message) => assert.rejects(work, argument(message));
  const closed = new NativeTrainer(configOf(), options);
  assert.equal(closed.memory(), '{}');
  await reject(closed.step(pixelsOf(small), null, 1e-4, token()), /expected an open trainer/);
  await reject(closed.saveCheckpoint(at('x'), '{}', token()), /expected an open trainer/);
  await reject(closed.loadCheckpoint(at('x'), token()), /expected an open trainer/);
  await reject(closed.toDetector('{}'), /expected an open trainer/);
  await reject(closed.open(), /open: token: expected a CancelToken, got undefined/);
  closed.dispose();
  await assert.rejects(new NativeTrainer('{}', options).open(token()), { code: 'ERR_CONFIG' });
  await assert.rejects(new NativeTrainer(configOf(), '{"device":"abacus"}').open(token()), { code: 'ERR_OPTION' });
  await assert.rejects(new NativeTrainer(configOf(), '{"device":"cuda"}').open(token()), { code: 'ERR_DEVICE' });

  const trainer = await open(t);
  await reject(trainer.open(token()), /open already/);
  const step = (pixels, labels = null, lr = 1e-4, stop = token()) => trainer.step(pixels, labels, lr, stop);
  const good = pixelsOf(small);
  await reject(trainer.step(), /step: lr: expected a number .*, got undefined/);
  await reject(step(), /pixels: expected a Float32Array, got undefined/);
  await reject(step([1, 2]), /pixels: expected a Float32Array, got an array/);
  await reject(step(new Float64Array(512)), /expected a Float32Array, got a Float64Array/);
  await reject(step(new DataView(new ArrayBuffer(8))), /expected a Float32Array, got an object/);
  await reject(step(new Float32Array(5)), /pixels: expected 512 values \(a batch of 2\), got 5/);
  await reject(step(new Float32Array(new SharedArrayBuffer(2048))), /got one over a SharedArrayBuffer/);
  const detached = pixelsOf(small);
  structuredClone(detached, { transfer: [detached.buffer] });
  await reject(step(detached), /ArrayBuffer is detached/);
  const shrunk = new ArrayBuffer(2048, { maxByteLength: 2048 });
  const view = new Float32Array(shrunk);
  shrunk.resize(4);
  await reject(step(view), /expected 512 values .*, got 1/);
  await reject(trainer.step(good, undefined, 1e-4, token()), /labels: expected an Int32Array, got undefined/);
  await reject(step(good, new Int32Array(3)), /labels: expected 2 labels, got 3/);
  for (const lr of [Number.NaN, -1, Infinity, '1', null, 1n])
    await reject(step(good, null, lr), /lr: expected a number from 0/);
  for (const stop of [null, {}, Object.create(addon.CancelToken.prototype), trainer])
    await reject(step(good, null, 1e-4, stop), /token: expected a CancelToken/);
  const disguised = Object.setPrototypeOf(new NativeTrainer('{}', '{}'), addon.CancelToken.prototype);
  await reject(step(good, null, 1e-4, disguised), /token: expected a CancelToken/);

  await reject(trainer.saveCheckpoint(), /path: expected a string/);
  await reject(trainer.saveCheckpoint('', '{}', token()), /path: expected the name of a file, got an empty string/);
  await reject(trainer.saveCheckpoint('a\0b', '{}', token()), /NUL/);
  await reject(trainer.saveCheckpoint(at('x'), 'no', token()), /metadata: expected JSON/);
  await reject(trainer.saveCheckpoint(at('x'), '{}', 1), /token: expected a CancelToken, got 1/);
  await reject(trainer.loadCheckpoint(7, token()), /path: expected a string, got 7/);
  await reject(trainer.loadCheckpoint('x'), /token/);
  await reject(trainer.toDetector(), /config: expected a string/);
  const missing = at('no/such/folder/file');
  await assert.rejects(trainer.loadCheckpoint(missing, token()), { code: 'ERR_FILE_READ' });
  await assert.rejects(trainer.saveCheckpoint(missing, '{}', token()), { code: 'ERR_FILE_WRITE' });
  const broken = pixelsOf(small).fill(Number.NaN);
  await assert.rejects(step(broken), { code: 'ERR_NUMERIC' });
  assert.equal((await step(good)).step, 1, 'nothing of the above has moved the trainer');
  assert.throws(() => trainer.step.call({}, good, null, 1e-4, token()), TypeError);
});

test('rejects bad arguments of the detector, of loadDetector and of verify', async (t) => {
  const reject = (work, message) => assert.rejects(work, argument(message));
  await reject(addon.loadDetector(), /path: expected a string, got undefined/);
  await reject(addon.loadDetector('x', '{}'), /token: expected a CancelToken/);
  await reject(addon.loadDetector('x', 'null', token()), /options: expected a JSON object, got a JSON null/);
  await assert.rejects(addon.loadDetector(at('none'), options, token()), { code: 'ERR_FILE_READ' });
  await assert.rejects(addon.loadDetector(file, options, token()), { code: 'ERR_MODEL_FORMAT' });
  await reject(addon.verify(), /path: expected a string/);
  await reject(addon.verify('x', '{"backbone":5}', token()), /options.backbone: expected a string, got 5/);
  await reject(addon.verify('x', '{}', {}), /token: expected a CancelToken, got an object/);
  await assert.rejects(addon.verify(at('none'), options, token()), { code: 'ERR_FILE_READ' });

  const detector = await openDetector(t);
  assert.throws(() => new detector.constructor(), argument(/use loadDetector/));
  const score = (change, stop = token()) => detector.score({ ...grayImage(), ...change }, stop);
  await reject(detector.score(), /token: expected a CancelToken/);
  for (const image of [undefined, null, 5, 'x', () => 1])
    await reject(detector.score(image, token()), /score: image: expected an object/);
  for (const [name, max] of [
    ['width', 2 ** 31],
    ['height', 2 ** 31],
    ['channels', 5],
  ]) {
    for (const value of [undefined, null, 0, -1, 1.5, Number.NaN, '16', max])
      await reject(score({ [name]: value }), new RegExp(`image.${name}: expected an integer from 1 to`));
  }
  for (const name of ['outWidth', 'outHeight', 'label'])
    for (const value of [null, -1, 0.5, '1'])
      await reject(score({ [name]: value }), new RegExp(`image.${name}: expected an integer from 0 to`));
  await reject(score({ width: 2 ** 30, height: 2 ** 30 }), /at most 268435456 pixels, got 1073741824 x 1073741824/);
  await reject(score({ outWidth: 2 ** 30, outHeight: 2 ** 30 }), /map: expected at most 268435456 pixels/);
  await reject(score({ data: new Uint8Array(9) }), /data: expected 256 values \(16 x 16 pixels of 1\), got 9/);
  for (const data of [undefined, [1], new ArrayBuffer(256), new Int8Array(256), new Uint8ClampedArray(256)])
    await reject(score({ data }), /data: expected a Uint8Array, Uint16Array or Float32Array, got/);
  await reject(score({ data: new Uint8Array(new SharedArrayBuffer(256)) }), /SharedArrayBuffer/);
  const detached = new Uint8Array(256);
  structuredClone(detached, { transfer: [detached.buffer] });
  await reject(score({ data: detached }), /detached/);
  await assert.rejects(score({ channels: 3, data: new Uint8Array(768) }), { code: 'ERR_IMAGE' });

  const thrown = new RangeError('from a getter');
  const withGetter = (name, get) => Object.defineProperty(grayImage(), name, { get });
  for (const value of [thrown, 7]) {
    const trap = withGetter('height', () => {
      throw value;
    });
    await assert.rejects(detector.score(trap, token()), (error) => error === value);
  }
  const sly = withGetter('label', () => {
    structuredClone(sly.data, { transfer: [sly.data.buffer] });
  });
  await reject(detector.score(sly, token()), /detached/);

  await reject(detector.setConfig(5), /config: expected a string, got 5/);
  await assert.rejects(detector.setConfig('{}'), { code: 'ERR_CONFIG' });
  await reject(detector.save(), /path: expected a string/);
  await reject(detector.save(at('x'), '"x"', token()), /config: expected a JSON object, got a JSON string/);
  await assert.rejects(detector.save(at('no/folder/x'), '{}', token()), { code: 'ERR_FILE_WRITE' });
  assert.ok(Number.isFinite((await score({})).score));
});
