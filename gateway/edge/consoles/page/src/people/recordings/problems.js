// What of a recording does not match the index, or is not on this replica.
import { plainText } from "../../bounds.js";
import { make } from "../dom.js";
import { RECORDINGS } from "./texts.js";

/** Return the problems as an element, or "" without any. */
export function problemElement({ problems, here }) {
  if (problems.length === 0) return "";
  const texts = problems.map((text) => plainText(text, 500));
  return make("p", {
    className: "warn",
    dir: "auto",
    textContent: here ? RECORDINGS.problems(texts) : RECORDINGS.notHere(texts),
  });
}
