// What the tests of the service share: requests of all kinds, also slow ones, and a strict reader of metrics.
import http from 'node:http';
import net from 'node:net';
import { createApp } from 'ddad-native/service';

/** The service with that detector on a free port, until the test ends; requests and their JSON answers. */
export async function startApp(t, detector, options, host = '127.0.0.1') {
  const app = await createApp(detector, options);
  const url = await app.listen({ port: 0, host });
  t.after(async () => {
    app.server.closeAllConnections();
    await app.close();
  });
  return { app, ...client(url) };
}

export function client(url) {
  /** Status, headers and JSON of a request's answer. */
  const ask = async (path, options) => {
    const response = await fetch(`${url}${path}`, options);
    return { status: response.status, headers: response.headers, body: await response.json() };
  };
  return {
    url,
    ask,
    upload: (image, fields, headers) => ask('/score', { method: 'POST', body: form(image, fields), headers }),
    byPath: (path, fields) => {
      const headers = { 'content-type': 'application/json' };
      return ask('/score', { method: 'POST', headers, body: JSON.stringify({ path, ...fields }) });
    },
    metrics: async () => readExposition(await (await fetch(`${url}/metrics`)).text()),
  };
}

/** A form with an image and other fields before it. */
export function form(bytes, fields = {}, name = 'image') {
  const data = new FormData();
  for (const [field, value] of Object.entries(fields)) data.append(field, value);
  data.append(name, new Blob([bytes]), 'part.png');
  return data;
}

/**
 * Resolves when the service has read what was sent before on other connections. `write` only says that the kernel took
 * it. The first request is accepted after those connections, the second answered one turn of the event loop later.
 */
async function hasRead(url) {
  for (let request = 0; request < 2; request++) await raw(url, 'GET /no-such-page HTTP/1.1\r\nhost: localhost\r\n\r\n');
}

/**
 * An upload of which the first half is sent, on a connection that could be used again; `finish` sends the rest and
 * resolves to status, headers and JSON.
 */
export async function halfUpload(url, bytes, fields) {
  const encoded = new Response(form(bytes, fields));
  const body = Buffer.from(await encoded.arrayBuffer());
  const headers = { 'content-type': encoded.headers.get('content-type'), 'content-length': body.length };
  const agent = new http.Agent({ keepAlive: true });
  const request = http.request(`${url}/score`, { method: 'POST', headers, agent });
  const answered = new Promise((resolve, reject) => {
    request.on('error', reject).on('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => (text += part));
      const { statusCode: status, headers } = response;
      response.on('error', reject).on('end', () => resolve({ status, headers, body: JSON.parse(text) }));
    });
  });
  answered.catch(() => undefined); // looked at later, or not at all
  const half = body.length >> 1;
  await new Promise((resolve) => request.write(body.subarray(0, half), resolve));
  await hasRead(url);
  return {
    answered,
    finish: () => {
      request.end(body.subarray(half));
      return answered;
    },
  };
}

/** A request of which the last line of the head is missing; `finish` sends it and resolves to all that comes back. */
export async function halfHead(url, path) {
  const { hostname, port, host } = new URL(url);
  const socket = net.connect(Number(port), hostname);
  let text = '';
  socket.setEncoding('utf8').on('data', (part) => (text += part));
  const ended = new Promise((resolve, reject) => socket.on('error', reject).on('close', () => resolve(text)));
  await new Promise((resolve) => socket.write(`GET ${path} HTTP/1.1\r\nhost: ${host}\r\n`, resolve));
  await hasRead(url);
  return {
    finish: () => {
      socket.write('\r\n');
      return ended;
    },
  };
}

/** Sends text as it is; resolves to status, headers and body of the first answer, or to `closed` where there is none. */
export async function raw(url, text, { end = false } = {}) {
  const { hostname, port } = new URL(url);
  const socket = net.connect(Number(port), hostname.replace(/[[\]]/g, ''));
  let answer = '';
  socket.setEncoding('utf8').on('error', () => undefined);
  const closed = new Promise((resolve) => socket.on('close', resolve));
  if (end) socket.end(text);
  else socket.write(text);
  const complete = new Promise((resolve) => {
    socket.on('data', (part) => {
      answer += part;
      const [head, body] = answer.split('\r\n\r\n');
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1]);
      if (body !== undefined && Buffer.byteLength(body) >= length) resolve();
    });
  });
  await Promise.race([complete, closed]);
  socket.destroy();
  if (answer === '') return { closed: true };
  const [head, body] = answer.split('\r\n\r\n');
  const [first, ...lines] = head.split('\r\n');
  const headers = new Headers(lines.map((line) => line.split(/: ?(.*)/s).slice(0, 2)));
  const json = headers.get('content-type')?.startsWith('application/json');
  return { status: Number(first.split(' ')[1]), headers, body: json ? JSON.parse(body) : body };
}

