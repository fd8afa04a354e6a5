// Values of every kind for calls of the addon. Arbitraries make descriptions, which shrink and print; `make` turns one
// into the value, anew for each call, since buffers get detached and objects disposed.
import fc from 'fast-check';
import { tinyConfig } from './models.mjs';

const arrayTypes = [
  Uint8Array,
  Uint8ClampedArray,
  Int8Array,
  Uint16Array,
  Int16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
];
const typeNames = [...arrayTypes.map(({ name }) => name), 'DataView', 'ArrayBuffer'];

const numbers = [0, -0, 1, 2, 3, 8, 16, 64, 0.5, -1, 255, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, 1e308, NaN, Infinity];
const strings = [
  '',
  'x',
  '{}',
  '[]',
  'null',
  '{',
  'a\0b',
  '\ud800',
  '[['.repeat(40),
  '{"device":"cpu"}',
  'forward',
  '/',
];

const number = fc.oneof(fc.constantFrom(...numbers), fc.double()).map((value) => ['value', value]);
const text = fc.oneof(fc.constantFrom(...strings), fc.string({ unit: 'binary' })).map((value) => ['value', value]);
const plain = fc
  .oneof(fc.constantFrom(undefined, null, true, false), fc.anything({ withBigInt: true, withNullPrototype: true }))
  .map((value) => ['value', value]);

/** What the getters and traps of hostile objects do. */
const behaviour = fc.constantFrom(
  'throw',
  'throw 7',
  'detach',
  'shrink',
  'dispose',
  'cancel',
  'score',
  'gc',
  'recurse',
);

export const array = (types = typeNames, lengths = fc.nat({ max: 300 })) =>
  fc
    .tuple(
      fc.constantFrom(...types),
      lengths,
      fc.oneof(
        { weight: 3, arbitrary: fc.constant('plain') },
        fc.constantFrom('shared', 'growable', 'detached', 'resizable', 'shrunk', 'tracking', 'offset'),
      ),
    )
    .map(([type, length, kind]) => ['array', type, length, kind]);

const engineObjects = [
  'detector',
  'featureDetector',
  'trainer',
  'closedTrainer',
  'disposedDetector',
  'disposedTrainer',
  'importer',
  'pixels',
];
const object = fc.constantFrom(...engineObjects).map((name) => ['object', name]);
const odd = fc.constantFrom(
  'symbol',
  'function',
  'class',
  'prototype',
  'disguised',
  'addon',
  'revoked',
  'date',
  'global',
);
const hostile = fc.oneof(
  fc.tuple(fc.constant('proxy'), behaviour),
  fc.tuple(fc.constant('getters'), behaviour),
  odd.map((what) => ['odd', what]),
);

export const anything = fc.oneof(
  number,
  text,
  plain,
  array(),
  object,
  hostile,
  fc.constantFrom(['token'], ['cancelled']),
);
/** The right kind of value most of the time. */
const mostly = (good, weight = 6) => fc.oneof({ weight, arbitrary: good }, { weight: 1, arbitrary: anything });

export const token = mostly(fc.constantFrom(['token'], ['token'], ['token'], ['cancelled']), 12);
const size = fc.constantFrom(1, 2, 7, 8, 9, 16).map((value) => ['value', value]);
const imageField = {
  data: mostly(
    fc.oneof(
      {
        weight: 5,
        arbitrary: array(['Uint8Array', 'Uint16Array', 'Float32Array'], fc.constantFrom(64, 64, 64, 128, 0)),
      },
      fc.constant(['object', 'pixels']),
    ),
    12,
  ),
  width: mostly(fc.constant(['value', 8]), 12),
  height: mostly(fc.constant(['value', 8]), 12),
  channels: mostly(fc.constant(['value', 1]), 12),
};
const optionalField = { outWidth: mostly(size), outHeight: mostly(size), label: mostly(number), residuals: plain };
const sly = fc.record({ name: fc.constantFrom(...Object.keys({ ...imageField, ...optionalField })), behaviour });
export const image = mostly(
  fc
    .tuple(
      fc.record({ ...imageField, ...optionalField }, { requiredKeys: Object.keys(imageField) }),
      fc.option(sly, { freq: 4 }),
    )
    .map(([fields, trap]) => ['image', fields, trap]),
);

