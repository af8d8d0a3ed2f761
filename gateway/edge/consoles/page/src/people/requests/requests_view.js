// The list of access requests: to decide on, one's own, those of others, and ended ones.
import { button, foreign, make, stateCard } from "../dom.js";
import { LiveData } from "../live_data.js";
import {
  followNames,
  keepFocus,
  liveNotice,
  pageLink,
  replaceNotice,
  serverName,
} from "../live_state.js";
import { clockTime } from "../times.js";
import { sections } from "./model.js";
import { leftText, stateBadges } from "./parts.js";
import { REQUESTS, ROW } from "./texts.js";

const OPEN = "/ui/requests?state=pending,active&limit=1000";
const ENDED = "/ui/requests?state=ended,denied,withdrawn,expired,revoked&limit=100";
const TICK_MS = 15_000;

export class RequestsView {
  #tools;
  #open;
  #ended = null;
  #status = make("div");
  #lists = make("div", { className: "lists" });
  #endedList = make("div");
  #timer = 0;
  #unfollow = null;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    this.#tools.title(REQUESTS.title);
    const create = button(REQUESTS.create, () => this.#tools.go("/requests/new"), {
      isPrimary: true,
    });
    const ended = make(
      "details",
      { className: "ended" },
      make("summary", {}, make("h2", { textContent: REQUESTS.ended })),
      this.#endedList,
    );
    ended.addEventListener("toggle", () => this.#toggleEnded(ended.open));
    root.replaceChildren(
      make(
        "div",
        { className: "view-head spread" },
        make(
          "div",
          {},
          make("h1", { textContent: REQUESTS.title, tabIndex: -1 }),
          make("p", { className: "lead", textContent: REQUESTS.lead }),
        ),
        create,
      ),
      this.#status,
      this.#lists,
      ended,
    );
    this.#open = new LiveData(this.#tools.session, OPEN, () => this.#render());
    this.#render();
    this.#open.start();
    this.#unfollow = followNames(this.#tools, () => this.#render());
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  close() {
    clearInterval(this.#timer);
    this.#unfollow();
    this.#open.stop();
    this.#ended?.stop();
  }

  #toggleEnded(isOpen) {
    if (isOpen) {
      this.#ended ??= new LiveData(this.#tools.session, ENDED, () => this.#renderEnded());
      this.#renderEnded();
      this.#ended.start();
    } else this.#ended?.stop();
  }

  #render() {
    replaceNotice(this.#status, liveNotice(this.#open, this.#tools));
    const data = this.#open.data;
    if (data === null) {
      this.#lists.replaceChildren();
      return;
    }
    const { toDecide, own, others } = sections(data.requests);
    keepFocus(this.#lists, () =>
      this.#lists.replaceChildren(
        ...[
          toDecide.length > 0 ? this.#list(REQUESTS.toDecide, toDecide) : null,
          own.length > 0
            ? this.#list(REQUESTS.own, own)
            : stateCard({ state: "empty", ...REQUESTS.noneOwn }),
          others.length > 0 ? this.#list(REQUESTS.others, others) : null,
          truncatedLine(data),
        ].filter(Boolean),
      ),
    );
  }

  #renderEnded() {
    const { data } = this.#ended;
    const notice = liveNotice(this.#ended, this.#tools);
    if (data === null) {
      this.#endedList.replaceChildren(notice);
      return;
    }
    const rows =
      data.requests.length > 0
        ? this.#rows(data.requests)
        : make("p", { textContent: REQUESTS.noneEnded });
    keepFocus(this.#endedList, () =>
      this.#endedList.replaceChildren(...[notice, rows, truncatedLine(data)].filter(Boolean)),
    );
  }

  #list(title, requests) {
    return make("section", {}, make("h2", { textContent: title }), this.#rows(requests));
  }

  #rows(requests) {
    return make(
      "ul",
      { className: "rows" },
      requests.map((one) => this.#row(one)),
    );
  }

  #row(request) {
    const who = request.own
      ? null
      : make("span", { className: "who" }, "· ", foreign(request.requester.subject));
    const [first] = request.server_ids;
    const servers =
      request.server_ids.length === 1
        ? serverName(this.#tools, request.project_id, first)
        : ROW.servers(request.server_ids.length);
    const title = pageLink(
      this.#tools,
      `/requests/${request.id}`,
      foreign(request.role),
      "row-title",
    );
    title.id = `request-${request.id}`;
    const isIneffective = request.state === "active" && !request.in_force;
    const when = make("span", {
      className: "left",
      textContent: leftText(request, this.#tools.now()) || clockTime(request.created_at),
    });
    if (request.state === "active" || request.state === "pending") {
      when.dataset.request = request.id;
    }
    return make(
      "li",
      {},
      make("div", { className: "row-head" }, title, who, stateBadges(request), when),
      make("p", { className: "row-servers", dir: "auto", textContent: servers }),
      make("p", { className: "row-reason", dir: "auto", textContent: request.reason }),
      isIneffective ? make("p", { className: "warn", textContent: ROW.notInForce }) : null,
      request.state === "pending" &&
        request.approvals.length > 0 &&
        request.approvals_required !== null
        ? make("p", {
            className: "hint",
            textContent: ROW.approvals(request.approvals.length, request.approvals_required),
          })
        : null,
    );
  }

  /** Count the remaining times down between two answers. */
  #tick() {
    const byId = new Map((this.#open.data?.requests ?? []).map((one) => [one.id, one]));
    for (const element of this.#lists.querySelectorAll("[data-request]")) {
      const text = leftText(byId.get(element.dataset.request), this.#tools.now());
      if (element.textContent !== text) element.textContent = text;
    }
  }
}

function truncatedLine({ truncated }) {
  return truncated > 0
    ? make("p", { className: "hint", textContent: REQUESTS.truncated(truncated) })
    : null;
}
