// A rejected or failed request, in words: message, code, request ID, and when to try again.
import { plainText } from "../bounds.js";
import { button, make, stateCard } from "./dom.js";
import { FAILURES, PAGE } from "./texts.js";

const MESSAGE_CHARS_MAX = 500;

/** Return [name, text] pairs about a reply of BrowserSession. */
export function failureFacts({ status, data, requestId }) {
  const message = status === 0 ? FAILURES.offline : plainText(data.error_msg, MESSAGE_CHARS_MAX);
  return [
    [FAILURES.message, message],
    [FAILURES.code, plainText(data.error_code)],
    [FAILURES.requestId, plainText(requestId)],
  ].filter(([, text]) => text);
}

/** Return a link to whom people turn to, or null without a contact. */
export function contactLink(contact) {
  if (!contact) return null;
  const { text, url } = contact;
  const link = make("a", { href: url, textContent: text, dir: "auto" });
  link.rel = "noopener noreferrer";
  link.target = "_blank";
  return make("p", { className: "contact" }, `${PAGE.contact} `, link);
}

/** Return a button that waits for the seconds of `Retry-After` before it can be used. */
export function retryButton(retryAfterS, act) {
  const made = button(FAILURES.retry, act, { isPrimary: true });
  let left = Math.ceil(retryAfterS);
  const show = () => {
    made.disabled = left > 0;
    made.textContent = left > 0 ? FAILURES.retryIn(left) : FAILURES.retry;
    if (left > 0 && (made.isConnected || left === Math.ceil(retryAfterS))) setTimeout(show, 1000);
    left -= 1;
  };
  show();
  return made;
}

/** Return the card of a failed request; `act` tries again. */
export function failureCard(title, reply, act, contact) {
  const card = stateCard({
    state: reply.status === 0 ? "offline" : "error",
    title,
    facts: failureFacts(reply),
    actions: [retryButton(reply.retryAfterS, act)],
  });
  const help = contactLink(contact);
  if (help) card.append(help);
  return card;
}
