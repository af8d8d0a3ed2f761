// The page's elements: the card of each state, the bar, the warning and the announcements.
import { LABELS, STATES } from "./texts.js";

export const element = (id) => document.getElementById(id);

/** Fill a description list: pairs of a name and a text, or a name, a text and a smaller text. */
export function fillFacts(list, facts) {
  list.replaceChildren(
    ...facts.flatMap(([name, text, small]) => {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.textContent = name;
      description.dir = "auto";
      description.textContent = text;
      if (small) {
        const more = document.createElement("small");
        more.textContent = small;
        description.append(more);
      }
      return [term, description];
    }),
  );
}

function actionButton({ label, act, isPrimary }) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  if (isPrimary) button.className = "primary";
  button.addEventListener("click", act);
  return button;
}

export class View {
  #server = "";
  #states;
  #name;
  #contact;

  /**
   * `states`: the word of each state. `name`: of the page, in the tab's title. `contact`: {text,
   * url} for people whose request is rejected, or null.
   */
  constructor(states = STATES, name = "Console", contact = null) {
    this.#states = states;
    this.#name = name;
    this.#contact = contact;
  }

  /** Set the server's name in the bar and in the tab's title. */
  set server(name) {
    this.#server = name;
    element("bar-server").textContent = name;
    element("bar-server").title = name;
    this.#setTitle();
  }

  get state() {
    return document.body.dataset.state;
  }

  #setTitle() {
    const state = this.#states[this.state];
    document.title = [this.#server, state, this.#name].filter(Boolean).join(" · ");
  }

  /** Show a state without its card. */
  enter(state) {
    document.body.dataset.state = state;
    const word = element("state-word");
    if (word) word.textContent = this.#states[state];
    this.#setTitle();
  }

  /** Show the card of a state; `actions` are {label, act, isPrimary}. A refusal names the contact. */
  card(state, { title, lead, facts = [], actions = [], command = null, isBusy = false, isRefusal = false }) {
    this.enter(state);
    element("card-state").textContent = this.#states[state];
    element("card-title").textContent = title;
    element("card-lead").textContent = lead;
    element("card-progress").hidden = !isBusy;
    element("card-notice").textContent = "";
    fillFacts(element("card-facts"), facts);
    if (element("card-command")) this.#showCommand(command);
    this.#showContact(isRefusal ? this.#contact : null);
    const buttons = actions.map(actionButton);
    element("card-actions").replaceChildren(...buttons);
    const primary = buttons[actions.findIndex((one) => one.isPrimary)];
    (primary ?? element("card-title")).focus({ preventScroll: true });
    this.announce(`${title} ${lead}`);
  }

  #showCommand(command) {
    element("card-command").hidden = command === null;
    element("card-command-label").textContent = command?.label ?? "";
    const parts = (command?.text ?? "").split(/(?<=\/)/);
    const breakable = parts.flatMap((part) => [part, document.createElement("wbr")]);
    element("card-command-text").replaceChildren(...breakable);
  }

  #showContact(contact) {
    element("card-contact").hidden = contact === null;
    if (contact === null) return;
    const link = document.createElement("a");
    link.href = contact.url;
    link.textContent = contact.text;
    link.dir = "auto";
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    element("card-contact").replaceChildren(LABELS.contact, " ", link);
  }

  live() {
    this.enter("live");
    this.announce(STATES.live);
  }

  /** Say a text to screen readers. */
  announce(text) {
    element("announcement").textContent = text;
  }

  /** Show a warning with its button, or none. */
  warn(text, action) {
    element("warning").hidden = text === null;
    element("warning-text").textContent = text ?? "";
    const button = element("warning-action");
    button.hidden = !action;
    button.textContent = action?.label ?? "";
    button.onclick = action?.act ?? null;
    if (text === null) element("warning-left").textContent = "";
  }

  /** Close every panel and dialog. */
  closePanels() {
    for (const panel of document.querySelectorAll("[popover]:popover-open")) panel.hidePopover();
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close("cancel");
  }
}

/** Show a modal dialog, and return its result with the value of its field, which is emptied. */
export function ask(dialog) {
  const field = dialog.querySelector("input");
  if (field) field.value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  field?.focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const value = field?.value ?? "";
        if (field) field.value = "";
        resolve({ choice: dialog.returnValue, value });
      },
      { once: true },
    );
  });
}

export async function copyToClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
