// One modal dialog of the page: a question, work in progress, or its outcome.
import { button, factList, make } from "./dom.js";

export class ModalCard {
  #dialog;
  #onClose = null;

  constructor() {
    this.#dialog = make("dialog", { className: "modal", attributes: { "aria-labelledby": "modal-title" } });
    this.#dialog.addEventListener("close", () => {
      if (this.#dialog.open) return; // shown again before the event came
      this.#dialog.replaceChildren();
      const onClose = this.#onClose;
      this.#onClose = null;
      onClose?.();
    });
    document.body.append(this.#dialog);
  }

  get isOpen() {
    return this.#dialog.open;
  }

  /**
   * Show a content in place of the one before. `actions` are elements; `onClose` is called when
   * the person closes the dialog. The first `.primary` action has the focus, else the title.
   */
  show({ title, texts = [], facts = [], more = [], actions = [], isBusy = false, onClose = null }) {
    this.#onClose = onClose;
    const heading = make("h2", { id: "modal-title", tabIndex: -1 }, title);
    this.#dialog.dataset.busy = String(isBusy);
    this.#dialog.replaceChildren(
      heading,
      make("div", { attributes: { role: "status" } }, texts.map((text) => make("p", {}, text))),
      ...(isBusy ? [make("div", { className: "progress", attributes: { "aria-hidden": "true" } })] : []),
      ...(facts.length ? [factList(facts)] : []),
      ...more,
      make("div", { className: "row" }, actions),
    );
    if (!this.#dialog.open) this.#dialog.showModal();
    const primary = this.#dialog.querySelector("button.primary:not(:disabled)");
    (primary ?? this.#dialog.querySelector("[autofocus]") ?? heading).focus();
  }

  /** Return a button that closes the dialog. */
  closer(label) {
    return button(label, () => this.close());
  }

  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  /** Close at the end of a view, and call nothing. */
  dispose() {
    this.#onClose = null;
    this.close();
    this.#dialog.remove();
  }
}