/** Arrays, one of whose elements has a getter now and then. */
const list = (element) =>
  mostly(
    fc
      .tuple(fc.array(element, { minLength: 1, maxLength: 4 }), fc.option(behaviour, { freq: 4 }))
      .map(([elements, trap]) => ['list', elements, trap]),
  );
export const images = list(image);
export const tokens = list(token);

// Changes that the engine must refuse or take without asking for more than a little memory.
const change = fc.tuple(
  fc.constantFrom('unet', 'diffusion', 'input', 'score', 'training', 'features', 'calibration'),
  fc.constantFrom(
    'modelChannels',
    'channelMult',
    'numClasses',
    'steps',
    'size',
    'scales',
    'batchSize',
    'strides',
    'tile',
  ),
  fc.constantFrom(-1, 0, 1, 2, 4, 31, 33, 1e18, '1', null, [], [1], [2, 4], [0], {}, [1e9], true),
);
export const config = mostly(
  fc.tuple(fc.boolean(), fc.option(change, { freq: 3 })).map(([features, what]) => ['config', features, what]),
);
const engine = fc.constantFrom(
  '{}',
  '{"threads":1}',
  '{"device":"cpu","threads":2}',
  '{"device":"cuda"}',
  '{"threads":-1}',
);
export const options = mostly(engine.map((value) => ['value', value]));
export const trainerOptions = mostly(fc.constantFrom(['backbone'], ['backbone'], ['value', '{"threads":1}']));
export const path = mostly(
  fc.constantFrom('model', 'features', 'checkpoint', 'backbone', 'none', '.').map((name) => ['path', name]),
);
export const choice = mostly(fc.boolean().map((value) => ['value', value]));
export const inspection = mostly(
  fc
    .constantFrom(
      '{}',
      '{"prefix":"ema."}',
      '{"dropLabels":true}',
      '{"unet":{"imageSize":32,"numHeads":2}}',
      '{"unet":7}',
    )
    .map((value) => ['value', value]),
);
export const savePath = mostly(fc.constantFrom('saved', 'no/folder', '.').map((name) => ['path', name]));
export const measured = mostly(
  fc.constantFrom('forward', 'backward', 'pass', 'sideways').map((value) => ['value', value]),
);
export const repetition = mostly(
  fc
    .constantFrom('{"threads":1,"batch":1,"samples":1,"seconds":0}', '{"batch":0}', '{}')
    .map((value) => ['value', value]),
);
export const exported = mostly(
  fc
    .constantFrom(
      '{}',
      '{"graph":"score"}',
      '{"graph":"score","width":32,"height":16,"ownNoise":false}',
      '{"graph":"score","config":{"unet":{}},"label":3}',
      '{"external":true,"head":false}',
      '{"graph":"poem"}',
    )
    .map((value) => ['value', value]),
);
export const floats = mostly(array(['Float32Array'], fc.constantFrom(64, 64, 64, 0, 63, 20)), 10);
export const labels = mostly(fc.oneof(fc.constant(['value', null]), array(['Int32Array'], fc.constantFrom(1, 0, 2))));
export const rate = mostly(fc.constantFrom(0, 1e-4, 1, -1).map((value) => ['value', value]));
export const label = mostly(fc.constantFrom(0, 0, 1, 2 ** 30).map((value) => ['value', value]));
export const count = mostly(fc.constantFrom(1, 1, 2, 0, 2 ** 30).map((value) => ['value', value]));

function bufferOf(bytes, kind) {
  if (kind === 'shared') return new SharedArrayBuffer(bytes);
  if (kind === 'growable') return new SharedArrayBuffer(bytes, { maxByteLength: bytes + 64 });
  if (kind === 'resizable' || kind === 'shrunk' || kind === 'tracking')
    return new ArrayBuffer(bytes, { maxByteLength: bytes + 64 });
  return new ArrayBuffer(bytes);
}

