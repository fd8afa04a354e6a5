// The page as one document that needs nothing else, under a policy that allows nothing else.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';

const read = (name: string): Promise<string> => readFile(path.join(__dirname, 'page', name), 'utf8');
const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

export interface Page {
  html: string;
  headers: Record<string, string>;
}

export async function readPage(): Promise<Page> {
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
