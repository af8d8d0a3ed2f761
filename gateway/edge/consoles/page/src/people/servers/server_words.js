// The words and elements of one server that the list and its own page share.
import { foreign, make, shownName } from "../dom.js";
import { SERVER } from "../texts.js";

/** Return who is on the console, as text; "" for no one, null if that is not known. */
export function useText(row) {
  if (!row.use) return null;
  return row.use
    .map(({ by, mode }) => SERVER.using(by ? shownName(by.subject) : SERVER.another, mode))
    .join(", ");
}

export function powerText(row) {
  return SERVER.powerStates[row.power] ?? shownName(row.power);
}

/** Return a power or health state with a mark, so that colour is never the only sign. */
export function stateMark(kind, value, text) {
  return make(
    "span",
    { className: "mark-state", data: { kind, value: value.toLowerCase() } },
    make("span", { className: "dot", attributes: { "aria-hidden": "true" } }),
    text,
  );
}

export function tagElements(row) {
  return row.tags.map((tag) => foreign(shownName(tag), "tag"));
}

export function serverPath(row) {
  return `/servers/${row.key}`;
}
