// The page as one document that needs nothing else, under a policy that allows nothing else.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';

const read = (name) => readFile(new URL(`page/${name}`, import.meta.url), 'utf8');
const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

export async function readPage() {
  const [frame, style, script] = await Promise.all([read('index.html'), read('page.css'), read('page.js')]);
  const html = frame
    .replace(/<link rel="stylesheet"[^>]*>/, () => `<style>${style}</style>`)
    .replace(/<script type="module"[^>]*>/, () => `<script type="module">${script}`);
  const policy = [
    `default-src 'none'`,
    `script-src ${hash(script)}`,
    `style-src ${hash(style)}`,
    `img-src blob: data:`,
    `connect-src 'self'`,
    `base-uri 'none'`,
    `form-action 'none'`,
    `frame-ancestors 'none'`,
  ];
  return { html, headers: { 'content-security-policy': policy.join('; '), 'referrer-policy': 'no-referrer' } };
}
