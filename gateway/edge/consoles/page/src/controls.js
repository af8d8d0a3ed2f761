// The controls of a live console: keys, paste and clipboard, view only, scale, full screen.
import { clipboardText } from "./bounds.js";
import { CHORDS, chordEvents, textEvents } from "./keys.js";
import { LABELS, POWER, chordName } from "./texts.js";
import { TypingRow } from "./typing.js";
import { ask, copyToClipboard, element } from "./view.js";

const TYPED_MAX = 4096;
// About 200 characters a second: slower than the keyboard buffers of known servers fill.
const TYPED_AT_ONCE = 8;
const TYPED_EVERY_MS = 40;

export class Controls {
  #view;
  #screen = null;
  #typing;
  #isViewOnly = false;
  #isForcedViewOnly = false;
  #isScaled = true;
  #typingTimer = null;
  #mayPower = false;
  #isPowerOffered = false;

  /** `onEnd` is called by Disconnect. */
  constructor(view, onEnd) {
    this.#view = view;
    this.#typing = new TypingRow(element("typing-row"), (events) => this.#screen?.sendKeys(events));
    element("tool-end").addEventListener("click", onEnd);
    element("tool-type").addEventListener("click", () => this.#toggleTyping());
    element("tool-view").addEventListener("click", () => this.#toggleViewOnly());
    element("tool-scale").addEventListener("click", () => this.#toggleScale());
    this.#prepareFullScreen();
    this.#prepareChords();
    this.#preparePaste();
    this.#preparePower();
    element("screen").addEventListener("keydown", (event) => this.#leaveConsole(event), true);
  }

  get viewOnly() {
    return this.#isViewOnly || this.#isForcedViewOnly;
  }

  get scaled() {
    return this.#isScaled;
  }

  /** Set the screen that the controls act on; null: none. */
  set screen(screen) {
    this.#screen = screen;
    if (screen === null) {
      this.#stopTyping();
      this.powerOffered = false;
    }
  }

  /** Whether the gateway passes power operations: the right `server:power`. */
  set mayPower(value) {
    this.#mayPower = value;
    this.#showPower();
  }

  /** Whether the console's server has power operations (xvp). */
  set powerOffered(value) {
    this.#isPowerOffered = value;
    this.#showPower();
  }

  /** Follow the gateway's mode: "view" sends nothing, whatever the person chooses. */
  set mode(mode) {
    this.#isForcedViewOnly = mode === "view";
    document.body.dataset.mode = mode;
    element("bar-mode").hidden = !this.viewOnly;
    if (this.#isForcedViewOnly) this.#showTyping(false);
    if (this.#screen) this.#screen.viewOnly = this.viewOnly;
    this.#showPower();
  }

  /** Show the directions in which clipboard text may pass. */
  set clipboard(setting) {
    element("paste-clipboard").hidden = !["both", "to_server"].includes(setting);
    element("from-server").hidden = !["both", "from_server"].includes(setting);
  }

  /** Take clipboard text of the server. It reaches the browser's clipboard by a click only. */
  receiveClipboard(value) {
    if (element("from-server").hidden) return;
    const { text, truncated } = clipboardText(value);
    element("server-text").value = text;
    element("server-copy").disabled = text === "";
    element("text-notice").textContent = truncated ? LABELS.cut : LABELS.received;
  }

  /** Press Shift alone: input that changes nothing on the server. */
  tap() {
    this.#screen?.sendKeys(chordEvents(["Shift"]));
    this.#screen?.focus();
  }

  /** Forget what belongs to the session. */
  reset() {
    this.screen = null;
    this.#showTyping(false);
    for (const id of ["paste-text", "server-text"]) element(id).value = "";
    element("server-copy").disabled = true;
    element("text-notice").textContent = "";
    if (document.fullscreenElement) document.exitFullscreen();
  }

  #leaveConsole(event) {
    const isChord = event.ctrlKey && event.altKey && event.shiftKey;
    if (!isChord || !["Control", "Alt", "Shift"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    // noVNC releases the keys that are down when the window loses the focus.
    window.dispatchEvent(new Event("blur"));
    [...element("tools").querySelectorAll("button")].find((one) => one.offsetParent)?.focus();
  }

  #toggleTyping() {
    this.#showTyping(element("typing-row").hidden);
  }

  #showTyping(isShown) {
    element("typing-row").hidden = !isShown;
    element("tool-type").setAttribute("aria-pressed", String(isShown));
    if (isShown) this.#typing.focus();
  }

  #toggleViewOnly() {
    this.#isViewOnly = !this.#isViewOnly;
    element("tool-view").setAttribute("aria-pressed", String(this.#isViewOnly));
    element("bar-mode").hidden = !this.viewOnly;
    for (const id of ["tool-type", "tool-keys", "tool-paste", "tool-power"]) {
      element(id).disabled = this.#isViewOnly;
    }
    if (this.#isViewOnly) this.#showTyping(false);
    if (this.#screen) this.#screen.viewOnly = this.viewOnly;
    this.#view.announce(this.#isViewOnly ? LABELS.viewOnly : LABELS.control);
  }

  #toggleScale() {
    this.#isScaled = !this.#isScaled;
    element("tool-scale").setAttribute("aria-pressed", String(!this.#isScaled));
    if (this.#screen) this.#screen.scaled = this.#isScaled;
  }

  #prepareFullScreen() {
    const button = element("tool-full");
    button.hidden = !document.fullscreenEnabled;
    button.addEventListener("click", async () => {
      if (document.fullscreenElement) {
        await document.exitFullscreen();
        return;
      }
      await document.documentElement.requestFullscreen();
      // Esc and the browser's own keys go to the server, where the browser allows it.
      await navigator.keyboard?.lock?.().catch(() => {});
      this.#screen?.focus();
    });
    document.addEventListener("fullscreenchange", () => {
      button.setAttribute("aria-pressed", String(document.fullscreenElement !== null));
    });
  }

  #prepareChords() {
    const buttons = CHORDS.map((names) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = chordName(names);
      button.addEventListener("click", () => {
        element("keys-panel").hidePopover();
        this.#screen?.sendKeys(chordEvents(names));
        this.#screen?.focus();
      });
      return button;
    });
    element("chords").append(...buttons);
  }

  #preparePaste() {
    const notice = (text) => {
      element("text-notice").textContent = text;
    };
    element("paste-type").addEventListener("click", () => {
      if (this.#typingTimer !== null) {
        this.#stopTyping();
        return;
      }
      const characters = [...element("paste-text").value];
      if (characters.length > TYPED_MAX) notice(LABELS.tooLong(TYPED_MAX));
      else this.#typeText(characters, () => notice(LABELS.typed(characters.length)));
    });
    element("paste-clipboard").addEventListener("click", () => {
      const { text, truncated } = clipboardText(element("paste-text").value);
      this.#screen?.sendClipboard(text);
      notice(truncated ? LABELS.cutSent : LABELS.sent);
    });
    element("server-copy").addEventListener("click", async () => {
      const isCopied = await copyToClipboard(element("server-text").value);
      notice(isCopied ? LABELS.copied : LABELS.notCopied);
    });
  }

  #showPower() {
    const isShown = this.#mayPower && this.#isPowerOffered && !this.#isForcedViewOnly;
    element("tool-power").hidden = !isShown;
    if (!isShown) element("power-panel").hidePopover();
  }

  #preparePower() {
    for (const button of element("power-panel").querySelectorAll("[data-power]")) {
      button.addEventListener("click", async () => {
        element("power-panel").hidePopover();
        const { title, text } = POWER[button.dataset.power];
        element("power-confirm-title").textContent = title;
        element("power-text").textContent = text;
        element("power-send").textContent = button.textContent;
        const { choice } = await ask(element("power-dialog"));
        if (choice === "send" && !element("tool-power").hidden) {
          this.#screen?.sendPower(button.dataset.power);
          this.#view.announce(LABELS.powerSent);
        }
        this.#screen?.focus();
      });
    }
  }

  #typeText(characters, onDone) {
    let position = 0;
    element("paste-type").textContent = LABELS.stop;
    this.#typingTimer = setInterval(() => {
      const part = characters.slice(position, position + TYPED_AT_ONCE).join("");
      this.#screen?.sendKeys(textEvents(part));
      position += TYPED_AT_ONCE;
      if (position < characters.length) return;
      this.#stopTyping();
      onDone();
    }, TYPED_EVERY_MS);
  }

  #stopTyping() {
    clearInterval(this.#typingTimer);
    this.#typingTimer = null;
    element("paste-type").textContent = LABELS.type;
  }
}
