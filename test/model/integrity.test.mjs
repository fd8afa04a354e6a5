// Digests and signatures of models: what is damaged or not signed is refused, whatever rewrites a model renews them.
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { copyFile, cp, mkdir, readdir, readFile, rename, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import {
  checkModel,
  Detector,
  exportOnnx,
  exportSafetensors,
  importModel,
  signModel,
  Trainer,
} from '../../dist/index.js';
import native from '../../dist/engine/native.js';
import {
  makeDataset,
  readSafetensors,
  root,
  run,
  temporaryFolder,
  tiny,
  trainTiny,
  writeSafetensors,
} from '../helpers/common.mjs';

const folder = await temporaryFolder();
const at = (name) => path.join(folder, name);
const parts = await makeDataset(at('parts'), 4);
const [model, checkpoint] = [at('model.safetensors'), at('checkpoint.safetensors')];
await trainTiny({ Trainer }, parts, model, { steps: 2 }, { checkpoint });
const { publicKey, privateKey } = generateKeyPairSync('ed25519');
const stranger = generateKeyPairSync('ed25519');
const pem = (key) => key.export({ type: key.type === 'public' ? 'spki' : 'pkcs8', format: 'pem' });
await writeFile(at('public.pem'), pem(publicKey));
await writeFile(at('private.pem'), pem(privateKey));
await writeFile(at('stranger.pem'), pem(stranger.publicKey));

async function load(file, options = {}) {
  const detector = await Detector.load(file, { threads: 1, ...options });
  after(() => detector.dispose());
  return detector;
}

const metadataOf = async (file) => (await readSafetensors(file)).header.__metadata__;

/** A copy without its digest, as an earlier version would have written it. */
async function undigested(name, from = model) {
  await writeSafetensors(at(name), await readSafetensors(from));
  return at(name);
}

async function flipped(from, bits) {
  const bytes = await readFile(from);
  for (const bit of bits) bytes[bit >> 3] ^= 1 << (bit & 7);
  await writeFile(at('flipped.safetensors'), bytes);
  return at('flipped.safetensors');
}

/** Bits spread evenly over a range of bytes. */
const spread = (begin, end, count) =>
  Array.from({ length: count }, (_, i) => 8 * (begin + Math.floor(((end - begin) * i) / count)) + (i % 8));

test('models, checkpoints and exports have a digest, and the same training gives the same bytes', async () => {
  await exportSafetensors(model, at('weights.safetensors'));
  const published = path.join(root, 'test', 'fixtures', 'checkpoints', 'unet-zip.pt.gz');
  await writeFile(at('published.pt'), gunzipSync(await readFile(published)));
  await importModel(at('published.pt'), at('imported.safetensors'), { backbone: null });
  for (const file of [model, checkpoint, at('weights.safetensors'), at('imported.safetensors')]) {
    const found = await checkModel(file);
    assert.match(found.digest, /^[0-9a-f]{32}$/);
    assert.deepEqual([found.signature, found.signatureKey, found.content], ['none', null, null]);
  }
  await trainTiny({ Trainer }, parts, at('again.safetensors'), { steps: 2 });
  assert.deepEqual(await readFile(at('again.safetensors')), await readFile(model));
  assert.deepEqual((await load(model)).warnings, []);
});

test('400 flipped bits in header and weights are all refused', async () => {
  const bytes = await readFile(model);
  const dataStart = 8 + Number(bytes.readBigUInt64LE());
  const bits = [...spread(0, dataStart, 200), ...spread(dataStart, bytes.length, 200)];
  const accepted = [];
  for (const bit of bits) {
    const file = await flipped(model, [bit]);
    await Detector.load(file, { threads: 1 }).then(
      (detector) => {
        detector.dispose();
        accepted.push(bit);
      },
      (error) => assert.equal(error.code, 'ERR_MODEL_FORMAT', `bit ${bit}: ${error.message}`),
    );
  }
  assert.deepEqual(accepted, []);
});

test('the error of a damaged model names both digests, whatever else is wrong with it', async () => {
  const bytes = await readFile(model);
  const { digest } = await metadataOf(model);
  const words = new RegExp(
    `expected the digest ${digest}, which it was written with, got [0-9a-f]{32}: the file is damaged`,
  );
  await assert.rejects(load(await flipped(model, [8 * (bytes.length - 3)])), words);
  // a weight becomes NaN, a number of the calibration another
  const exponent = [...Array(8).keys()].map((i) => 8 * (bytes.length - 4) + 23 + i);
  await assert.rejects(load(await flipped(model, exponent)), words);
  const quantile = bytes.indexOf('quantile') + 14;
  await assert.rejects(load(await flipped(model, [8 * quantile])), words);
});

test('damaged checkpoints, bases of training and exports are refused', async () => {
  const bytes = await readFile(checkpoint);
  const damaged = await flipped(checkpoint, [8 * (bytes.length - 3)]);
  const fit = async (options, fitOptions) => {
    const trainer = new Trainer({ ...tiny, steps: 3, ...options });
    for await (const progress of trainer.fit(parts, fitOptions)) void progress;
  };
  const refused = { code: 'ERR_MODEL_FORMAT', message: /expected the digest/ };
  await assert.rejects(fit({}, { resume: damaged }), refused);
  await assert.rejects(exportSafetensors(damaged, at('out.safetensors')), refused);
  await copyFile(model, at('base.safetensors'));
  const base = await flipped(model, [8 * ((await readFile(model)).length - 3)]);
  await assert.rejects(fit({ unet: undefined, init: base }, {}), refused);
  await assert.rejects(exportOnnx(base, at('out.onnx')), refused);
  await assert.rejects(checkModel(base), refused);
});

test('a model of an earlier version loads with a warning, once, and gets a digest when it is written anew', async () => {
  const file = await undigested('old.safetensors');
  const detector = await load(file);
  assert.equal(detector.warnings.length, 1);
  assert.match(detector.warnings[0], /has no digest/);
  await assert.rejects(checkModel(file), { code: 'ERR_MODEL_FORMAT', message: /has no digest to compare it with/ });
  await detector.save(at('renewed.safetensors'));
  assert.deepEqual(await readFile(at('renewed.safetensors')), await readFile(model));
  const image = path.join(parts, 'test', 'bad', '00.png');
  const { stderr, code } = await run(['score', file, image, image, '--threads', '1']);
  assert.equal(code, 0, stderr);
  assert.equal(stderr.split('warning: ').length, 2, stderr);
});

test('a signed model is taken with its key, and by whoever asks for none', async () => {
  const signed = at('signed.safetensors');
  const found = await signModel(model, { key: privateKey, out: signed });
  assert.match(found.content, /^[0-9a-f]{64}$/);
  assert.equal((await metadataOf(signed)).config, (await metadataOf(model)).config);
  const [one, other] = [await load(signed, { trustedKey: pem(publicKey) }), await load(signed)];
  const image = path.join(parts, 'test', 'bad', '00.png');
  assert.equal((await one.score(image)).score, (await other.score(image)).score);
  assert.equal((await checkModel(signed)).signature, 'unchecked');
  assert.equal((await checkModel(signed, { trustedKey: publicKey })).signature, 'valid');
  // signing is reproducible, and signing what is signed replaces the signature
  const again = await signModel(signed, { key: pem(privateKey), out: at('again.safetensors') });
  assert.deepEqual(again.content, found.content);
  assert.deepEqual(await readFile(at('again.safetensors')), await readFile(signed));
  const old = await signModel(await undigested('old-signed.safetensors'), { key: privateKey });
  assert.equal(old.content, found.content);
});

test('a model that is replaced while it is signed is signed as it was verified', async () => {
  const [file, out] = [at('raced.safetensors'), at('raced-signed.safetensors')];
  await copyFile(model, file);
  await trainTiny({ Trainer }, parts, at('other.safetensors'), { steps: 3 });
  const engine = native.addon();
  const { fileDigest } = engine;
  // right after the first look at its digest
  engine.fileDigest = async (...args) => {
    engine.fileDigest = fileDigest;
    const found = await fileDigest.apply(engine, args);
    await rename(at('other.safetensors'), file);
    return found;
  };
  const found = await signModel(file, { key: privateKey, out }).finally(() => (engine.fileDigest = fileDigest));
  const clean = await signModel(model, { key: privateKey, out: at('clean-signed.safetensors') });
  assert.deepEqual([found.content, found.digest], [clean.content, clean.digest]);
  assert.deepEqual(await readFile(out), await readFile(at('clean-signed.safetensors')));
  const left = (await readdir(folder)).filter((name) => name.startsWith('.'));
  assert.deepEqual(left, []);
});

test('files of other kinds are called what they are', async () => {
  const weights = at('named-weights.safetensors');
  await exportSafetensors(model, weights);
  const sums = [model, checkpoint, weights].map(async (file) => (await checkModel(file)).kind);
  assert.deepEqual(await Promise.all(sums), ['model', 'checkpoint', 'weights']);
  for (const [file, what] of [
    [checkpoint, 'a checkpoint'],
    [weights, 'weights'],
  ]) {
    const refused = { code: 'ERR_MODEL_FORMAT', message: `${file}: expected a model, got ${what}` };
    await assert.rejects(signModel(file, { key: privateKey }), refused);
    await assert.rejects(Detector.load(file), refused);
    const { stderr } = await run(['info', file]);
    assert.equal(stderr, `ddad-native: ERR_MODEL_FORMAT: ${refused.message}\n`);
    const { stdout } = await run(['info', file, '--check']);
    assert.match(stdout, new RegExp(`^kind: ${what.replace('a ', '')}$`, 'm'));
  }
});

test('a file that is cut off is told in the same words, whoever reads it', async () => {
  const bytes = await readFile(model);
  for (const length of [0, 5, 500, bytes.length - 1000]) {
    const file = at(`cut-${length}.safetensors`);
    await writeFile(file, bytes.subarray(0, length));
    const { message } = await Detector.load(file).catch((error) => error);
    assert.match(message, /expected (a safetensors file|a header|\d+ bytes of data)/);
    for (const look of [() => checkModel(file), () => signModel(file, { key: privateKey })])
      await assert.rejects(look, { code: 'ERR_MODEL_FORMAT', message });
  }
});

test('what the trusted key has not signed is refused', async () => {
  const signed = at('signed-2.safetensors');
  await signModel(model, { key: privateKey, out: signed });
  const refused = (file, why, key = publicKey) =>
    assert.rejects(load(file, { trustedKey: key }), { code: 'ERR_SIGNATURE', message: why });
  await refused(model, /expected a signature of the trusted key [0-9a-f]{16}, got none/);
  await refused(checkpoint, /got none/);
  await refused(signed, /got one of [0-9a-f]{16}/, stranger.publicKey);
  // the signature of another content: the header of one model before the weights of another, digest and all
  const { header, data } = await readSafetensors(signed);
  const forge = async (change) => {
    change(header.__metadata__);
    const text = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(text.length));
    await writeFile(at('forged.safetensors'), Buffer.concat([prefix, text, data]));
    return at('forged.safetensors');
  };
  const { signature } = header.__metadata__;
  await refused(
    await forge((own) => (own.config = own.config.replace('"threshold":', '"threshold":1'))),
    /expected the content that was signed, [0-9a-f]{64}, got [0-9a-f]{64}/,
  );
  await refused(await forge((own) => (own.signature = `${'0'.repeat(64)}${signature.slice(64)}`)), /not valid/);
  await refused(await forge((own) => (own.signature = signature.slice(1))), /not valid/);
  // keys that are none
  for (const trustedKey of [
    'no key',
    pem(generateKeyPairSync('x25519').publicKey),
    pem(privateKey),
    pem(privateKey).slice(0, 40),
  ]) {
    await assert.rejects(load(signed, { trustedKey }), { code: 'ERR_OPTION', message: /public Ed25519 key/ });
  }
  await assert.rejects(signModel(model, { key: pem(publicKey) }), {
    code: 'ERR_OPTION',
    message: /private Ed25519 key/,
  });
  await assert.rejects(signModel(checkpoint, { key: privateKey }), { code: 'ERR_MODEL_FORMAT' });
});

