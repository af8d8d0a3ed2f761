// Keys from a text field: a phone's keyboard, composed text (IME), and the row of extra keys.
import { KEYSYMS, chordEvents, textEvents } from "./keys.js";

/** The field is never empty: a phone's keyboard reports a deletion only where there is text. */
export const PAD = "\u200b".repeat(8);

const FIELD_KEYS = new Set(["Enter", "Backspace", "Delete", "Escape", "Home", "End", "PageUp",
  "PageDown", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "Insert"]);

/** Return what turned PAD into `value`: deleted characters at its end, then inserted text. */
export function changes(value) {
  let same = 0;
  while (same < PAD.length && value[same] === PAD[same]) same += 1;
  return { deleted: PAD.length - same, inserted: value.slice(same).replaceAll("\u200b", "") };
}

/** Ctrl and Alt, chosen by button, for the next key. */
export class StickyModifiers {
  #names = new Set();

  /** Return whether the modifier is now chosen. */
  toggle(name) {
    if (!this.#names.delete(name)) this.#names.add(name);
    return this.#names.has(name);
  }

  /** Return the events with the chosen modifiers around them, and choose none. */
  apply(events) {
    if (this.#names.size === 0 || events.length === 0) return events;
    const around = chordEvents([...this.#names]);
    const middle = around.length / 2;
    this.#names.clear();
    return [...around.slice(0, middle), ...events, ...around.slice(middle)];
  }
}

/** The row with the text field and its keys. `send` takes key events. */
export class TypingRow {
  #field;
  #buttons;
  #modifiers = new StickyModifiers();
  #send;

  constructor(row, send) {
    this.#field = row.querySelector("textarea");
    this.#buttons = row.querySelectorAll("[data-modifier]");
    this.#send = send;
    this.#field.addEventListener("input", (event) => {
      if (!event.isComposing) this.#read();
    });
    this.#field.addEventListener("compositionend", () => this.#read());
    this.#field.addEventListener("keydown", (event) => this.#keyDown(event));
    this.#field.addEventListener("focus", () => this.#reset());
    for (const button of this.#buttons) {
      button.addEventListener("click", () => {
        const chosen = this.#modifiers.toggle(button.dataset.modifier);
        button.setAttribute("aria-pressed", String(chosen));
      });
    }
    for (const button of row.querySelectorAll("button")) {
      // The field stays in focus: a phone would close its keyboard.
      button.addEventListener("pointerdown", (event) => event.preventDefault());
    }
    for (const button of row.querySelectorAll("[data-key]")) {
      button.addEventListener("click", () => this.#emit(chordEvents([button.dataset.key])));
    }
  }

  focus() {
    this.#field.focus();
  }

  #reset() {
    this.#field.value = PAD;
    this.#field.setSelectionRange(PAD.length, PAD.length);
  }

  #read() {
    const { deleted, inserted } = changes(this.#field.value);
    this.#reset();
    const removals = Array.from({ length: deleted }, () => chordEvents(["Backspace"])).flat();
    this.#emit([...removals, ...textEvents(inserted)]);
  }

  #keyDown(event) {
    const isForTheBrowser = event.ctrlKey || event.altKey || event.metaKey;
    if (event.isComposing || event.keyCode === 229 || isForTheBrowser) return;
    if (!FIELD_KEYS.has(event.key) && !/^F\d+$/.test(event.key)) return;
    if (!(event.key in KEYSYMS)) return;
    event.preventDefault();
    event.stopPropagation();
    const shift = event.shiftKey ? ["Shift"] : [];
    this.#emit(chordEvents([...shift, event.key]));
  }

  #emit(events) {
    if (events.length === 0) return;
    this.#send(this.#modifiers.apply(events));
    for (const button of this.#buttons) button.setAttribute("aria-pressed", "false");
  }
}
