// Errors as clients see them: JSON of { code, message } with a fitting status.
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';

const statuses: Record<string, number> = {
  ERR_REQUEST: 400,
  ERR_TOKEN: 401,
  ERR_FORBIDDEN: 403,
  ERR_NOT_FOUND: 404,
  ERR_TIMEOUT: 408,
  ERR_TOO_LARGE: 413,
  ERR_MEDIA_TYPE: 415,
  ERR_IMAGE: 422,
  ERR_OPTION: 422,
  ERR_LIMIT: 429,
  ERR_ABORTED: 499, // nobody reads it
  ERR_BUSY: 503,
  ERR_CLOSING: 503,
  ERR_DISPOSED: 503,
};

/** An error whose message is meant for the client. */
export class ServiceError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** An option with which the service does not start. */
export class StartError extends Error {
  readonly option: string;
  /** The message without the option. */
  readonly reason: string;

  constructor(option: string, reason: string) {
    super(`${option}: ${reason}`);
    this.option = option;
    this.reason = reason;
  }
}

/** Of every answer: it is kept nowhere, taken for nothing else, shown in no other page, and loads nothing. */
export const safeHeaders = {
  'x-content-type-options': 'nosniff',
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'cross-origin-resource-policy': 'same-origin',
};

/** Limits of the multipart parser that are no matter of bytes. */
const formLimits: Record<string, string> = {
  FST_FILES_LIMIT: 'expected one image, got several files',
  FST_FIELDS_LIMIT: 'the form has too many fields',
  FST_PARTS_LIMIT: 'the form has too many parts',
};

/** The error as the client is told of it; what is not meant for it becomes ERR_INTERNAL. */
function publicError({ code, message, statusCode = 500 }: FastifyError): ServiceError {
  // The detector has one code for all images that it refuses; this one names the option that refused it.
  if (code === 'ERR_MEMORY' && message.includes('memoryBudget')) return new ServiceError('ERR_TOO_LARGE', message);
  if (code === 'ERR_IMAGE' && message.includes('(limitInputPixels)')) return new ServiceError('ERR_TOO_LARGE', message);
  if (Object.hasOwn(statuses, code)) return new ServiceError(code, message);
  if (Object.hasOwn(formLimits, code)) return new ServiceError('ERR_REQUEST', String(formLimits[code]));
  if (statusCode === 413) return new ServiceError('ERR_TOO_LARGE', 'the upload is larger than the service accepts');
  if (statusCode === 415) {
    const expected = 'expected a form (multipart/form-data), an image (image/*) or JSON (application/json)';
    return new ServiceError('ERR_MEDIA_TYPE', expected);
  }
  if (statusCode >= 400 && statusCode < 500) return new ServiceError('ERR_REQUEST', message);
  return new ServiceError('ERR_INTERNAL', 'the service failed; its log says why');
}

/** Fastify's error handler. */
export function answerError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const { code, message } = publicError(error);
  const status = statuses[code] ?? 500;
  if (status === 500) request.log.error(error);
  if (status === 503 || status === 429) void reply.header('retry-after', '1');
  if (status === 401) void reply.header('www-authenticate', 'Bearer');
  void reply.code(status).type('application/json').send({ code, message });
}

/** Answers where there is no request to answer to, and closes the connection. */
export function answerRaw(socket: Socket, status: number, code: string, message: string): void {
  const body = JSON.stringify({ code, message });
  const headers: Record<string, string | number> = {
    ...safeHeaders,
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    connection: 'close',
    ...((status === 503 || status === 429) && { 'retry-after': '1' }),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  if (socket.writable) socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`);
  socket.destroySoon();
}

interface ParserError extends Error {
  code?: string;
  reason?: string;
}

/** What Node's parser refuses, before there is a request. */
export function answerParserError(error: ParserError, given: Duplex): void {
  const socket = given as Socket;
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    answerRaw(socket, 408, 'ERR_TIMEOUT', 'the request did not arrive in time');
  } else if (error.code === 'HPE_HEADER_OVERFLOW') {
    answerRaw(socket, 431, 'ERR_REQUEST', 'the head of the request is larger than 16 kB');
  } else if (error.code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW') {
    answerRaw(socket, 413, 'ERR_TOO_LARGE', 'the extensions of a chunk are larger than 16 kB');
  } else {
    answerRaw(socket, 400, 'ERR_REQUEST', `the request cannot be read: ${error.reason ?? error.message}`);
  }
}
