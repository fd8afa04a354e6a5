import type { StoredConfig } from '../config/config.js';
import { DdadError } from '../base/errors.js';
import { didYouMean } from '../base/suggest.js';

/** What scoring needs to know of an image's product. */
export interface ProductConfig {
  /** Null where the model is of a single product. */
  name: string | null;
  /** Class of the conditional network. */
  label: number | undefined;
  calibration: StoredConfig['calibration'];
  threshold: number | null;
}

/** The products of a model, for messages. */
export const quoted = (products: readonly string[]): string => products.map((name) => `"${name}"`).join(', ');

/**
 * What a model knows of a product: a unified model needs its name, a model of a single product takes none. Throws
 * ERR_OPTION.
 */
export function productOf(config: StoredConfig, product: string | undefined): ProductConfig {
  const { products, perProduct } = config;
  const refuse = (message: string): never => {
    throw new DdadError('ERR_OPTION', `option "product": ${message}`);
  };
  if (!products) {
    const { numClasses } = config.unet;
    if (numClasses !== null) {
      refuse(
        `the network is told one of ${numClasses} classes, and its file names no products for them; import ` +
          '--drop-label-emb makes a model without them',
      );
    }
    if (product !== undefined) refuse(`the model is of a single product, expected none, got "${product}"`);
    return { name: null, label: undefined, calibration: config.calibration, threshold: config.threshold };
  }
  const expected = `expected one of the model's, ${quoted(products)}`;
  if (product === undefined) return refuse(`${expected}, got none`);
  const label = products.indexOf(product);
  if (label < 0) refuse(`${expected}, got "${product}"${didYouMean(product, products)}`);
  const productConfig = perProduct && Object.hasOwn(perProduct, product) ? perProduct[product] : undefined;
  return {
    name: product,
    label,
    calibration: productConfig?.calibration ?? null,
    threshold: productConfig?.threshold ?? null,
  };
}

/** Throws ERR_MODEL_FORMAT where the products that a model file names do not fit to the rest of its configuration. */
export function checkProducts({ products, perProduct = {}, unet }: StoredConfig, file: string): void {
  if (!products) return;
  const refuse = (why: string): never => {
    throw new DdadError('ERR_MODEL_FORMAT', `${file}: in its configuration, ${why}`);
  };
  if (new Set(products).size !== products.length) refuse('products: a product is named twice');
  if (unet.numClasses !== products.length) {
    refuse(`unet.numClasses: expected ${products.length}, a class for each product, got ${unet.numClasses}`);
  }
  const lacking = products.find((name) => !Object.hasOwn(perProduct, name));
  if (lacking !== undefined) refuse(`perProduct: expected an entry for each product, none for "${lacking}"`);
}
