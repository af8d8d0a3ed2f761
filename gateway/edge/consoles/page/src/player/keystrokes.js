// Recorded keys as text: shown only to a person with `recording:keys`.
import { KINDS } from "./records.js";

const SHOWN_MS = 4000;
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

  /** Return the keys that were pressed shortly before a time. */
  at(time) {
    const shown = this.#pressed.filter((key) => key.time <= time && key.time > time - SHOWN_MS);
    return shown.map(({ text }) => text).join(" ");
  }
}
