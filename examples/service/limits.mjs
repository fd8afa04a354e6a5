// Who may use how much at once: connections, requests and bytes, of one client and of all together.
import { BlockList, isIP } from 'node:net';
import { answerRaw, ServiceError, StartError } from './errors.mjs';

/** IPv4 also where a socket for both kinds writes it as IPv6. */
export const plainAddress = (address = '') => address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');

/** What counts as one client: an IPv4 address, or a network of IPv6 (/64), which a single machine has for itself. */
export function clientOf(address) {
  const own = plainAddress(address);
  if (isIP(own) !== 6) return own;
  const [head, tail = ''] = own.split('::').map((side) => (side === '' ? [] : side.split(':')));
  const zeros = own.includes('::') ? Array(Math.max(0, 8 - head.length - tail.length)).fill('0') : [];
  return `${[...head, ...zeros, ...tail].slice(0, 4).join(':')}::/64`;
}

/** Whether an address is one of a list such as ['127.0.0.1', '10.0.0.0/8'], which `option` has. */
export function addressList(entries, option) {
  const list = new BlockList();
  for (const entry of entries) {
    const [, address, bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(entry) ?? [];
    const kind = isIP(address ?? '');
    const width = kind === 4 ? 32 : 128;
    if (kind === 0 || Number(bits ?? width) > width) {
      throw new StartError(option, `expected addresses such as 127.0.0.1 or 10.0.0.0/8, got "${entry}"`);
    }
    list.addSubnet(address, Number(bits ?? width), `ipv${kind}`);
  }
  return (given) => {
    const address = plainAddress(given);
    const kind = isIP(address);
    return kind !== 0 && list.check(address, `ipv${kind}`);
  };
}

/** Something of which there is only so much, for all clients and for each. */
class Quota {
  #used = 0;
  #usedBy = new Map();

  constructor(max, maxPerClient) {
    Object.assign(this, { max, maxPerClient });
  }

  get used() {
    return this.#used;
  }

  /** Takes some, or says whose share is used up: `client` or `all`. */
  take(client, amount) {
    const own = (this.#usedBy.get(client) ?? 0) + amount;
    if (own > this.maxPerClient) return 'client';
    if (this.#used + amount > this.max) return 'all';
    this.#usedBy.set(client, own);
    this.#used += amount;
    return undefined;
  }

  give(client, amount) {
    this.#used -= amount;
    const own = this.#usedBy.get(client) - amount;
    if (own > 0) this.#usedBy.set(client, own);
    else this.#usedBy.delete(client);
  }
}

/** What one request holds of the limits, until it is over for its client and for the service. */
class Lease {
  #holders = 0;
  #held = 0;

  constructor(limits, client) {
    Object.assign(this, { limits, client });
  }

  /** Takes bytes; throws ERR_BUSY where there is no room for them. */
  grow(bytes) {
    const { uploads } = this.limits;
    if (bytes > uploads.maxPerClient) {
      throw new ServiceError('ERR_TOO_LARGE', `expected at most ${uploads.maxPerClient} bytes, got ${bytes}`);
    }
    const full = uploads.take(this.client, bytes);
    if (full === 'client') {
      throw new ServiceError('ERR_BUSY', `this client's images have more than ${uploads.maxPerClient} bytes together`);
    }
    if (full) throw new ServiceError('ERR_BUSY', `images of more than ${uploads.max} bytes are being taken in`);
    this.#held += bytes;
  }

  shrink(bytes) {
    this.limits.uploads.give(this.client, bytes);
    this.#held -= bytes;
  }

  /** Whether all has been given back. */
  get over() {
    return this.#holders === 0;
  }

  /** Keeps it until the function that is returned is called, once; the last one gives all back. */
  hold() {
    this.#holders += 1;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#holders -= 1;
      if (this.#holders > 0) return;
      this.shrink(this.#held);
      this.limits.requests.give(this.client, 1);
    };
  }
}

/** The limits on requests that bring an image, and on what these have in memory. */
export class Limits {
  constructor({ maxRequests, maxClientRequests, uploadMemory }) {
    this.requests = new Quota(maxRequests, maxClientRequests);
    // Half for one client, so that no client alone can keep all others out.
    this.uploads = new Quota(uploadMemory, Math.floor(uploadMemory / 2));
  }

  /** Takes a place for a request; throws ERR_LIMIT or ERR_BUSY. */
  lease(address) {
    const client = clientOf(address);
    const full = this.requests.take(client, 1);
    if (full === 'client') {
      const { maxPerClient } = this.requests;
      throw new ServiceError('ERR_LIMIT', `this client has ${maxPerClient} requests open, which is as many as it may`);
    }
    if (full) throw new ServiceError('ERR_BUSY', `${this.requests.max} requests are open, which is as many as may be`);
    return new Lease(this, client);
  }
}

/**
 * The connections that are open. Where there is no room for another, the one that has been without a request for the longest
 * time is closed: whoever opens many and sends nothing closes his own first, and locks nobody out.
 */
export class Connections {
  /** Longest without a request first. */
  #open = new Map();
  #refused = 0;

  constructor({ maxConnections, maxClientConnections }, isProxy) {
    Object.assign(this, { maxConnections, maxClientConnections, isProxy });
  }

  get open() {
    return this.#open.size;
  }

  /** Those that were closed for want of room. */
  get refused() {
    return this.#refused;
  }

  /** For a server's event `connection`, before its own listener. */
  admit(socket) {
    const client = clientOf(socket.remoteAddress);
    const own = this.isProxy(socket.remoteAddress)
      ? []
      : [...this.#open].filter(([, entry]) => entry.client === client);
    if (!this.#makeRoom(own, this.maxClientConnections) || !this.#makeRoom([...this.#open], this.maxConnections)) {
      this.#refuse(socket);
      return;
    }
    this.#open.set(socket, { client, requests: 0 });
    socket.once('close', () => this.#open.delete(socket));
  }

  #makeRoom(open, max) {
    if (open.length < max) return true;
    const [idle] = open.find(([, { requests }]) => requests === 0) ?? [];
    if (!idle) return false;
    this.#open.delete(idle);
    this.#refuse(idle);
    return true;
  }

  #refuse(socket) {
    this.#refused += 1;
    // Whoever has had an answer knows that a connection may end; others would not know what has become of their request.
    if (socket.bytesWritten > 0) socket.destroy();
    else answerRaw(socket, 503, 'ERR_BUSY', 'more connections are open than may be');
  }

  /** Marks a connection as one with a request; the function that is returned ends that. */
  enter(socket) {
    const entry = this.#open.get(socket);
    if (!entry) return () => undefined;
    entry.requests += 1;
    return () => {
      entry.requests -= 1;
      if (this.#open.delete(socket)) this.#open.set(socket, entry); // now the last that has had a request
    };
  }
}
