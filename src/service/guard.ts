// Who is let in: requests that are meant for this service, come from its own page or from a program, and have the token.
import { createHash, timingSafeEqual } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { ServiceError, StartError } from './errors.js';
import { plainAddress } from './limits.js';

/** The name or address in a Host header, as URLs write it; undefined where it is none. */
function hostnameOf(authority: string): string | undefined {
  if (!/^(\[[\da-f:.]+\]|[^\s:/?#@\\[\]]+)(:\d{1,5})?$/i.test(authority)) return undefined;
  try {
    return new URL(`http://${authority}`).hostname.replace(/\.$/, '');
  } catch {
    return undefined;
  }
}

/** An address as it stands in a URL. */
export const urlHost = (address: string): string => (address.includes(':') ? `[${address}]` : address);

const isLoopbackName = (name: string): boolean =>
  name === 'localhost' || name === '[::1]' || /^127(\.\d+){3}$/.test(name);

/**
 * A page of another site can make its name lead to this machine (DNS rebinding); it cannot change the name that its browser
 * sends. An address cannot be made to lead elsewhere: that at which the connection has come in is always right.
 */
function checkHost({ headers, raw }: FastifyRequest, names: ReadonlySet<string>): void {
  const { host } = headers;
  if (host === undefined || (raw.headersDistinct['host']?.length ?? 0) > 1) {
    throw new ServiceError(
      'ERR_REQUEST',
      `host: expected one Host header, got ${host === undefined ? 'none' : 'several'}`,
    );
  }
  const name = hostnameOf(host);
  const local = plainAddress(raw.socket.localAddress);
  if (name !== undefined && (isLoopbackName(name) || names.has(name) || name === hostnameOf(urlHost(local)))) return;
  const expected = 'expected localhost, the address listened on or a name that --allow-host allows';
  throw new ServiceError('ERR_FORBIDDEN', `host: ${expected}, got "${host.slice(0, 100)}"`);
}

/** Browsers say which site a request comes from. Programs say nothing, and other sites cannot keep browsers from it. */
function checkSite({ headers, method, routeOptions }: FastifyRequest): void {
  const { host, origin, 'sec-fetch-site': site, 'sec-fetch-mode': mode } = headers;
  if (origin !== undefined) {
    const originUrl = URL.canParse(origin) ? new URL(origin) : undefined;
    if (
      !originUrl ||
      !/^https?:$/.test(originUrl.protocol) ||
      originUrl.host !== new URL(`${originUrl.protocol}//${host}`).host
    ) {
      throw new ServiceError('ERR_FORBIDDEN', `origin: expected that of this service, got "${origin.slice(0, 100)}"`);
    }
  }
  if (site === undefined || site === 'same-origin' || site === 'none') return;
  // A link to the page is harmless: it says nothing of itself and does nothing.
  if (routeOptions.url === '/' && ['GET', 'HEAD'].includes(method) && mode === 'navigate') return;
  throw new ServiceError('ERR_FORBIDDEN', `sec-fetch-site: expected same-origin, got "${site.slice(0, 100)}"`);
}

/** A name that an operator allows. */
function nameOf(host: string): string {
  const name = hostnameOf(host) ?? hostnameOf(urlHost(host));
  if (name === undefined || name.includes('*'))
    throw new StartError('allowHosts', `expected names such as parts.example, got "${host}"`);
  return name;
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

export interface Guard {
  /** Refuses what is not meant for this service or comes from another site. */
  checkSender(request: FastifyRequest): void;
  /** Whether the request brings the token, or needs none; throws where it brings another. */
  hasToken(request: FastifyRequest): boolean;
  /** Refuses a request without the token, unless its route is open to all. */
  checkToken(request: FastifyRequest): void;
}

/** `hosts` are names beside those of the loopback interface. */
export function createGuard({ hosts, token }: { hosts: readonly string[]; token: string | undefined }): Guard {
  const names = new Set(hosts.map(nameOf));
  const expected = token === undefined ? undefined : digest(token);

  function hasToken({ headers: { authorization } }: FastifyRequest): boolean {
    if (!expected) return true;
    if (authorization === undefined) return false;
    const [, given] = /^Bearer +(\S+) *$/i.exec(authorization) ?? [];
    // Digests have one length, whatever was given, and tell nothing of the token by how long they take to compare.
    if (given !== undefined && timingSafeEqual(digest(given), expected)) return true;
    throw new ServiceError('ERR_TOKEN', 'authorization: expected "Bearer" and the token of this service, got another');
  }

  return {
    checkSender(request) {
      checkHost(request, names);
      checkSite(request);
    },
    hasToken,
    checkToken(request) {
      if (hasToken(request) || request.routeOptions.config?.open) return;
      throw new ServiceError('ERR_TOKEN', 'authorization: expected "Bearer" and the token of this service, got none');
    },
  };
}
