// What answers of all processes have in common.
import { LISTING } from "./texts.js";

/** Say how many processes did not respond, or nothing. */
export function missing({ missing: count, total }) {
  return count ? LISTING.missing(count, total) : "";
}

/** Say that a list may lack changes by other replicas, or nothing. */
export function incomplete({ complete }) {
  return complete === false ? LISTING.incomplete : "";
}
