// Elements, made without markup: the names of servers are text, whatever they contain.
import { plainText } from "../bounds.js";

const NAME_CHARS_MAX = 255;

/**
 * Return an element. `properties` are set on it, except `data` and `attributes`, which are maps,
 * and `on`, which has the listeners. Children are elements, texts, or null.
 */
export function make(tag, properties = {}, ...children) {
  const { data = {}, attributes = {}, on = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children.flat().filter((one) => one !== null && one !== undefined));
  return made;
}

/** Return a name of the cloud as one line, without control and direction characters. */
export function shownName(name, fallback = "") {
  return plainText(name, NAME_CHARS_MAX) || fallback;
}

/** Return an element with a foreign text, whose direction does not change that of the rest. */
export function foreign(text, className = "") {
  return make("bdi", { className, textContent: text });
}

export function button(label, act, { isPrimary = false, ...properties } = {}) {
  return make("button", {
    type: "button",
    textContent: label,
    className: isPrimary ? "primary" : "",
    on: { click: act },
    ...properties,
  });
}

/** Return a description list of [name, text or element] pairs; pairs without a value are left out. */
export function factList(facts) {
  const pairs = facts.filter(([, value]) => value !== null && value !== "");
  return make(
    "dl",
    { className: "facts" },
    pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, value)]),
  );
}

/**
 * Return the card of a state: empty, loading, queueing, error, or nothing found. `actions` are
 * elements.
 */
export function stateCard({ state, title, lead = "", facts = [], actions = [], isBusy = false }) {
  return make(
    "section",
    { className: "card", data: { state }, attributes: { "aria-labelledby": `${state}-title` } },
    make("h2", { id: `${state}-title`, textContent: title }),
    lead ? make("p", { className: "lead", textContent: lead }) : null,
    isBusy ? make("div", { className: "progress", attributes: { "aria-hidden": "true" } }) : null,
    facts.length ? factList(facts) : null,
    actions.length ? make("div", { className: "row" }, actions) : null,
  );
}
