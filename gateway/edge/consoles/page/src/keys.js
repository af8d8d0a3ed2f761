// Keysyms (X11, RFC 6143, 7.5.4) of named keys, characters, chords and text.

export const KEYSYMS = {
  Backspace: 0xff08,
  Tab: 0xff09,
  Enter: 0xff0d,
  Escape: 0xff1b,
  Delete: 0xffff,
  Insert: 0xff63,
  Home: 0xff50,
  ArrowLeft: 0xff51,
  ArrowUp: 0xff52,
  ArrowRight: 0xff53,
  ArrowDown: 0xff54,
  PageUp: 0xff55,
  PageDown: 0xff56,
  End: 0xff57,
  PrintScreen: 0xff61,
  Shift: 0xffe1,
  Control: 0xffe3,
  Alt: 0xffe9,
  Super: 0xffeb,
};
for (let number = 1; number <= 12; number += 1) KEYSYMS[`F${number}`] = 0xffbd + number;

/** Physical keys, for servers that take scan codes (QEMU). */
const CODES = { Shift: "ShiftLeft", Control: "ControlLeft", Alt: "AltLeft", Super: "MetaLeft" };

/** Chords of the menu, in its order. */
export const CHORDS = [
  ["Control", "Alt", "Delete"],
  ["Control", "Alt", "F1"],
  ["Control", "Alt", "F2"],
  ["Control", "Alt", "F3"],
  ["Control", "Alt", "F7"],
  ["Alt", "Tab"],
  ["Alt", "F4"],
  ["Control", "Escape"],
  ["Super"],
  ["PrintScreen"],
  ["Alt", "PrintScreen"],
];

// Characters that need Shift on a US keyboard. Servers that translate keysyms to scan codes by a
// US layout type another character without it; X servers correct the modifier themselves.
const SHIFTED = new Set('ABCDEFGHIJKLMNOPQRSTUVWXYZ~!@#$%^&*()_+{}|:"<>?');

/** Return the keysym of one character: Latin-1 by its code, others by Unicode. */
export function charKeysym(character) {
  const point = character.codePointAt(0);
  if (point === 0x0a || point === 0x0d) return KEYSYMS.Enter;
  if (point === 0x09) return KEYSYMS.Tab;
  if (point === 0x08) return KEYSYMS.Backspace;
  if (point === 0x1b) return KEYSYMS.Escape;
  if (point < 0x20 || (point >= 0x7f && point < 0xa0)) return null;
  return point <= 0xff ? point : 0x01000000 + point;
}

function press(name) {
  return { keysym: KEYSYMS[name] ?? charKeysym(name), code: CODES[name] ?? null };
}

/** Return the key events of a chord: all pressed in order, then released in reverse order. */
export function chordEvents(names) {
  const keys = names.map(press);
  return [
    ...keys.map((key) => ({ ...key, down: true })),
    ...keys.reverse().map((key) => ({ ...key, down: false })),
  ];
}

/** Return the key events that type a text. Characters without a key are left out. */
export function textEvents(text) {
  const events = [];
  for (const character of text.replace(/\r\n?/g, "\n")) {
    const keysym = charKeysym(character);
    if (keysym === null) continue;
    const key = [{ keysym, code: null, down: true }, { keysym, code: null, down: false }];
    if (SHIFTED.has(character)) {
      const shift = { keysym: KEYSYMS.Shift, code: CODES.Shift };
      events.push({ ...shift, down: true }, ...key, { ...shift, down: false });
    } else {
      events.push(...key);
    }
  }
  return events;
}
