// What provokes the errors of the command line and of baselines: by code, then by the message as docs/errors.md has it.
import history from '../../dist/bench/history.js';
import { at, changed, cli, file, good, json, model, parts, plain } from './kit.mjs';
import { run } from '../helpers/common.mjs';

const train = (...more) => cli(['train', parts, '--out', at('never.safetensors'), ...more]);
const score = (...more) => cli(['score', model, good, ...more]);
const serve = (...more) => cli(['serve', model, ...more]);

export const usage = {
  ERR_USAGE: {
    'expected a command: <commands>; see ddad-native --help': () => cli([]),
    'unknown command "<word>"': () => cli(['trian']),
    'unknown option "--<word>"': () => train('--stps', '3'),
    'unexpected argument "<word>"; expected "ddad-native <usage>"': () => train('more'),
    'expected "ddad-native <usage>"': () => cli(['score', model]),
    'expected --<option>, which is required; see ddad-native <command> --help': () => cli(['train', parts]),
    '--<option>: given twice': () => train('--steps', '1', '--steps', '2'),
    '--<option>: expected a value, got nothing': [() => score('--threshold'), () => score('--out', '')],
    '--<option>: expected <choices>, got "<word>"': () => train('--preset', 'huge'),
    '--<option>: expected a number, got "<text>"': () => train('--steps', 'many'),
    '--<option>: expected numbers such as 5,50,100, got "<text>"': () => train('--scales', '5;50'),
    '--<option>: expected a duration such as 30s, 5m or 1h30m, got "<text>"': () => train('--time-limit', '5 parsecs'),
    '--top-pixels: expected a number such as 64 or a share such as 50%, got "<text>"': () =>
      train('--top-pixels', 'all'),
    '--<option>: expected a number of images, got "<text>"': [
      () => cli(['evaluate', model, parts, '--limit-report', '1.5']),
      () => cli(['evaluate', model, parts, '--reconstructions', '-1']),
    ],
    '--fail-on-anomaly: the model has no threshold; give one with --threshold': async () =>
      cli(['score', await changed(plain, ({ config }) => (config.threshold = null)), good, '--fail-on-anomaly']),
    "--fail-on-anomaly: a model's threshold holds for its own score alone; give one with --threshold": () =>
      score('--fail-on-anomaly', '--score', 'pixel'),
    'suite: expected <suites>, got "<word>"': () => cli(['bench', 'opps']),
    '--<option>: expected a whole number from <n> to <n>, got "<text>"': [
      () => cli(['bench', 'ops', '--rounds', '0']),
      () => train('--evidence', '-1'),
      () => train('--memory-bank', '1.5'),
    ],
    '--max-regression: expected a percentage such as 5%, got "<text>"': () =>
      cli(['bench', 'ops', '--max-regression', 'much']),
    '--<option>: expected a size in B, kB, MB or GB such as 50MB, got "<text>"': [
      () => score('--memory-budget', '2GiB'),
      () => cli(['serve', model, '--max-upload', 'much']),
      () => cli(['serve', model, '--max-upload', '0']),
    ],
    '--images: expected a folder, got "<text>"': () => cli(['serve', model, '--images', model]),
    'expected --onnx or --safetensors, the file to write': () => cli(['export', model]),
    '--<option>: goes with --onnx only': () => cli(['export', model, '--safetensors', at('w'), '--graph', 'score']),
    '--<option>: expected another file than --out, got "<file>"': [
      () => train('--metrics', at('never.safetensors')),
      () => train('--checkpoint', at('never.safetensors')),
    ],
    '--size: expected a width and height such as 256x192, got "<text>"': [
      () => cli(['export', model, '--onnx', at('w'), '--size', 'large']),
      () => cli(['export', model, '--onnx', at('w'), '--size', '0x4']),
    ],
    // An address for documentation, which no machine has.
    '--host, --port: cannot listen there: <reason>': () => cli(['serve', model, '--host', '203.0.113.7', '--insecure']),
    '--host: <host> can be reached from other machines, which needs a token (--token-file), or --insecure where something else keeps strangers away':
      () => serve('--host', '0.0.0.0'),
    '--token-file: cannot be read: <reason>': () => serve('--token-file', at('nowhere')),
    '--token-file: expected a regular file, got <file>': () => serve('--token-file', '/dev/null'),
    '--token-file: expected at most 1024 bytes, got <n>': async () =>
      serve('--token-file', await file('x'.repeat(1025))),
    '--token-file: expected one line of at least 16 letters, digits and - . _ ~ + / =, such as "openssl rand -hex 32" prints':
      [
        async () => serve('--token-file', await file('short')),
        async () => serve('--token-file', await file(`${'a'.repeat(16)}\n${'b'.repeat(16)}`)),
      ],
    '--allow-host: expected names such as parts.example, got "<text>"': () => serve('--allow-host', 'http://a.example'),
    '--trust-proxy: expected addresses such as 127.0.0.1 or 10.0.0.0/8, got "<text>"': [
      () => serve('--trust-proxy', 'proxy.example'),
      () => serve('--trust-proxy', '127.0.0.1,10.0.0.0/33'),
    ],
    '--upload-memory: expected at least <n> bytes, two of the largest images, got <n>': () =>
      serve('--upload-memory', '1MB'),
    '--<option>: expected at most 24h, got "<text>"': () => serve('--request-timeout', '25h'),
  },
};

const quick = ['--quick', '--threads', '1', '--rounds', '1'];
const measured = at('measured.json');
await run(['bench', 'unet', ...quick, '--json', measured]);
const document = await json(measured);
const compared = async (value, suite = 'unet') => {
  const baseline = await file(typeof value === 'string' ? value : JSON.stringify(value), 'json');
  await cli(['bench', suite, ...quick, '--compare', baseline]);
};

export const baseline = {
  ERR_BASELINE: {
    '<file>: expected measurements written by "bench --json", got <what>': [
      () => compared(''),
      () => compared('ops 3'),
    ],
    '<file>: expected measurements of format version 1, got <version>': () =>
      compared({ ...document, formatVersion: 2 }),
    '<file>: not measurements of "bench --json": <reason>': () => compared({ score: 1 }),
    '<file>: was measured elsewhere: expected <what>, got <what> (--force compares nevertheless)': () =>
      compared({ ...document, processor: 'Z80' }),
    '<file>: line <n> is not JSON': async () => history.readHistory(await file('{\n{}\n')),
    '<file>: line <n>: <reason>': async () => history.readHistory(await file('{}\n')),
    'expected measurements of <suites>, got those of <suites>': async () => {
      const measurements = document.measurements.map((one) => ({ ...one, name: `other ${one.name}` }));
      await compared({ ...document, measurements });
    },
  },
};