test('whatever rewrites a signed model drops its signature and says so', async () => {
  const signed = at('signed-3.safetensors');
  await signModel(model, { key: privateKey, out: signed });
  const detector = await load(signed, { trustedKey: publicKey });
  await detector.save(at('saved.safetensors'));
  assert.match(detector.warnings.at(-1), /the signature is dropped/);
  assert.deepEqual(await readFile(at('saved.safetensors')), await readFile(model));
  // over one that is there
  const trainer = new Trainer({ ...tiny, steps: 2 });
  for await (const progress of trainer.fit(parts)) void progress;
  await trainer.save(signed);
  assert.ok(trainer.warnings.some((warning) => /the signature is dropped/.test(warning)));
  trainer.dispose();
  assert.deepEqual(await readFile(signed), await readFile(model));
});

test('the command line signs, checks, and refuses', async () => {
  const signed = at('cli.safetensors');
  const image = path.join(parts, 'test', 'bad', '00.png');
  const ok = async (...args) => {
    const { code, stdout, stderr } = await run([...args, '--json']);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };
  await ok('sign', model, '--key', at('private.pem'), '--out', signed);
  assert.equal((await ok('info', signed, '--check', '--trusted-key', at('public.pem'))).signature, 'valid');
  assert.equal((await ok('info', model, '--check')).signature, 'none');
  assert.ok((await ok('score', signed, image, '--trusted-key', at('public.pem'), '--threads', '1')).score);
  for (const args of [
    ['score', signed, image, '--trusted-key', at('stranger.pem')],
    ['score', model, image, '--trusted-key', at('public.pem')],
    ['evaluate', model, parts, '--trusted-key', at('public.pem')],
    ['serve', model, '--port', '0', '--trusted-key', at('public.pem')],
    ['info', model, '--check', '--trusted-key', at('public.pem')],
  ]) {
    const { code, stderr } = await run(args);
    assert.equal(code, 1, args.join(' '));
    assert.match(stderr, /ERR_SIGNATURE/);
  }
});

