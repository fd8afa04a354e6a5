// What a request to score asks for: an image by upload or by path, and options.
import type { Multipart } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import { ServiceError } from './errors.js';
import { readImageFile } from './images-folder.js';
import type { Lease } from './limits.js';
import { collect } from './upload.js';

type Fields = Record<string, unknown>;

export interface RequestOptions {
  product?: string | undefined;
  threshold?: number;
}

/** An encoded image and what its client asks for. */
export interface ScoreRequest extends RequestOptions {
  image: Buffer;
}

/** What a request to score may bring, and where its bytes count. */
export interface ReadLimits {
  images: string | undefined;
  maxUpload: number;
  lease: Lease;
}

function refuse(message: string): never {
  throw new ServiceError('ERR_REQUEST', message);
}

/** The options among the fields of a query, a form or a JSON body. */
function optionsOf({ product, threshold, ...others }: Fields): RequestOptions {
  for (const name of Object.keys(others)) refuse(`unknown field "${name}"; expected image, product, threshold`);
  if (product !== undefined && typeof product !== 'string') refuse('product: expected one name');
  if (threshold === undefined) return { product };
  const number = typeof threshold === 'string' && threshold.trim() !== '' ? Number(threshold) : threshold;
  if (typeof number !== 'number' || !Number.isFinite(number))
    refuse(`threshold: expected one number, got ${JSON.stringify(threshold)}`);
  return { product, threshold: number };
}

/** Errors of Fastify have a code and a status; those of the parser behind it have neither: the form is at fault. */
function formError(error: NodeJS.ErrnoException): never {
  if (error.code !== undefined) throw error;
  refuse(`the form cannot be read: ${error.message}`);
}

/** How long a body says that it is. */
export const announced = ({ headers: { 'content-length': length } }: FastifyRequest): number | undefined =>
  length === undefined ? length : Number(length);

async function* partsOf(request: FastifyRequest): AsyncGenerator<Multipart> {
  try {
    yield* request.parts();
  } catch (error) {
    formError(error as Error);
  }
}

async function readForm(request: FastifyRequest, { maxUpload, lease }: ReadLimits): Promise<ScoreRequest> {
  const fields: Fields = {};
  let image: Buffer | undefined;
  for await (const part of partsOf(request)) {
    const { fieldname: name } = part;
    if (part.type === 'file') {
      if (name === 'image') {
        image = await collect(part.file, lease, maxUpload, announced(request)).catch(formError);
      } else {
        part.file.resume(); // the rest of the request is behind it
        refuse(`expected the file in the field "image", got it in "${name}"`);
      }
    } else {
      if (name === 'image') refuse('expected the field "image" to be a file, got text');
      if (Object.hasOwn(fields, name)) refuse(`${name}: given twice`);
      if (part.valueTruncated) refuse(`${name}: too long`);
      fields[name] = part.value;
    }
  }
  if (!image) refuse('expected a file in the field "image", got none');
  return { image, ...optionsOf({ ...(request.query as Fields), ...fields }) };
}

async function readJson(request: FastifyRequest, { images, maxUpload, lease }: ReadLimits): Promise<ScoreRequest> {
  const { body, query } = request;
  if (body === null || typeof body !== 'object' || Array.isArray(body)) refuse('expected a JSON object with a "path"');
  const { path, ...fields } = body as Fields;
  const options = optionsOf({ ...(query as Fields), ...fields });
  return { image: await readImageFile(images, path, maxUpload, lease), ...options };
}

/** Resolves to what the request asks for, the image encoded; its bytes count in `limits.lease`. */
export async function readRequest(request: FastifyRequest, limits: ReadLimits): Promise<ScoreRequest> {
  if (request.isMultipart()) return readForm(request, limits);
  if (Buffer.isBuffer(request.body)) return { image: request.body, ...optionsOf(request.query as Fields) };
  if (request.body === undefined) throw new ServiceError('ERR_MEDIA_TYPE', 'expected an image, got an empty request');
  return readJson(request, limits);
}
