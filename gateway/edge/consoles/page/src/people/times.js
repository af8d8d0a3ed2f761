// Times in the reader's zone, with the zone; and how long ago something was.
import { duration } from "../texts.js";

/** Return a time with its zone, such as "30 Nov 2026, 10:04:05 GMT+1"; "" for none. */
export function clockTime(text, locale = undefined, timeZone = undefined) {
  const at = new Date(text ?? NaN);
  if (Number.isNaN(at.getTime())) return "";
  return at.toLocaleString(locale, { dateStyle: "medium", timeStyle: "long", timeZone });
}

/** Return the name of the reader's zone, such as "Europe/Berlin". */
export function zoneName() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** Return the seconds from `text` to `now` (milliseconds), or null. */
export function ageS(text, now) {
  const at = new Date(text ?? NaN).getTime();
  return Number.isNaN(at) ? null : Math.max(0, Math.round((now - at) / 1000));
}

/** Return "12 s ago" of a time, or "" for none. */
export function ago(text, now) {
  const seconds = ageS(text, now);
  return seconds === null ? "" : `${duration(seconds)} ago`;
}
