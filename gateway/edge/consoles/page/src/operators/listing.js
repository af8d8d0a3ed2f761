// A table that is read from the gateway: loading, empty, rows, or an error with what was shown.
import { LISTING, STATES } from "./texts.js";
import { button, make } from "../people/dom.js";
import { clockTime } from "../people/times.js";
import { text } from "./dom.js";

const ROWS_MAX = 200;
let listings = 0;

export class Listing {
  #tools;
  #load;
  #columns;
  #actions;
  #empty;
  #rows = [];
  #note = "";
  #next = "";
  #shownMax = ROWS_MAX;
  #readings = 0;
  #parts = {};

  /**
   * `load(before)` returns {status, data, rows, note, next}: `next` begins the next page, where
   * there is one. `columns` are [name, row => text]; `actions` are
   * {label, permits, act}: `act(row)` returns whether the rows have changed. `before` is shown
   * until the first reading.
   */
  constructor(tools, { name, load, columns, empty, before = "", actions = [], more = [] }) {
    this.#tools = tools;
    this.#load = load;
    this.#columns = columns;
    this.#actions = actions;
    this.#empty = empty;
    const id = `op-listing-${(listings += 1)}`;
    const parts = this.#parts;
    parts.filter = make("input", {
      type: "search",
      placeholder: LISTING.filter,
      attributes: { "aria-label": `${LISTING.filter}: ${name}` },
      on: { input: () => this.#render() },
    });
    parts.refresh = button(LISTING.refresh, () => this.refresh());
    parts.notice = make("p", { className: "op-notice", textContent: before, attributes: { role: "status" } });
    parts.table = make("table", { attributes: { "aria-labelledby": id } });
    const region = { role: "region", "aria-label": LISTING.region(name) };
    parts.box = make("div", { className: "op-scroll", tabIndex: 0, attributes: region }, parts.table);
    parts.foot = make("p", { className: "hint" });
    parts.older = button(LISTING.older, () => this.#read(this.#next));
    parts.older.hidden = true;
    this.element = make(
      "section",
      { className: "op-listing", attributes: { "aria-labelledby": id } },
      make("div", { className: "op-bar" }, make("h2", { id, textContent: name }), parts.filter, more, parts.refresh),
      parts.notice,
      parts.box,
      parts.older,
      parts.foot,
    );
    parts.box.hidden = true;
  }

  /** Read the rows again. What was shown stays until they are there. */
  refresh() {
    return this.#read("");
  }

  /** Read the rows, or a further page of them. */
  async #read(before) {
    const { notice, refresh, older } = this.#parts;
    const reading = (this.#readings += 1);
    refresh.disabled = true;
    older.disabled = true;
    this.element.setAttribute("aria-busy", "true");
    if (!this.#rows.length) notice.textContent = STATES.loading;
    const { status, data, rows, note = "", next = "" } = await this.#load(before);
    if (reading !== this.#readings) return undefined; // a later one may have other choices
    refresh.disabled = false;
    older.disabled = false;
    this.element.removeAttribute("aria-busy");
    if (status === 401) return this.#tools.expired();
    if (status !== 200) {
      notice.textContent = this.#tools.problem(status, data);
      return undefined;
    }
    this.#rows = before ? [...this.#rows, ...rows] : rows;
    this.#shownMax = before ? this.#shownMax + rows.length : ROWS_MAX;
    this.#note = note;
    this.#next = next;
    older.hidden = !next;
    this.#parts.foot.textContent = LISTING.updated(clockTime(Date.now()));
    this.#render();
    return undefined;
  }

  #render() {
    const { filter, notice, table, box } = this.#parts;
    const wanted = filter.value.trim().toLowerCase();
    const actions = this.#actions.filter(({ permission }) => this.#tools.may(permission));
    const cells = this.#rows.map((row) => [row, this.#columns.map(([, cell]) => text(cell(row)))]);
    const matching = wanted
      ? cells.filter(([, texts]) => texts.join(" ").toLowerCase().includes(wanted))
      : cells;
    const shown = matching.slice(0, this.#shownMax);
    const notes = [this.#note];
    if (!cells.length) notes.push(this.#empty);
    else if (!matching.length) notes.push(LISTING.noMatch);
    if (matching.length > shown.length) notes.push(LISTING.some(shown.length, matching.length));
    notice.textContent = notes.filter(Boolean).join(" ");
    box.hidden = !shown.length;
    const names = this.#columns.map(([name]) => make("th", { scope: "col", textContent: name }));
    if (actions.length) names.push(make("th", { scope: "col", textContent: LISTING.actions }));
    const rows = shown.map(([row, texts]) => {
      const line = texts.map((one, i) =>
        make("td", { data: { name: this.#columns[i][0] } }, make("span", { dir: "auto", textContent: one })));
      if (actions.length) line.push(this.#actionCell(actions, row, texts[0]));
      return make("tr", {}, line);
    });
    table.replaceChildren(make("thead", {}, make("tr", {}, names)), make("tbody", {}, rows));
  }

  #actionCell(actions, row, name) {
    const possible = actions.filter(({ applies }) => !applies || applies(row));
    const buttons = possible.map(({ label, act }) => {
      const made = button(label, async () => {
        if (await act(row)) await this.refresh();
      });
      made.setAttribute("aria-label", `${label}: ${name}`);
      return made;
    });
    return make("td", { className: "op-actions" }, buttons);
  }
}
