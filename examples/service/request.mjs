// What a request to score asks for: an image by upload or by path, and options.
import { ServiceError } from './errors.mjs';
import { readImageFile } from './images-folder.mjs';

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

async function readForm(request) {
  const fields = {};
  let image;
  for await (const part of request.parts()) {
    if (part.type === 'file') {
      if (part.fieldname === 'image') {
        image = await part.toBuffer();
      } else {
        part.file.resume(); // the rest of the request is behind it
        refuse(`expected the file in the field "image", got it in "${part.fieldname}"`);
      }
    } else {
      if (part.fieldname === 'image') refuse('expected the field "image" to be a file, got text');
      if (Object.hasOwn(fields, part.fieldname)) refuse(`${part.fieldname}: given twice`);
      if (part.valueTruncated) refuse(`${part.fieldname}: too long`);
      fields[part.fieldname] = part.value;
    }
  }
  if (!image) refuse('expected a file in the field "image", got none');
  return { image, ...optionsOf({ ...request.query, ...fields }) };
}

async function readJson(request, { images, maxUpload }) {
  const { body, query } = request;
  if (body === null || typeof body !== 'object' || Array.isArray(body)) refuse('expected a JSON object with a "path"');
  const { path, ...fields } = body;
  const options = optionsOf({ ...query, ...fields });
  return { image: await readImageFile(images, path, maxUpload), ...options };
}

/** Resolves to { image, product, threshold }, the image encoded. */
export async function readRequest(request, limits) {
  if (request.isMultipart()) return readForm(request);
  if (Buffer.isBuffer(request.body)) return { image: request.body, ...optionsOf(request.query) };
  if (request.body === undefined) throw new ServiceError('ERR_MEDIA_TYPE', 'expected an image, got an empty request');
  return readJson(request, limits);
}
