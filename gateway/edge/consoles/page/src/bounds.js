// Bounds on what the console's server sends. It is not trusted: its text is shown as text only.

export const PIXELS_MAX = 32 * 1024 * 1024;
export const CURSOR_SIDE_MAX = 128;
export const CLIPBOARD_BYTES_MAX = 64 * 1024;

/** Return one line of text: no control or direction characters, at most `max` characters. */
export function plainText(value, max = 120) {
  const line = String(value ?? "").slice(0, 4 * max).replace(/[\p{C}\p{Z}]+/gu, " ").trim();
  const characters = [...line];
  return characters.length > max ? `${characters.slice(0, max - 1).join("")}…` : line;
}

/** Return the text, cut to CLIPBOARD_BYTES_MAX bytes of UTF-8, and whether it was cut. */
export function clipboardText(value) {
  const text = String(value ?? "").slice(0, CLIPBOARD_BYTES_MAX);
  const { read, written } = new TextEncoder().encodeInto(text, new Uint8Array(CLIPBOARD_BYTES_MAX));
  const cut = text.slice(0, read);
  return { text: cut, bytes: written, truncated: cut.length < String(value ?? "").length };
}
