// Errors as clients see them: JSON of { code, message } with a fitting status.

const statuses = {
  ERR_REQUEST: 400,
  ERR_FORBIDDEN: 403,
  ERR_NOT_FOUND: 404,
  ERR_TOO_LARGE: 413,
  ERR_MEDIA_TYPE: 415,
  ERR_IMAGE: 422,
  ERR_OPTION: 422,
  ERR_ABORTED: 499, // nobody reads it
  ERR_BUSY: 503,
  ERR_CLOSING: 503,
  ERR_DISPOSED: 503,
};

/** An error whose message is meant for the client. */
export class ServiceError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Limits of the multipart parser that are no matter of bytes. */
const formLimits = {
  FST_FILES_LIMIT: 'expected one image, got several files',
  FST_FIELDS_LIMIT: 'the form has too many fields',
  FST_PARTS_LIMIT: 'the form has too many parts',
};

/** The error as the client is told of it; what is not meant for it becomes ERR_INTERNAL. */
function publicError({ code, message, statusCode }) {
  // The detector has one code for all images that it refuses; this one names the option that refused it.
  if (code === 'ERR_MEMORY' && message.includes('memoryBudget')) return new ServiceError('ERR_TOO_LARGE', message);
  if (code === 'ERR_IMAGE' && message.includes('(limitInputPixels)')) return new ServiceError('ERR_TOO_LARGE', message);
  if (Object.hasOwn(statuses, code)) return new ServiceError(code, message);
  if (Object.hasOwn(formLimits, code)) return new ServiceError('ERR_REQUEST', formLimits[code]);
  if (statusCode === 413) return new ServiceError('ERR_TOO_LARGE', 'the upload is larger than the service accepts');
  if (statusCode === 415) {
    const expected = 'expected a form (multipart/form-data), an image (image/*) or JSON (application/json)';
    return new ServiceError('ERR_MEDIA_TYPE', expected);
  }
  if (statusCode >= 400 && statusCode < 500) return new ServiceError('ERR_REQUEST', message);
  return new ServiceError('ERR_INTERNAL', 'the service failed; its log says why');
}

/** Fastify's error handler. */
export function answerError(error, request, reply) {
  const { code, message } = publicError(error);
  const status = statuses[code] ?? 500;
  if (status === 500) request.log.error(error);
  if (status === 503) reply.header('retry-after', '1');
  reply.code(status).type('application/json').send({ code, message });
}