test('other programs still read the files', async () => {
  const signed = at('signed-4.safetensors');
  await signModel(model, { key: privateKey, out: signed });
  for (const file of [model, signed, checkpoint]) {
    const { header, data } = await readSafetensors(file);
    const { __metadata__: metadata, ...tensors } = header;
    assert.ok(Object.values(metadata).every((value) => typeof value === 'string'));
    const ends = Object.values(tensors).map(({ data_offsets: [, end] }) => end);
    assert.equal(Math.max(...ends), data.length);
  }
});

test("the package's weights are compared with SHA256SUMS before they are taken", async () => {
  const copy = at('package');
  for (const part of ['bin', 'dist', 'weights', 'package.json'])
    await cp(path.join(root, part), path.join(copy, part), { recursive: true });
  await symlink(path.join(root, 'node_modules'), path.join(copy, 'node_modules'));
  await mkdir(path.join(copy, 'build'));
  await symlink(path.join(root, 'build', 'Release'), path.join(copy, 'build', 'Release'));
  const weights = path.join(copy, 'weights', 'efficientnet-lite0-backbone.safetensors');
  const train = () => run(['info', '--preset', 'nano', '--json'], { bin: path.join(copy, 'bin', 'ddad-native.js') });
  const good = await train();
  assert.equal(good.code, 0, good.stderr);
  const bytes = await readFile(weights);
  bytes[bytes.length - 2] ^= 1;
  await writeFile(weights, bytes);
  const { code, stderr } = await train();
  assert.equal(code, 1);
  assert.match(stderr, /ERR_MODEL_FORMAT.*expected the SHA-256 [0-9a-f]{64} of SHA256SUMS, got [0-9a-f]{64}/);
});
