// Control characters (C0, DEL, C1), line and paragraph separators, and what changes the direction of text: names of files
// and products come from anybody, and could otherwise end a line and begin one of their own, or move the cursor.
// eslint-disable-next-line no-control-regex
const unsafe = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Surrogate}/gu;

/** A text for one line of output; what could forge others is shown as `\u001b`, which also keeps JSON the same JSON. */
export function printable(text: string): string {
  return text.replace(unsafe, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
