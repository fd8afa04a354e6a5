// Who may use how much at once: connections, requests and bytes, of one client and of all together.
import { BlockList, isIP, type Socket } from 'node:net';
import { answerRaw, ServiceError, StartError } from './errors.js';

/** IPv4 also where a socket for both kinds writes it as IPv6. */
export const plainAddress = (address = ''): string => address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');

/** What counts as one client: an IPv4 address, or a network of IPv6 (/64), which a single machine has for itself. */
export function clientOf(address: string | undefined): string {
  const plain = plainAddress(address);
  if (isIP(plain) !== 6) return plain;
  const [head = [], tail = []] = plain.split('::').map((side) => (side === '' ? [] : side.split(':')));
  const zeros = plain.includes('::') ? Array<string>(Math.max(0, 8 - head.length - tail.length)).fill('0') : [];
  return `${[...head, ...zeros, ...tail].slice(0, 4).join(':')}::/64`;
}

export type IsListed = (address: string | undefined) => boolean;

/** Whether an address is one of a list such as ['127.0.0.1', '10.0.0.0/8'], which `option` has. */
export function addressList(entries: readonly string[], option: string): IsListed {
  const list = new BlockList();
  for (const entry of entries) {
    const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(entry) ?? [];
    const kind = isIP(address);
    const width = kind === 4 ? 32 : 128;
    if (kind === 0 || Number(bits ?? width) > width) {
      throw new StartError(option, `expected addresses such as 127.0.0.1 or 10.0.0.0/8, got "${entry}"`);
    }
    list.addSubnet(address, Number(bits ?? width), kind === 4 ? 'ipv4' : 'ipv6');
  }
  return (given) => {
    const address = plainAddress(given);
    const kind = isIP(address);
    return kind !== 0 && list.check(address, kind === 4 ? 'ipv4' : 'ipv6');
  };
}

/** Something of which there is only so much, for all clients and for each. */
class Quota {
  readonly max: number;
  readonly maxPerClient: number;
  #used = 0;
  readonly #usedBy = new Map<string, number>();

  constructor(max: number, maxPerClient: number) {
    this.max = max;
    this.maxPerClient = maxPerClient;
  }

  get used(): number {
    return this.#used;
  }

  /** Takes some, or says whose share is used up: `client` or `all`. */
  take(client: string, amount: number): 'client' | 'all' | undefined {
    const ofClient = (this.#usedBy.get(client) ?? 0) + amount;
    if (ofClient > this.maxPerClient) return 'client';
    if (this.#used + amount > this.max) return 'all';
    this.#usedBy.set(client, ofClient);
    this.#used += amount;
    return undefined;
  }

  give(client: string, amount: number): void {
    this.#used -= amount;
    const ofClient = (this.#usedBy.get(client) ?? 0) - amount;
    if (ofClient > 0) this.#usedBy.set(client, ofClient);
    else this.#usedBy.delete(client);
  }
}

/** What one request holds of the limits, until it is over for its client and for the service. */
export class Lease {
  readonly #limits: Limits;
  readonly #client: string;
  #holders = 0;
  #held = 0;

  constructor(limits: Limits, client: string) {
    this.#limits = limits;
    this.#client = client;
  }

  /** Takes bytes; throws ERR_BUSY where there is no room for them. */
  grow(bytes: number): void {
    const { uploads } = this.#limits;
    if (bytes > uploads.maxPerClient) {
      throw new ServiceError('ERR_TOO_LARGE', `expected at most ${uploads.maxPerClient} bytes, got ${bytes}`);
    }
    const full = uploads.take(this.#client, bytes);
    if (full === 'client') {
      throw new ServiceError('ERR_BUSY', `this client's images have more than ${uploads.maxPerClient} bytes together`);
    }
    if (full) throw new ServiceError('ERR_BUSY', `images of more than ${uploads.max} bytes are being taken in`);
    this.#held += bytes;
  }

  shrink(bytes: number): void {
    this.#limits.uploads.give(this.#client, bytes);
    this.#held -= bytes;
  }

  /** Whether all has been given back. */
  get over(): boolean {
    return this.#holders === 0;
  }

  /** Keeps it until the function that is returned is called, once; the last one gives all back. */
  hold(): () => void {
    this.#holders += 1;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#holders -= 1;
      if (this.#holders > 0) return;
      this.shrink(this.#held);
      this.#limits.requests.give(this.#client, 1);
    };
  }
}

export interface RequestLimits {
  maxRequests: number;
  maxClientRequests: number;
  uploadMemory: number;
}

export interface ConnectionLimits {
  maxConnections: number;
  maxClientConnections: number;
}

/** The limits on requests that bring an image, and on what these have in memory. */
export class Limits {
  readonly requests: Quota;
  readonly uploads: Quota;

  constructor({ maxRequests, maxClientRequests, uploadMemory }: RequestLimits) {
    this.requests = new Quota(maxRequests, maxClientRequests);
    // Half for one client, so that no client alone can keep all others out.
    this.uploads = new Quota(uploadMemory, Math.floor(uploadMemory / 2));
  }

  /** Takes a place for a request; throws ERR_LIMIT or ERR_BUSY. */
  lease(address: string | undefined): Lease {
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

interface OpenConnection {
  client: string;
  requests: number;
}

/**
 * The connections that are open. Where there is no room for another, the one that has been without a request for the longest
 * time is closed: whoever opens many and sends nothing closes his own first, and locks nobody out.
 */
export class Connections {
  /** Longest without a request first. */
  readonly #open = new Map<Socket, OpenConnection>();
  readonly #limits: ConnectionLimits;
  readonly #isProxy: IsListed;
  #refused = 0;

  constructor(limits: ConnectionLimits, isProxy: IsListed) {
    this.#limits = limits;
    this.#isProxy = isProxy;
  }

  get open(): number {
    return this.#open.size;
  }

  /** Those that were closed for want of room. */
  get refused(): number {
    return this.#refused;
  }

  /** For a server's event `connection`, before its own listener. */
  admit(socket: Socket): void {
    const { maxConnections, maxClientConnections } = this.#limits;
    const client = clientOf(socket.remoteAddress);
    const ofClient = this.#isProxy(socket.remoteAddress)
      ? []
      : [...this.#open].filter(([, entry]) => entry.client === client);
    if (!this.#makeRoom(ofClient, maxClientConnections) || !this.#makeRoom([...this.#open], maxConnections)) {
      this.#refuse(socket);
      return;
    }
    this.#open.set(socket, { client, requests: 0 });
    socket.once('close', () => this.#open.delete(socket));
  }

  #makeRoom(open: readonly [Socket, OpenConnection][], max: number): boolean {
    if (open.length < max) return true;
    const [idle] = open.find(([, { requests }]) => requests === 0) ?? [];
    if (!idle) return false;
    this.#open.delete(idle);
    this.#refuse(idle);
    return true;
  }

  #refuse(socket: Socket): void {
    this.#refused += 1;
    // Whoever has had an answer knows that a connection may end; others would not know what has become of their request.
    if (socket.bytesWritten > 0) socket.destroy();
    else answerRaw(socket, 503, 'ERR_BUSY', 'more connections are open than may be');
  }

  /** Marks a connection as one with a request; the function that is returned ends that. */
  enter(socket: Socket): () => void {
    const entry = this.#open.get(socket);
    if (!entry) return () => undefined;
    entry.requests += 1;
    return () => {
      entry.requests -= 1;
      if (this.#open.delete(socket)) this.#open.set(socket, entry); // now the last that has had a request
    };
  }
}
