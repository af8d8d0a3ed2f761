// Recorded keys as text: shown only to a person with `recording:keys`.
import { KINDS } from "./records.js";

const SHOWN_MS = 4000;
/** A line of keys ends with Enter, before a pause, and at this length. */
const LINE_PAUSE_MS = 2000;
const LINE_KEYS_MAX = 120;
const LINE_ENDS = "⏎";
const NAMES = new Map([
  [0xff08, "⌫"], [0xff09, "⇥"], [0xff0d, "⏎"], [0xff8d, "⏎"], [0xff1b, "Esc"], [0xffff, "Del"],
  [0xff50, "Home"], [0xff51, "←"], [0xff52, "↑"], [0xff53, "→"], [0xff54, "↓"], [0xff55, "PgUp"],
  [0xff56, "PgDn"], [0xff57, "End"], [0xffe3, "Ctrl"], [0xffe4, "Ctrl"], [0xffe9, "Alt"],
  [0xffea, "Alt"], [0xffeb, "Win"],
]);
const SHIFTS = new Set([0xffe1, 0xffe2, 0xffe5]);

/** Return a key as text; "" for those that only change others. */
export function keyText(keysym) {
  if (SHIFTS.has(keysym)) return "";
  if (keysym >= 0xffbe && keysym <= 0xffc9) return `F${keysym - 0xffbd}`;
  if (keysym === 0x20) return "␣";
  const isLatin = (keysym > 0x20 && keysym < 0x7f) || (keysym > 0xa0 && keysym < 0x100);
  if (isLatin) return String.fromCharCode(keysym);
  if (keysym > 0x01000100 && keysym <= 0x0110ffff) return String.fromCodePoint(keysym - 0x01000000);
  return NAMES.get(keysym) ?? `0x${keysym.toString(16)}`;
}

/** Return keys as one text: those with names, such as Ctrl, are set apart. */
function joinedKeys(keys) {
  let text = "";
  let wasName = false;
  for (const key of keys) {
    const isName = [...key].length > 1;
    if (text && (isName || wasName)) text += " ";
    text += key;
    wasName = isName;
  }
  return text;
}

export class Keystrokes {
  #pressed = [];

  /** Add the keys of a part that begins at `start`; parts may come in any order. */
  add(start, records) {
    for (const { time, kind, data } of records) {
      if (kind !== KINDS.key || data[0] !== 1) continue;
      const text = keyText(new DataView(data.buffer, data.byteOffset).getUint32(1));
      if (text) this.#pressed.push({ time: start + time, text });
    }
    this.#pressed.sort((one, other) => one.time - other.time);
  }

  get isEmpty() {
    return this.#pressed.length === 0;
  }

  /** Return the keys in lines, in the order of time: {time, text}. */
  get lines() {
    const lines = [];
    let line = null;
    let last = -Infinity;
    for (const { time, text } of this.#pressed) {
      if (line === null || time - last > LINE_PAUSE_MS || line.keys.length === LINE_KEYS_MAX) {
        line = { time, keys: [] };
        lines.push(line);
      }
      line.keys.push(text);
      last = time;
      if (text === LINE_ENDS) line = null;
    }
    return lines.map(({ time, keys }) => ({ time, text: joinedKeys(keys) }));
  }

  /** Return the keys that were pressed shortly before a time. */
  at(time) {
    const shown = this.#pressed.filter((key) => key.time <= time && key.time > time - SHOWN_MS);
    return shown.map(({ text }) => text).join(" ");
  }
}
