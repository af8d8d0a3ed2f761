// The list of servers: search as one types, filters, order, and a window of rows.
import { duration } from "../../texts.js";
import { ModalCard } from "../dialog.js";
import { button, foreign, make, shownName, stateCard } from "../dom.js";
import { contactLink, failureCard } from "../failure.js";
import { FAILURES, LIST, SERVER } from "../texts.js";
import { ageS, clockTime } from "../times.js";
import { ConsoleDialog } from "./console_dialog.js";
import { matcher, mayOpen, mayWatch, sorted, valuesOf } from "./list_model.js";
import { RowWindow } from "./row_window.js";
import { powerText, serverPath, stateMark, tagElements, useText } from "./server_words.js";

const STORED = "servers-view";
const COLUMNS = ["name", "location", "power", "health", "tags", "use", "action"];
const SORTABLE = ["name", "location", "power", "health", "tags", "use"];
const FILTERS = ["region", "power", "health", "may"];
const SLOW_AFTER_MS = 5_000;
const AGE_EVERY_MS = 1_000;

export class ServersView {
  #tools;
  #store;
  #root = null;
  #parts = {};
  #window = null;
  #card = null;
  #consoles = null;
  #unfollow = null;
  #timers = [];
  #wanted = { search: "", filters: {}, sort: { column: "name", isDescending: false } };
  #ordered = [];
  #items = [];
  #failed = null;
  #keys = new AbortController();

  constructor(tools) {
    this.#tools = tools;
    this.#store = tools.servers;
  }

  show(root) {
    this.#root = root;
    this.#tools.title(LIST.title);
    this.#restore();
    this.#card = new ModalCard();
    this.#consoles = new ConsoleDialog(this.#tools, this.#card, (row) => this.#tools.recent.add(row.key));
    this.#unfollow = this.#store.follow((isChanged) => this.#update(isChanged));
    this.#timers.push(setInterval(() => this.#showAge(), AGE_EVERY_MS));
    if (this.#store.isLoaded) this.#build();
    else this.#showWaiting();
  }

  close() {
    this.#save();
    this.#unfollow();
    this.#window?.close();
    this.#consoles.close();
    this.#card.dispose();
    this.#keys.abort();
    for (const timer of this.#timers) clearInterval(timer);
  }

  // States without a list

  #showWaiting() {
    const card = stateCard({ state: "loading", ...LIST.loading, isBusy: true });
    this.#root.replaceChildren(make("h1", { className: "unseen", tabIndex: -1 }, LIST.title), card);
    const slow = setTimeout(() => card.append(make("p", { className: "lead" }, LIST.slow)), SLOW_AFTER_MS);
    this.#timers.push(slow);
    if (this.#store.failure) this.#showFailure();
  }

  #showFailure() {
    const reply = this.#store.failure;
    if (this.#failed === reply.status) return; // the person may be about to press its button
    const retry = () => {
      this.#failed = null;
      this.#store.failure = null;
      this.#showWaiting();
      this.#store.start();
    };
    this.#failed = reply.status;
    const card = failureCard(FAILURES.title, reply, retry, this.#tools.contact);
    this.#root.replaceChildren(make("h1", { className: "unseen", tabIndex: -1 }, LIST.title), card);
  }

  // The list

  #build() {
    const search = this.#searchField();
    const table = this.#table();
    this.#parts = {
      ...this.#parts,
      count: make("p", { id: "list-count", attributes: { role: "status" } }),
      age: make("p", { id: "list-age" }),
      notes: make("ul", { id: "list-notes" }),
      recent: make("nav", { id: "recent", attributes: { "aria-label": LIST.recent } }),
      nothing: make("div", { id: "list-nothing" }),
    };
    const { count, age, notes, recent, nothing } = this.#parts;
    const head = make("div", { className: "view-head" }, make("h1", { tabIndex: -1 }, LIST.title), count, age);
    this.#root.replaceChildren(head, search, notes, recent, table, nothing);
    this.#window = new RowWindow(this.#parts.rows, {
      render: (row, index) => this.#row(row, index),
      key: (row) => row.key,
    });
    this.#listenToKeys();
    this.#update(true);
    scrollTo({ top: this.#wanted.scrollY ?? 0 });
    if (!matchMedia("(pointer: coarse)").matches) this.#parts.search.focus({ preventScroll: true });
  }

  #searchField() {
    const search = make("input", {
      type: "search",
      id: "search",
      value: this.#wanted.search,
      placeholder: LIST.search,
      autocomplete: "off",
      spellcheck: false,
      maxLength: 200,
      attributes: { "aria-label": LIST.search, "aria-keyshortcuts": "/" },
      on: {
        input: () => {
          this.#wanted.search = search.value;
          this.#select();
        },
      },
    });
    const filters = make("div", { id: "filters" });
    const reset = button(LIST.reset, () => this.#reset(), { id: "reset", hidden: true });
    Object.assign(this.#parts, { search, filters, reset });
    this.#parts.searching = make("search", { id: "searching" }, search, filters);
    return this.#parts.searching;
  }

  #choice(name, label, values) {
    const options = values.map(([value, text]) =>
      make("option", { value, textContent: text, dir: "auto" }));
    const select = make("select", {
      id: `choice-${name}`,
      attributes: { "aria-label": label },
      on: { change: () => this.#choose(name, select.value) },
    }, options);
    const isKnown = values.some(([value]) => value === this.#chosen(name));
    select.value = isKnown ? this.#chosen(name) : values[0][0];
    if (!isKnown) this.#keep(name, select.value);
    return make("label", { className: `choice choice-${name}` }, label, select);
  }

  #chosen(name) {
    return name === "sort" ? this.#wanted.sort.column : (this.#wanted.filters[name] ?? "");
  }

  #keep(name, value) {
    if (name === "sort") this.#wanted.sort = { column: value, isDescending: false };
    else this.#wanted.filters[name] = value;
  }

  #choose(name, value) {
    this.#keep(name, value);
    if (name === "sort") this.#order();
    this.#select();
  }

