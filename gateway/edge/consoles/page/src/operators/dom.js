// What the operators' pages have besides the elements of all pages.
import { plainText } from "../bounds.js";
import { make } from "../people/dom.js";

let fields = 0;

/** Return {box, control}: a labelled field. `choices` are [value, text] of a select. */
export function field(label, { type = "text", choices, value = "", required = false } = {}) {
  const id = `op-field-${(fields += 1)}`;
  let control;
  if (choices) {
    const options = choices.map(([one, text]) => make("option", { value: one, textContent: text }));
    control = make("select", { id }, options);
  } else {
    control = make("input", { id, type, autocomplete: "off", spellcheck: false, maxLength: 500 });
  }
  if (value) control.value = value;
  control.required = required;
  return { box: make("div", {}, make("label", { htmlFor: id, textContent: label }), control), control };
}

/** Return a form of fields, whose button calls `act` with their values by name. */
export function fieldForm(fields, label, act) {
  const submit = make("button", { type: "submit", className: "primary", textContent: label });
  const send = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    const values = Object.entries(fields).map(([name, { control }]) => [name, control.value.trim()]);
    await act(Object.fromEntries(values));
    submit.disabled = false;
  };
  const boxes = Object.values(fields).map(({ box }) => box);
  return make("form", { className: "op-form", on: { submit: send } }, boxes, make("div", { className: "row" }, submit));
}

/** Return one line of a text from the gateway. */
export const text = (value) => plainText(value, 300);
