// The documents: their links and pictures lead somewhere, in the repository and where the package is installed.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { before, test } from 'node:test';
import { capture, root } from '../../scripts/lib/run.mjs';

const posix = path.posix;
const read = (file) => fs.readFileSync(path.join(root, file), 'utf8');
const filesIn = (folder) =>
  fs
    .readdirSync(path.join(root, folder), { recursive: true })
    .filter((name) => !/(^|\/)node_modules\//.test(name))
    .map((name) => posix.join(folder, name));
const written = ['docs', 'bench', 'examples', 'packages', 'test'].flatMap(filesIn);
const documents = [...fs.readdirSync(root), ...written].filter((file) => file.endsWith('.md'));
let shipped;

before(() => {
  const npm = process.env.npm_execpath?.endsWith('.js') ? [process.execPath, process.env.npm_execpath] : ['npm'];
  const { code, output } = capture(npm[0], [...npm.slice(1), 'pack', '--dry-run', '--json', '--ignore-scripts']);
  assert.equal(code, 0, output);
  shipped = new Set(Object.values(JSON.parse(output.slice(output.search(/^[[{]/m))))[0].files.map((file) => file.path));
});

/** Without code, in which brackets are no links. */
const prose = (text) => text.replace(/^( {0,3})(```|~~~)[^]*?^\1\2/gm, '').replace(/(`+)[^]*?\1/g, '');

/** The links and pictures of a document that are not on the web, with what they lead to: a file and a heading in it. */
function linksOf(document) {
  return [...prose(read(document)).matchAll(/(!?)\[(?:[^\]\\]|\\.)*\]\(([^()\s]+)\)/g)]
    .filter(([, , target]) => !/^(https?|mailto):/.test(target))
    .map(([, picture, target]) => {
      const [file, heading] = decodeURI(target).split('#');
      const to = file === '' ? document : posix.normalize(posix.join(posix.dirname(document), file));
      return { target, to, heading, picture: picture === '!' };
    });
}

/** The names by which the headings of a document are linked to, as GitHub makes them. */
function headingsOf(document) {
  const seen = new Map();
  return [...read(document).matchAll(/^#{1,6} +(.*?) *$/gm)].map(([, title]) => {
    const plain = title.replace(/[`*]/g, '').replace(/\[([^\]]*)\]\([^)]*\)/g, '$1');
    const name = plain
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-');
    const times = seen.get(name) ?? 0;
    seen.set(name, times + 1);
    return times === 0 ? name : `${name}-${times}`;
  });
}

test('every link of a document leads to a file, and to a heading that is in it', () => {
  assert.ok(documents.includes('README.md') && documents.includes('docs/api.md'), documents.join(' '));
  const dead = documents.flatMap((document) =>
    linksOf(document).flatMap(({ target, to, heading }) => {
      const there = fs.existsSync(path.join(root, to));
      const found = there && (heading === undefined || headingsOf(to).includes(heading));
      return found ? [] : [`${document}: ${target}`];
    }),
  );
  assert.deepEqual(dead, []);
});

test('the README and docs/ are in the package, and so is what documents of the package link to and show', () => {
  for (const page of documents.filter((file) => file === 'README.md' || file.startsWith('docs/')))
    assert.ok(shipped.has(page), page);
  // Scripts and tests, which only somebody who changes the code looks at, stay in the repository.
  const stays = (page, to) => page !== 'README.md' && /^(bench|test)\//.test(to);
  const pages = documents.filter((file) => shipped.has(file));
  const missing = pages.flatMap((page) =>
    linksOf(page).flatMap(({ target, to, picture }) => {
      const folder = `${to.replace(/\/$/, '')}/`;
      const inPackage = shipped.has(to) || [...shipped].some((file) => file.startsWith(folder));
      return inPackage || (!picture && stays(page, to)) ? [] : [`${page}: ${target}`];
    }),
  );
  assert.deepEqual(missing, []);
});

test('the README is short, and names every page of docs/', () => {
  const text = read('README.md');
  assert.ok(text.split('\n').length <= 151, 'README.md: expected at most 150 lines');
  const linked = linksOf('README.md').map(({ to }) => to);
  const pages = documents.filter((file) => /^docs\/[^/]+\.md$/.test(file));
  for (const page of pages) assert.ok(linked.includes(page), `README.md: expected a link to ${page}`);
});

test('docs/environment.md has every environment variable that is read', () => {
  const text = read('docs/environment.md');
  const sources = ['bin', 'src', 'native', 'scripts', 'bench', 'test', 'examples', 'packages'].flatMap((folder) =>
    fs
      .readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && /\.(ts|js|mjs|cpp|h|cu)$/.test(entry.name))
      .map(({ parentPath, name }) => path.join(parentPath, name))
      .filter((file) => !file.includes('node_modules')),
  );
  const reads = /(?:process\.env(?:\.|\[')|getenv\("|environment\("|number\(")(\w+)/g;
  const names = new Set();
  for (const file of sources) for (const [, name] of fs.readFileSync(file, 'utf8').matchAll(reads)) names.add(name);
  assert.ok(names.has('DDAD_NICE') && names.has('DDAD_CONV') && names.has('DDAD_CUDA_PATH'), [...names].join(' '));
  assert.deepEqual(
    [...names].filter((name) => !text.includes(`\`${name}\``)),
    [],
  );
});