/** Whether nothing listens there any more. */
export const isClosed = (url) =>
  fetch(`${url}/healthz`).then(
    () => false,
    ({ cause }) => cause?.code === 'ECONNREFUSED',
  );

const metricName = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const label = '([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\\\\n]|\\\\["\\\\n])*)"';
const sampleLine = new RegExp(`^(${metricName})(?:\\{(${label}(?:,${label})*)?\\})? (\\S+)$`);

/** The metric to which a sample of that name belongs: those of a histogram or summary have endings. */
function familyOf(name, families) {
  const base = name.replace(/_(bucket|sum|count)$/, '');
  const type = families.get(base)?.type;
  return name !== base && (type === 'histogram' || type === 'summary') ? base : name;
}

function checkHistogram(name, samples) {
  const rows = new Map();
  for (const { name: own, labels, value } of samples) {
    const { le, ...others } = labels;
    const key = JSON.stringify(others);
    const row = rows.get(key) ?? rows.set(key, { buckets: [] }).get(key);
    if (own === `${name}_bucket`) row.buckets.push([le === '+Inf' ? Infinity : Number(le), value]);
    else row[own.slice(name.length + 1)] = value;
  }
  for (const { buckets, count, sum } of rows.values()) {
    const rises = buckets.every(([le, n], i) => i === 0 || (le > buckets[i - 1][0] && n >= buckets[i - 1][1]));
    const [last, all] = buckets.at(-1) ?? [];
    if (!rises || last !== Infinity || all !== count || sum === undefined) throw new Error(`${name}: not a histogram`);
  }
}

/**
 * Reads Prometheus' text format (0.0.4), or throws where it is broken. Returns a function that finds a sample's value by
 * name and labels; undefined where there is none.
 */
export function readExposition(text) {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const families = new Map();
  const seen = new Set();
  let current;
  for (const line of text.slice(0, -1).split('\n')) {
    if (line === '') continue;
    const [, kind, name, rest] = new RegExp(`^# (HELP|TYPE) (${metricName}) (.+)$`).exec(line) ?? [];
    if (kind) {
      const family = families.get(name) ?? { samples: [] };
      if (family[kind] || family.samples.length > 0) throw new Error(`${name}: ${kind} a second time or too late`);
      family[kind] = rest;
      if (kind === 'TYPE') family.type = rest;
      if (kind === 'TYPE' && !/^(counter|gauge|histogram|summary|untyped)$/.test(rest)) throw new Error(line);
      families.set(name, family);
      current = name;
      continue;
    }
    const found = sampleLine.exec(line);
    if (!found) throw new Error(`not a sample: ${line}`);
    const [sample, value] = [found[1], found.at(-1)];
    const labels = Object.fromEntries([...(found[2] ?? '').matchAll(new RegExp(label, 'g'))].map(([, k, v]) => [k, v]));
    const family = familyOf(sample, families);
    if (family !== current || !families.get(family).type) throw new Error(`${sample}: apart from its TYPE`);
    const key = keyOf(sample, labels);
    if (seen.has(key)) throw new Error(`${key}: a second time`);
    seen.add(key);
    const number = { '+Inf': Infinity, '-Inf': -Infinity, NaN: Number.NaN }[value] ?? Number(value);
    if (Number.isNaN(number) && value !== 'Nan' && value !== 'NaN') throw new Error(`not a number: ${line}`);
    if (families.get(family).type === 'counter' && !(number >= 0)) throw new Error(`a counter below 0: ${line}`);
    families.get(family).samples.push({ name: sample, labels, value: number });
  }
  for (const [name, { type, samples }] of families) if (type === 'histogram') checkHistogram(name, samples);
  const values = new Map(
    [...families.values()].flatMap((family) => family.samples.map((one) => [keyOf(one.name, one.labels), one.value])),
  );
  return (name, labels = {}) => values.get(keyOf(name, labels));
}

function keyOf(name, labels) {
  return name + JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
}
