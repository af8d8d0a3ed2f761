// The reader's own consoles: where they are open, since when, and who watches.
import { choose } from "../choice.js";
import { button, factList, foreign, make, stateCard } from "../dom.js";
import { LiveData } from "../live_data.js";
import {
  followNames,
  keepFocus,
  liveNotice,
  pageLink,
  replaceNotice,
  serverName,
  showRefusal,
} from "../live_state.js";
import { ageS, clockTime } from "../times.js";
import { SESSIONS } from "./texts.js";

const PATH = "/ui/console/sessions";

export class SessionsView {
  #tools;
  #live;
  #unfollow = null;
  #status = make("div");
  #list = make("div");
  #refusal = make("div", { className: "refusal", attributes: { role: "alert" } });
  #done = make("p", { className: "done", attributes: { role: "status" } });

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    this.#tools.title(SESSIONS.title);
    root.replaceChildren(
      make("h1", { textContent: SESSIONS.title, tabIndex: -1 }),
      make("p", { className: "lead", textContent: SESSIONS.lead }),
      this.#status,
      this.#refusal,
      this.#done,
      this.#list,
    );
    this.#live = new LiveData(this.#tools.session, PATH, () => this.#render());
    this.#render();
    this.#live.start();
    this.#unfollow = followNames(this.#tools, () => this.#render());
  }

  close() {
    this.#unfollow();
    this.#live.stop();
  }

  #render() {
    replaceNotice(this.#status, liveNotice(this.#live, this.#tools));
    const { data } = this.#live;
    if (data === null) {
      this.#list.replaceChildren();
      return;
    }
    const rows =
      data.sessions.length > 0
        ? make(
            "ul",
            { className: "rows sessions" },
            data.sessions.map((one) => this.#row(one)),
          )
        : stateCard({ state: "empty", ...SESSIONS.empty });
    const old = data.complete
      ? null
      : make("p", { className: "warn", textContent: SESSIONS.incomplete });
    keepFocus(this.#list, () => this.#list.replaceChildren(...[old, rows].filter(Boolean)));
  }

  #row(session) {
    const path = `/servers/${session.project_id}/${session.server_id}`;
    const server = serverName(this.#tools, session.project_id, session.server_id);
    const names = SESSIONS.facts;
    const watchers = session.watchers.map(({ subject, since }) =>
      make("li", { dir: "auto", textContent: `${subject}, ${clockTime(since)}` }),
    );
    const end = button(SESSIONS.end, () => this.#end(session), { id: `end-${session.id}` });
    end.setAttribute("aria-label", `${SESSIONS.end}: ${server}`);
    return make(
      "li",
      {},
      make("h2", {}, pageLink(this.#tools, path, foreign(server), "row-title")),
      factList([
        [names.server, server === session.server_id ? "" : session.server_id],
        [names.project, session.project_id],
        [
          names.since,
          SESSIONS.since(
            clockTime(session.started_at),
            ageS(session.started_at, this.#tools.now()),
          ),
        ],
        [names.mode, SESSIONS.modes[session.mode] ?? session.mode],
        [names.state, session.connected ? SESSIONS.connected : SESSIONS.reconnecting],
        [
          names.watchers,
          watchers.length > 0 ? make("ul", { className: "plain-list" }, watchers) : "",
        ],
      ]),
      make("div", { className: "row" }, pageLink(this.#tools, path, SESSIONS.open, "button"), end),
    );
  }

  async #end(session) {
    showRefusal(this.#refusal, null);
    this.#done.textContent = "";
    const { title, text, yes, no } = SESSIONS.confirm;
    const texts = [text, foreign(serverName(this.#tools, session.project_id, session.server_id))];
    if (!(await choose({ title, texts, yes, no, isDanger: true }))) return;
    this.#done.textContent = SESSIONS.ending;
    const reply = await this.#tools.session.write(`${PATH}/${session.id}`, {}, "DELETE");
    this.#done.textContent = reply.status === 204 ? SESSIONS.ended : "";
    if (reply.status !== 204) showRefusal(this.#refusal, reply);
    else this.#live.replace(without(this.#live.data, session.id));
    this.#live.retry();
  }
}

function without(data, id) {
  return { ...data, sessions: (data?.sessions ?? []).filter((one) => one.id !== id) };
}
