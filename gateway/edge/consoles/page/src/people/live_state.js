// What a view shows in place of its data, or above older data.
import { button, factList, make, shownName, stateCard } from "./dom.js";
import { failureCard, failureFacts } from "./failure.js";
import { LIVE } from "./live_texts.js";
import { loginPath } from "./router.js";
import { EXPIRED } from "./texts.js";

/** Return what stands for the state of a LiveData other than "ready"; null for that one. */
export function liveNotice(live, tools) {
  const retry = () => live.retry();
  switch (live.state) {
    case "loading":
      return stateCard({ state: "loading", title: LIVE.loading, isBusy: true });
    case "offline":
      if (live.data !== null) return make("p", { className: "old", textContent: LIVE.old });
      return failureCard(
        LIVE.failed,
        { status: 0, data: {}, retryAfterS: 0 },
        retry,
        tools.contact,
      );
    case "expired": {
      const go = () => location.assign(loginPath(tools.base, location, false));
      const actions = [button(EXPIRED.go, go, { isPrimary: true })];
      return stateCard({ state: "expired", title: EXPIRED.title, lead: EXPIRED.text, actions });
    }
    case "failed":
      return failureCard(LIVE.failed, live.problem, retry, tools.contact);
    default:
      return null;
  }
}

/** Show why a write was refused, in an element with the role `alert`; null empties it. */
export function showRefusal(place, reply) {
  if (reply === null) place.replaceChildren();
  else
    place.replaceChildren(make("h2", { textContent: LIVE.refused }), factList(failureFacts(reply)));
}

/** Return a link to another view, which the page follows without a load. */
export function pageLink(tools, path, content, className = "") {
  return make("a", { href: tools.address(path), className }, content);
}

/** Return the name of a server as the reader's list of servers has it, else its ID. */
export function serverName(tools, project, id) {
  return shownName(tools.servers.find(project, id)?.name, id);
}

/** Call `render` whenever names of servers may be known; return what ends that. */
export function followNames(tools, render) {
  return tools.servers.follow((isChanged) => {
    if (isChanged) render();
  });
}

/** Show a notice in place of the earlier one; null removes it. */
export function replaceNotice(place, notice) {
  place.replaceChildren(...(notice === null ? [] : [notice]));
}

/** Run `render`, which replaces children of `place`; the focus stays on the element with its ID. */
export function keepFocus(place, render) {
  const id = place.contains(document.activeElement) ? document.activeElement.id : "";
  render();
  if (id) document.getElementById(id)?.focus({ preventScroll: true });
}
