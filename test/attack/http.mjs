// What attacks on a service share: connections that send what no HTTP library would, and what must come of it.
import assert from 'node:assert/strict';
import net from 'node:net';

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A connection to a service; `answer` is what has come back, `closed` resolves when it has been closed. */
export function connect(url, options = {}) {
  const { hostname, port } = new URL(url);
  const socket = net.connect({ host: hostname.replace(/[[\]]/g, ''), port: Number(port), ...options });
  const connection = { socket, answer: '', open: true };
  socket.setEncoding('latin1').on('data', (text) => {
    if (connection.answer.length < 1_000_000) connection.answer += text;
  });
  socket.on('error', () => undefined);
  connection.closed = new Promise((resolve) =>
    socket.on('close', () => {
      connection.open = false;
      resolve();
    }),
  );
  connection.send = (text) =>
    new Promise((resolve) => {
      if (socket.destroyed) return resolve();
      const drained = socket.write(text);
      if (drained) return resolve();
      socket.once('drain', resolve);
      return void connection.closed.then(resolve);
    });
  /** Waits for an answer or the end of the connection; false where neither comes in time. */
  connection.over = async (ms) => {
    for (let waited = 0; waited < ms; waited += 20) {
      if (connection.answer || !connection.open) return true;
      await pause(20);
    }
    return false;
  };
  return connection;
}

/** Status and JSON of an answer as it has come over a connection. */
export function parse(answer) {
  const [head, body = ''] = answer.split('\r\n\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]);
  try {
    return { status, body: JSON.parse(body) };
  } catch {
    return { status, body };
  }
}

/** Status, headers and JSON (or text) of a request. */
export async function ask(url, place, options) {
  const response = await fetch(`${url}${place}`, { ...options, signal: AbortSignal.timeout(30_000) });
  const text = await response.text();
  const json = response.headers.get('content-type')?.startsWith('application/json');
  return { status: response.status, headers: response.headers, body: json ? JSON.parse(text) : text };
}

/** The head of an upload as the image alone. */
export const uploadHead = (url, bytes, more = '') =>
  `POST /score HTTP/1.1\r\nhost: ${new URL(url).host}\r\ncontent-type: image/png\r\ncontent-length: ${bytes}\r\n${more}\r\n`;

export const authorize = ({ token }) => (token === undefined ? {} : { authorization: `Bearer ${token}` });
export const headOf = (service) =>
  Object.entries(authorize(service))
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('');
export const upload = async (service, image, headers = {}) =>
  ask(service.url, '/score', {
    method: 'POST',
    body: image,
    headers: { 'content-type': 'image/png', ...authorize(service), ...headers },
  });

/** The service does what it is there for, within a time. */
export async function mustServe(service, image, withinMs = 15_000) {
  const begin = performance.now();
  const { status, body } = await upload(service, image);
  const ms = performance.now() - begin;
  assert.equal(status, 200, JSON.stringify(body));
  assert.ok(ms < withinMs, `a good image took ${Math.round(ms)} ms`);
  return `a good image took ${Math.round(ms)} ms`;
}

/** What comes back to a text over a connection of its own; a connection that is closed instead is an answer as well. */
export async function send(url, text, options) {
  const connection = connect(url, options);
  await connection.send(text);
  assert.ok(await connection.over(15_000), `no answer to ${JSON.stringify(text.slice(0, 60))}`);
  connection.socket.destroy();
  return connection.answer === '' ? { status: 'closed' } : parse(connection.answer);
}

/** An answer of 4xx or 503 as JSON with a code, or a connection that was closed. */
export function mustRefuse({ status, body }, what) {
  if (status === 'closed') return;
  assert.ok((status >= 400 && status < 500) || status === 503, `${what}: ${status}`);
  assert.match(String(body.code), /^ERR_/, `${what}: ${JSON.stringify(body)}`);
}