  /** Offer the values that occur. */
  #showChoices() {
    const { rows } = this.#store;
    const all = [["", LIST.all]];
    const found = {
      region: valuesOf(rows, "region").map((one) => [one, shownName(one)]),
      power: valuesOf(rows, "power").map((one) => [one, SERVER.powerStates[one] ?? shownName(one)]),
      health: valuesOf(rows, "health").map((one) => [one, shownName(one)]),
      may: Object.entries(LIST.mayValues),
    };
    const choices = FILTERS.filter((name) => found[name].length > 1 || this.#wanted.filters[name]).map(
      (name) => this.#choice(name, LIST[name], [...all, ...found[name]]),
    );
    const columns = SORTABLE.map((name) => [name, LIST.columns[name]]);
    const offered = JSON.stringify([found, this.#wanted]);
    if (offered === this.#parts.offered) return;
    this.#parts.offered = offered;
    this.#parts.filters.replaceChildren(
      ...choices, this.#choice("sort", LIST.sort, columns), this.#parts.reset);
  }

  #table() {
    const headers = COLUMNS.map((name) =>
      make("div", { className: `cell-${name}`, data: { column: name }, attributes: { role: "columnheader" } },
        SORTABLE.includes(name)
          ? button(LIST.columns[name], () => this.#sortBy(name), { className: "sorter" })
          : make("span", { className: "unseen" }, LIST.columns[name])));
    const head = make("div", { className: "table-head", attributes: { role: "rowgroup" } },
      make("div", { className: "table-row", attributes: { role: "row", "aria-rowindex": "1" } }, headers));
    const rows = make("div", { id: "rows", attributes: { role: "rowgroup" } });
    const attributes = { role: "table", "aria-label": LIST.table };
    const table = make("div", { id: "servers", attributes }, head, rows);
    Object.assign(this.#parts, { headers, rows, table });
    return table;
  }

  #row(row, index) {
    const cell = (name, ...content) =>
      make("div", { className: `cell-${name}`, attributes: { role: "cell" } }, ...content);
    const name = shownName(row.name, row.id);
    const link = make("a", { href: this.#tools.address(serverPath(row)), title: name }, foreign(name));
    const label = mayOpen(row) ? SERVER.open : SERVER.watch;
    const open = mayOpen(row) || mayWatch(row)
      ? button(label, () => this.#consoles.open(row), { attributes: { "aria-label": `${label}: ${name}` } })
      : null;
    return make(
      "div",
      { className: "server-row table-row", attributes: { role: "row", "aria-rowindex": String(index + 2) } },
      cell("name", link, make("small", {}, row.name ? row.id : "")),
      cell("location", foreign(shownName(row.location))),
      cell("power", row.power ? stateMark("power", row.power, powerText(row)) : null),
      cell("health", row.health ? stateMark("health", row.health, shownName(row.health)) : null),
      cell("tags", tagElements(row)),
      cell("use", useText(row) ? foreign(useText(row), "in-use") : null),
      cell("action", open),
    );
  }

  // What is shown

  #update(isChanged) {
    if (!this.#window) {
      if (this.#store.isLoaded) this.#build();
      else if (this.#store.failure) this.#showFailure();
      return;
    }
    if (isChanged) {
      this.#showChoices();
      this.#order();
      this.#showRecent();
      this.#showNotes();
      this.#select();
    }
    this.#showAge();
  }

  #order() {
    const { sort } = this.#wanted;
    const isByName = sort.column === "name" && !sort.isDescending;
    this.#ordered = isByName ? this.#store.rows : sorted(this.#store.rows, sort);
    for (const header of this.#parts.headers) {
      const direction = sort.isDescending ? "descending" : "ascending";
      const isSorted = header.dataset.column === sort.column;
      if (SORTABLE.includes(header.dataset.column)) {
        header.setAttribute("aria-sort", isSorted ? direction : "none");
      }
    }
  }

  #sortBy(column) {
    const { sort } = this.#wanted;
    const isDescending = sort.column === column && !sort.isDescending;
    this.#wanted.sort = { column, isDescending };
    this.#order();
    this.#select();
  }

  /** Apply search and filters: no request, and only the rows on the screen are rendered. */
  #select() {
    const total = this.#ordered.length;
    this.#items = this.#ordered.filter(matcher(this.#wanted));
    const isWanted = this.#wanted.search !== "" || Object.values(this.#wanted.filters).some(Boolean);
    this.#parts.count.textContent = LIST.count(this.#items.length, total);
    this.#parts.reset.hidden = !isWanted;
    this.#parts.table.hidden = this.#items.length === 0;
    this.#parts.table.setAttribute("aria-rowcount", String(this.#items.length + 1));
    this.#showNothing(total);
    this.#window.items = this.#items;
  }

  #showNothing(total) {
    const { nothing, searching } = this.#parts;
    searching.hidden = total === 0;
    if (this.#items.length > 0) nothing.replaceChildren();
    else if (total === 0) {
      const { asks } = this.#tools;
      const link = asks ? [make("a", { href: this.#tools.address(asks()), className: "button" }, SERVER.ask)] : [];
      const help = contactLink(this.#tools.contact);
      const card = stateCard({ state: "empty", ...LIST.empty, actions: link });
      if (help) card.append(help);
      nothing.replaceChildren(card);
    } else {
      const reset = button(LIST.reset, () => this.#reset());
      nothing.replaceChildren(stateCard({ state: "no-match", ...LIST.noMatch, actions: [reset] }));
    }
  }

  #reset() {
    this.#wanted.search = this.#parts.search.value = "";
    this.#wanted.filters = {};
    this.#parts.offered = "";
    this.#showChoices();
    this.#select();
    this.#parts.search.focus();
  }

  #showRecent() {
    const rows = this.#tools.recent.keys.map((key) => this.#store.find(...key.split("/"))).filter(Boolean);
    this.#parts.recent.hidden = rows.length === 0 || this.#store.rows.length <= rows.length;
    const links = rows.map((row) =>
      make("a", { href: this.#tools.address(serverPath(row)) }, foreign(shownName(row.name, row.id))));
    this.#parts.recent.replaceChildren(make("span", {}, `${LIST.recent}:`), ...links);
  }

  #showNotes() {
    const notes = this.#store.projects.filter((one) => one.isCurrent === false || one.problem).map((one) => {
      const name = shownName(one.project_name, one.project_id);
      const state = one.listedAt === null ? LIST.unread(name) : LIST.listed(name, clockTime(one.listedAt));
      return [state, one.isCurrent ? "" : LIST.old, LIST.problems[one.problem] ?? ""].join(" ").trim();
    });
    if (!this.#store.isPresenceComplete) notes.push(LIST.incomplete);
    this.#parts.notes.replaceChildren(...notes.map((text) => make("li", { dir: "auto" }, text)));
  }

  #showAge() {
    if (!this.#window) return;
    const ages = this.#store.projects
      .filter((one) => one.servers.length > 0)
      .map((one) => ageS(one.listedAt, this.#tools.now()))
      .filter((one) => one !== null);
    const text = ages.length ? LIST.age(duration(Math.max(...ages))) : "";
    if (this.#parts.age.textContent !== text) this.#parts.age.textContent = text;
  }

  // Keys

  #listenToKeys() {
    const { signal } = this.#keys;
    document.addEventListener("keydown", (event) => this.#onKey(event), { signal });
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.#card.isOpen) return;
    const { search } = this.#parts;
    const isTyping = event.target.matches?.("input, select, textarea");
    if (event.key === "/" && !isTyping) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "ArrowDown" && (event.target === search || this.#window.focusedIndex >= 0)) {
      if (this.#window.focus(this.#window.focusedIndex + 1)) event.preventDefault();
    } else if (event.key === "ArrowUp" && this.#window.focusedIndex >= 0) {
      event.preventDefault();
      if (!this.#window.focus(this.#window.focusedIndex - 1)) search.focus();
    }
  }

  // What a reload and a new login bring back

  #restore() {
    try {
      const { search, filters, sort, scrollY: top } = JSON.parse(sessionStorage.getItem(STORED));
      const isSort = SORTABLE.includes(sort.column);
      this.#wanted = {
        search: String(search),
        filters: Object.fromEntries(FILTERS.map((name) => [name, String(filters[name] ?? "")])),
        sort: isSort ? { column: sort.column, isDescending: sort.isDescending === true } : this.#wanted.sort,
        scrollY: Number(top) || 0,
      };
    } catch {
      // Nothing is stored, or not by this version.
    }
    addEventListener("pagehide", () => this.#save(), { signal: this.#keys.signal });
  }

  #save() {
    const { search, filters, sort } = this.#wanted;
    sessionStorage.setItem(STORED, JSON.stringify({ search, filters, sort, scrollY }));
  }
}