function makeArray([, name, length, kind]) {
  const Type = globalThis[name];
  const unit = Type.BYTES_PER_ELEMENT ?? 1;
  const before = kind === 'offset' ? 8 : 0;
  const buffer = bufferOf(length * unit + before, kind);
  if (Type === ArrayBuffer) return buffer;
  const tracking = kind === 'tracking' || kind === 'growable';
  const made = tracking ? new Type(buffer) : new Type(buffer, before, length);
  if (kind === 'detached') structuredClone(buffer, { transfer: [buffer] });
  if (kind === 'shrunk') buffer.resize(Math.floor(buffer.byteLength / 2));
  return made;
}

function makeConfig([, features, what]) {
  const made = tinyConfig(features);
  if (what) {
    const [part, field, value] = what;
    made[part] = made[part] === null || made[part] === undefined ? value : { ...made[part], [field]: value };
  }
  return JSON.stringify(made);
}

/** Makes values for one run; `world` holds the objects of the engine and what hostile code has thrown. */
export function maker(world) {
  const act = (what, made) => {
    if (what === 'throw') throw world.thrown(new RangeError('from a getter'));
    if (what === 'throw 7') throw world.thrown(7);
    const buffer = what === 'detach' || what === 'shrink' ? made.data?.buffer : undefined;
    try {
      if (what === 'detach' && buffer) structuredClone(buffer, { transfer: [buffer] });
      if (what === 'shrink' && buffer?.resizable) buffer.resize(1);
    } catch {
      // shared, or detached already
    }
    if (what === 'dispose') world.victim?.dispose?.();
    if (what === 'cancel') world.lastToken?.cancel();
    if (what === 'gc') globalThis.gc?.();
    if (what === 'score') world.detector.score({}, world.newToken()).catch(() => {});
    if (what === 'recurse' && world.depth++ < 3) world.detector.score(made, world.newToken()).catch(() => {});
    return undefined;
  };

  const hostileProxy = (what) => {
    const handler = {};
    for (const trap of Object.getOwnPropertyNames(Reflect))
      handler[trap] = (...args) => act(what, {}) ?? Reflect[trap](...args);
    return new Proxy(function () {}, handler);
  };

  const oddValue = (what) => {
    const { addon } = world;
    if (what === 'symbol') return Symbol('odd');
    if (what === 'function') return () => 1;
    if (what === 'class') return class extends addon.CancelToken {};
    if (what === 'prototype') return addon.CancelToken.prototype;
    if (what === 'disguised') return Object.setPrototypeOf(new addon.CancelToken(), addon.NativeTrainer.prototype);
    if (what === 'addon') return addon;
    if (what === 'date') return new Date(NaN);
    if (what === 'global') return globalThis;
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  };

  const make = (description) => {
    const [kind, value, more] = description;
    if (kind === 'value') return value;
    if (kind === 'array') return makeArray(description);
    if (kind === 'token' || kind === 'cancelled') {
      const made = world.newToken();
      if (kind === 'cancelled') made.cancel();
      return made;
    }
    if (kind === 'object') return world[value];
    if (kind === 'list') {
      const made = value.map(make);
      const get = () => {
        if (more === 'shrink') made.length = 1;
        return act(more, made);
      };
      return more === null ? made : Object.defineProperty(made, made.length - 1, { get, configurable: true });
    }
    if (kind === 'config') return makeConfig(description);
    if (kind === 'path') return world.path(value);
    if (kind === 'backbone') return JSON.stringify({ threads: 1, backbone: world.path('backbone') });
    if (kind === 'odd') return oddValue(value);
    if (kind === 'proxy') return hostileProxy(value);
    if (kind === 'getters') {
      const made = {};
      for (const name of ['data', 'width', 'valueOf', 'toString', 'then', 'constructor', 'length'])
        Object.defineProperty(made, name, { get: () => act(value, {}), configurable: true });
      return made;
    }
    const made = {};
    for (const [name, field] of Object.entries(value)) made[name] = make(field);
    if (more) {
      const old = made[more.name];
      let inside = false;
      const get = () => {
        if (inside) return old; // what the getter does may read it
        inside = true;
        try {
          return act(more.behaviour, made) ?? old;
        } finally {
          inside = false;
        }
      };
      Object.defineProperty(made, more.name, { get, enumerable: true, configurable: true });
    }
    return made;
  };
  return make;
}
