import path from 'node:path';
import { listing, productFolders } from '../data/dataset.js';
import { DdadError } from '../base/errors.js';
import { decodeImage, type DecodeOptions } from '../image/decode.js';
import { inSlices } from '../base/slices.js';
import { goodName } from './metrics.js';

/** An image below `test/`. */
export interface TestImage {
  /** Path relative to the dataset, with `/`. */
  image: string;
  /** The file. */
  input: string;
  /** The file of its mask; null for good images, and where there is none. */
  mask: string | null;
  defect: string;
  product: string | null;
}

export interface TestSet {
  /** In the order of their folders and names. */
  images: TestImage[];
  /** What the figures will lack, in sentences. */
  warnings: string[];
}

/** The images of a product; the name is null where the dataset is of a single one. */
export interface TestGroup {
  product: string | null;
  images: TestImage[];
}

/** `000_mask.png` for `000.png`, or a mask of the image's own name. */
function maskOf(image: string, masks: ReadonlySet<string>): string | undefined {
  const stem = image.replace(/\.[^.]+$/, '');
  return [`${stem}_mask.png`, `${stem}.png`].find((name) => masks.has(name));
}

/**
 * The test images of a dataset in the MVTec AD layout: `test/good`, `test/<defect>` and, for pixel figures,
 * `ground_truth/<defect>`; or of each product, where the folder holds folders of products in that layout. Throws
 * ERR_DATASET.
 */
export async function findTestImages(dataset: string): Promise<{ groups: TestGroup[]; warnings: string[] }> {
  const { products, others } = await productFolders(dataset, 'test');
  if (products.length === 0) {
    const { images, warnings } = await findOwn(dataset);
    return { groups: [{ product: null, images }], warnings };
  }
  const groups: TestGroup[] = [];
  const all = others.length > 0 ? [`left out, since there is no test/ in it: ${others.join(', ')}`] : [];
  for (const product of products) {
    const { images, warnings } = await findOwn(path.join(dataset, product));
    groups.push({ product, images: images.map((one) => ({ ...one, product, image: `${product}/${one.image}` })) });
    all.push(...warnings.map((warning) => `${product}: ${warning}`));
  }
  return { groups, warnings: all };
}

async function findOwn(dataset: string): Promise<TestSet> {
  const root = await listing(dataset);
  if (!root.folders.includes('test')) {
    const folderNames = root.folders.length > 0 ? root.folders.join(', ') : 'no folders';
    throw new DdadError(
      'ERR_DATASET',
      `${dataset}: expected a folder test/ as in the MVTec AD layout, found ${folderNames}`,
    );
  }
  const test = await listing(path.join(dataset, 'test'));
  const truth = root.folders.includes('ground_truth') ? await listing(path.join(dataset, 'ground_truth')) : undefined;
  const images: TestImage[] = [];
  const warnings: string[] = [];
  if (test.images.length > 0) warnings.push(`${counted(test.images.length)} in test/ itself left out: not in a folder`);
  for (const defect of test.folders) {
    const { images: names } = await listing(path.join(dataset, 'test', defect));
    const masks = truth?.folders.includes(defect)
      ? await listing(path.join(dataset, 'ground_truth', defect))
      : undefined;
    const known = new Set(masks?.images);
    let missing = 0;
    for (const name of names) {
      const mask = defect === goodName ? undefined : maskOf(name, known);
      if (defect !== goodName && mask === undefined) missing += 1;
      images.push({
        image: ['test', defect, name].join('/'),
        input: path.join(dataset, 'test', defect, name),
        mask: mask === undefined ? null : path.join(dataset, 'ground_truth', defect, mask),
        defect,
        product: null,
      });
    }
    if (names.length === 0) warnings.push(`test/${defect} has no images`);
    if (missing > 0 && truth) {
      warnings.push(
        `${missing} of ${counted(names.length)} in test/${defect} without a mask in ground_truth/${defect}: ` +
          'in the image figures only',
      );
    }
  }
  if (images.length === 0) {
    const expected = 'expected images in test/good and in a folder of each defect';
    throw new DdadError('ERR_DATASET', `${path.join(dataset, 'test')}: ${expected}, found none`);
  }
  const good = images.filter(({ defect }) => defect === goodName).length;
  if (good === 0) warnings.push('no good images in test/good: no image figures');
  if (good === images.length) warnings.push('no images with defects below test/: no figures');
  else if (!truth) warnings.push('no folder ground_truth/: no pixel figures');
  return { images, warnings };
}

function counted(images: number): string {
  return `${images} image${images === 1 ? '' : 's'}`;
}

export interface Mask {
  /** 1 where the defect is. */
  data: Uint8Array;
  width: number;
  height: number;
}

/** Reads a mask: the upper half of the brightness is the defect. Throws ERR_IMAGE. */
export async function readMask(file: string, options: Omit<DecodeOptions, 'channels'>): Promise<Mask> {
  // In colour, since a mask may well be drawn in red.
  const { data: pixels, width, height } = await decodeImage(file, { ...options, channels: 3 });
  const white = pixels instanceof Uint16Array ? 65535 : 255;
  const data = new Uint8Array(width * height);
  let brightest = 0;
  const look = (from: number, to: number): void => {
    for (let i = from; i < to; i++) {
      const value = Math.max(pixels[3 * i] as number, pixels[3 * i + 1] as number, pixels[3 * i + 2] as number);
      if (value > brightest) brightest = value;
      data[i] = 2 * value > white ? 1 : 0;
    }
  };
  await inSlices(data.length, look, options.signal);
  // Masks of 0 and 1 would silently be empty.
  if (brightest > 0 && 2 * brightest <= white) {
    throw new DdadError(
      'ERR_IMAGE',
      `${file}: expected a mask in black and white; its brightest value is ${brightest} of ${white}`,
    );
  }
  return { data, width, height };
}
