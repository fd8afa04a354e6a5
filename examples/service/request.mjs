// What a request to score asks for: an image by upload or by path, and options.
import { ServiceError } from './errors.mjs';
import { readImageFile } from './images-folder.mjs';
import { collect } from './upload.mjs';

function refuse(message) {
  throw new ServiceError('ERR_REQUEST', message);
}

/** The options among the fields of a query, a form or a JSON body. */
function optionsOf({ product, threshold, ...others }) {
  for (const name of Object.keys(others)) refuse(`unknown field "${name}"; expected image, product, threshold`);
  if (product !== undefined && typeof product !== 'string') refuse('product: expected one name');
  if (threshold === undefined) return { product };
  const number = typeof threshold === 'string' && threshold.trim() !== '' ? Number(threshold) : threshold;
  if (!Number.isFinite(number)) refuse(`threshold: expected one number, got ${JSON.stringify(threshold)}`);
  return { product, threshold: number };
}

/** Errors of Fastify have a code and a status; those of the parser behind it have neither: the form is at fault. */
function formError(error) {
  if (error.code !== undefined) throw error;
  refuse(`the form cannot be read: ${error.message}`);
}

/** How long a body says that it is. */
export const announced = ({ headers: { 'content-length': length } }) =>
  length === undefined ? length : Number(length);

async function* partsOf(request) {
  try {
    yield* request.parts();
  } catch (error) {
    formError(error);
  }
}

async function readForm(request, { maxUpload, lease }) {
  const fields = {};
  let image;
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
  return { image, ...optionsOf({ ...request.query, ...fields }) };
}

async function readJson(request, { images, maxUpload, lease }) {
  const { body, query } = request;
  if (body === null || typeof body !== 'object' || Array.isArray(body)) refuse('expected a JSON object with a "path"');
  const { path, ...fields } = body;
  const options = optionsOf({ ...query, ...fields });
  return { image: await readImageFile(images, path, maxUpload, lease), ...options };
}

/** Resolves to { image, product, threshold }, the image encoded; its bytes count in `limits.lease`. */
export async function readRequest(request, limits) {
  if (request.isMultipart()) return readForm(request, limits);
  if (Buffer.isBuffer(request.body)) return { image: request.body, ...optionsOf(request.query) };
  if (request.body === undefined) throw new ServiceError('ERR_MEDIA_TYPE', 'expected an image, got an empty request');
  return readJson(request, limits);
}
