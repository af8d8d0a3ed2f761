// The list of recorded keys with their times: lines, of which a page at a time is in the document.
import { element } from "../view.js";
import { LABELS } from "./texts.js";

const PAGE_LINES = 200;

export class KeysPanel {
  #keystrokes;
  #player;
  #times = new Intl.DateTimeFormat([], { timeStyle: "medium" });
  /** The number of the first line that is shown. */
  #first = 0;

  /** `player`: position(), clock(time) and seek(time); times are positions in ms. */
  constructor(keystrokes, player) {
    this.#keystrokes = keystrokes;
    this.#player = player;
    element("keys-hint").textContent = LABELS.keysHint;
    element("keys-earlier").onclick = () => this.#turn(-PAGE_LINES);
    element("keys-later").onclick = () => this.#turn(PAGE_LINES);
    element("keys-panel").onbeforetoggle = ({ newState }) => {
      if (newState === "open") this.#showPosition();
    };
    this.clear();
  }

  /** Show that there are keys: more of them were read. */
  changed() {
    element("tool-keys").hidden = this.#keystrokes.isEmpty;
    if (element("keys-panel").matches(":popover-open")) this.#render();
  }

  showProblem() {
    element("tool-keys").hidden = false;
    element("keys-hint").textContent = LABELS.keysUnreadable;
  }

  /** Take the keys off the page. */
  clear() {
    element("tool-keys").hidden = true;
    element("key-lines").replaceChildren();
  }

  /** Show the page with the line at the player's position. */
  #showPosition() {
    const position = this.#player.position();
    const at = this.#keystrokes.lines.findLastIndex(({ time }) => time <= position);
    this.#first = Math.floor(Math.max(0, at) / PAGE_LINES) * PAGE_LINES;
    this.#render();
  }

  #turn(lines) {
    this.#first += lines;
    this.#render();
    element("key-lines").querySelector("button")?.focus();
  }

  #render() {
    const { lines } = this.#keystrokes;
    const end = this.#first + PAGE_LINES;
    const items = lines.slice(this.#first, end).map((line) => this.#item(line));
    element("key-lines").replaceChildren(...items);
    element("keys-earlier").hidden = this.#first === 0;
    element("keys-later").hidden = end >= lines.length;
  }

  #item({ time, text }) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const clock = document.createElement("span");
    clock.className = "mark-time";
    clock.textContent = this.#times.format(this.#player.clock(time));
    const keys = document.createElement("bdi");
    keys.className = "key-text";
    keys.textContent = text;
    button.append(clock, " ", keys);
    button.addEventListener("click", () => this.#player.seek(time));
    item.append(button);
    return item;
  }
}
