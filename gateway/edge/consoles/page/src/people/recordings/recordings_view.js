// The recordings that the reader may view, page by page, and the way to the player.
import { plainText } from "../../bounds.js";
import { duration } from "../../texts.js";
import { labelled } from "../choice.js";
import { button, foreign, make, stateCard } from "../dom.js";
import { failureCard } from "../failure.js";
import { followNames, keepFocus, pageLink, serverName, showRefusal } from "../live_state.js";
import { LIVE } from "../live_texts.js";
import { clockTime } from "../times.js";
import { joined, lengthS, pagePath } from "./model.js";
import { play, whyNotPlayed } from "./play.js";
import { problemElement } from "./problems.js";
import { RECORDINGS } from "./texts.js";

const FIRST_SPAN = "week";

export class RecordingsView {
  #tools;
  #filters = { span: FIRST_SPAN, server: "", subject: "" };
  #found = [];
  /** Where the next page begins; null: there is none. */
  #until = null;
  #version = 0;
  #unfollow = null;
  #status = make("div", { attributes: { "aria-live": "polite" } });
  #table = make("div");
  #more = make("div", { className: "row" });
  #refusal = make("div", { className: "refusal", attributes: { role: "alert" } });
  #done = make("p", { className: "done", attributes: { role: "status" } });

  constructor(tools) {
    this.#tools = tools;
  }

  show(root, { query = new URLSearchParams() }) {
    this.#tools.title(RECORDINGS.title);
    this.#filters.server = (query.get("server") ?? "").slice(0, 64);
    root.replaceChildren(
      make("h1", { textContent: RECORDINGS.title, tabIndex: -1 }),
      make("p", { className: "lead", textContent: RECORDINGS.lead }),
      this.#form(),
      this.#status,
      this.#refusal,
      this.#done,
      this.#table,
      this.#more,
    );
    this.#search();
    this.#unfollow = followNames(this.#tools, () => {
      if (this.#found.length > 0) keepFocus(this.#table, () => this.#render(-1));
    });
  }

  close() {
    this.#unfollow();
    this.#version += 1;
  }

  #form() {
    const server = make("input", {
      name: "server",
      value: this.#filters.server,
      autocomplete: "off",
      spellcheck: false,
    });
    const subject = make("input", {
      name: "subject",
      autocomplete: "off",
      spellcheck: false,
      dir: "auto",
    });
    const span = make(
      "select",
      { name: "span" },
      Object.entries(RECORDINGS.spans).map(([value, textContent]) =>
        make("option", { value, textContent }),
      ),
    );
    span.value = this.#filters.span;
    const form = make(
      "form",
      { className: "filters", attributes: { role: "search" } },
      labelled(RECORDINGS.since, span),
      labelled(RECORDINGS.server, server),
      labelled(RECORDINGS.subject, subject),
      make("button", { type: "submit", textContent: RECORDINGS.search }),
    );
    const search = () => {
      this.#filters = {
        span: span.value,
        server: server.value.trim(),
        subject: subject.value.trim(),
      };
      this.#search();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      search();
    });
    span.addEventListener("change", search);
    return form;
  }

  #search() {
    this.#found = [];
    this.#until = null;
    this.#table.replaceChildren();
    this.#more.replaceChildren();
    this.#read(null);
  }

  async #read(until) {
    this.#version += 1;
    const version = this.#version;
    showRefusal(this.#refusal, null);
    this.#status.replaceChildren(
      stateCard({ state: "loading", title: LIVE.loading, isBusy: true }),
    );
    const reply = await this.#tools.session.get(pagePath(this.#filters, this.#tools.now(), until));
    if (version !== this.#version) return;
    if (reply.status !== 200) {
      this.#status.replaceChildren(
        failureCard(LIVE.failed, reply, () => this.#read(until), this.#tools.contact),
      );
      return;
    }
    const { recordings, more, until: next, complete } = reply.data;
    const firstNew = this.#found.length;
    this.#found = joined(this.#found, recordings);
    this.#until = more ? next : null;
    this.#status.replaceChildren(
      ...(complete ? [] : [make("p", { className: "warn", textContent: RECORDINGS.incomplete })]),
    );
    this.#render(until === null ? -1 : firstNew);
  }

  #render(focusAt) {
    const rows = this.#found.map((one) => this.#row(one));
    const names = Object.values(RECORDINGS.columns);
    this.#table.replaceChildren(
      rows.length === 0
        ? stateCard({ state: "empty", ...RECORDINGS.empty })
        : make(
            "table",
            { className: "cards" },
            make("caption", { textContent: RECORDINGS.count(rows.length) }),
            make(
              "thead",
              {},
              make(
                "tr",
                {},
                names.map((name) => make("th", { scope: "col", textContent: name })),
              ),
            ),
            make("tbody", {}, rows),
          ),
    );
    this.#more.replaceChildren(
      ...(this.#until === null ? [] : [button(RECORDINGS.more, () => this.#read(this.#until))]),
    );
    rows[focusAt]?.querySelector("a, button")?.focus();
  }

  #row(recording) {
    const { server, person } = recording;
    const path = `/servers/${server.project_id}/${server.id}`;
    const columns = RECORDINGS.columns;
    const cell = (name, ...content) => make("td", { data: { name } }, ...content);
    const seconds = lengthS(recording);
    return make(
      "tr",
      {},
      cell(
        columns.server,
        pageLink(this.#tools, path, foreign(serverName(this.#tools, server.project_id, server.id))),
      ),
      cell(
        columns.person,
        foreign(plainText(person.subject, 255)),
        make("small", { dir: "auto", textContent: plainText(person.issuer, 255) }),
      ),
      cell(
        columns.started,
        pageLink(this.#tools, `/recordings/${recording.id}`, clockTime(recording.started_at)),
      ),
      cell(
        columns.length,
        seconds === null
          ? (RECORDINGS.states[recording.state] ?? RECORDINGS.states.in_progress)
          : duration(seconds),
        this.#marks(recording),
      ),
      cell(
        columns.host,
        ...recording.hosts.map((host) =>
          make("div", { dir: "auto", textContent: plainText(host, 255) }),
        ),
        problemElement(recording),
      ),
      cell(columns.play, this.#playButton(recording)),
    );
  }

  #marks({ mode, keystrokes, held }) {
    const marks = [
      mode === "view" ? RECORDINGS.view : "",
      keystrokes ? RECORDINGS.keys : "",
      held ? RECORDINGS.held : "",
    ];
    return make(
      "span",
      { className: "badges" },
      marks.filter(Boolean).map((text) => make("span", { className: "badge", textContent: text })),
    );
  }

  #playButton(recording) {
    const why = whyNotPlayed(recording);
    if (why) return make("span", { className: "hint", textContent: why });
    const act = () =>
      play(this.#tools, recording.id, { pressed: made, done: this.#done, refusal: this.#refusal });
    const made = button(RECORDINGS.play, act, { id: `play-${recording.id}` });
    made.setAttribute(
      "aria-label",
      RECORDINGS.playOf(
        serverName(this.#tools, recording.server.project_id, recording.server.id),
        clockTime(recording.started_at),
      ),
    );
    return made;
  }
}
