// Elements of the operators' pages. Texts are set as text only.
import { plainText } from "../bounds.js";

/** Return an element with properties, data and children. */
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function button(label, act, className = "") {
  const made = make("button", { type: "button", className, textContent: label });
  made.addEventListener("click", act);
  return made;
}

let fields = 0;

/** Return {box, control}: a labelled field. `choices` are [value, text] of a select. */
export function field(label, { type = "text", choices, value = "", required = false } = {}) {
  const id = `op-field-${(fields += 1)}`;
  let control;
  if (choices) {
    const options = choices.map(([one, text]) => make("option", { value: one, textContent: text }));
    control = make("select", { id }, ...options);
  } else {
    control = make("input", { id, type, autocomplete: "off", spellcheck: false, maxLength: 500 });
  }
  if (value) control.value = value;
  control.required = required;
  return { box: make("div", {}, make("label", { for: id, textContent: label }), control), control };
}

const DATE = { dateStyle: "short", timeStyle: "medium" };

/** Return a time in the reader's zone. */
export function time(value) {
  const at = typeof value === "number" ? new Date(value * 1000) : new Date(value);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleString([], DATE);
}

export function zoneName() {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  const parts = new Intl.DateTimeFormat([], { timeZoneName: "short" }).formatToParts(new Date());
  const short = parts.find(({ type }) => type === "timeZoneName")?.value ?? "";
  return `${timeZone} (${short})`;
}

export const text = (value, max = 300) => plainText(value, max);
