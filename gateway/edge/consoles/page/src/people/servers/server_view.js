// The page of one server: facts, its console, power, and a link to send.
import { copyToClipboard } from "../../view.js";
import { ModalCard } from "../dialog.js";
import { button, factList, foreign, make, shownName, stateCard } from "../dom.js";
import { contactLink, failureCard } from "../failure.js";
import { FAILURES, LIST, PERMISSIONS, POWER, SERVER } from "../texts.js";
import { ago, clockTime } from "../times.js";
import { ConsoleDialog } from "./console_dialog.js";
import { mayOpen, mayWatch } from "./list_model.js";
import { PowerDialog } from "./power_dialog.js";
import { powerText, stateMark, tagElements, useText } from "./server_words.js";

const AGE_EVERY_MS = 1_000;

export class ServerView {
  #tools;
  #store;
  #root = null;
  #params = null;
  #parts = {};
  #card = null;
  #consoles = null;
  #power = null;
  #unfollow = null;
  #timer = null;
  #shown = "";

  constructor(tools) {
    this.#tools = tools;
    this.#store = tools.servers;
  }

  show(root, params) {
    this.#root = root;
    this.#params = params;
    this.#card = new ModalCard();
    this.#consoles = new ConsoleDialog(this.#tools, this.#card, (row) => this.#tools.recent.add(row.key));
    this.#power = new PowerDialog(this.#tools, this.#card);
    this.#unfollow = this.#store.follow((isChanged) => this.#update(isChanged));
    this.#timer = setInterval(() => this.#showAge(), AGE_EVERY_MS);
    this.#update(true);
  }

  close() {
    this.#unfollow();
    this.#consoles.close();
    this.#card.dispose();
    clearInterval(this.#timer);
  }

  get #row() {
    return this.#store.find(this.#params.project, this.#params.server);
  }

  #update(isChanged) {
    if (this.#store.isLoaded) {
      if (isChanged) this.#showServer();
      this.#showAge();
    } else if (this.#store.failure) {
      this.#showFailure();
    } else {
      this.#place("loading", stateCard({ state: "loading", ...LIST.loading, isBusy: true }));
    }
  }

  #showFailure() {
    const reply = this.#store.failure;
    if (this.#shown === `failed ${reply.status}`) return;
    const retry = () => {
      this.#store.failure = null;
      this.#update(false);
      this.#store.start();
    };
    this.#place(`failed ${reply.status}`, failureCard(FAILURES.title, reply, retry, this.#tools.contact));
  }

  #showServer() {
    const row = this.#row;
    if (row === null) this.#showUnknown();
    else this.#showKnown(row);
  }

  #place(shown, ...content) {
    this.#shown = shown;
    this.#tools.title(shown === "known" ? this.#parts.title.textContent : SERVER.page);
    this.#root.replaceChildren(this.#back(), ...content);
  }

  #back() {
    return make("p", { className: "back" }, make("a", { href: this.#tools.address("/") }, SERVER.back));
  }

  /** The same page for a server that does not exist and one without access. */
  #showUnknown() {
    if (this.#shown === "unknown") return;
    const { asks, contact } = this.#tools;
    const { project, server } = this.#params;
    const actions = asks
      ? [make("a", { className: "button", href: this.#tools.address(asks(project, server)) }, SERVER.ask)]
      : [];
    const card = stateCard({
      state: "unknown",
      ...SERVER.unknown,
      facts: [[SERVER.facts.project, project], [SERVER.facts.id, server]],
      actions,
    });
    const help = contactLink(contact);
    if (help) card.append(help);
    this.#place("unknown", make("h1", { className: "unseen", tabIndex: -1 }, SERVER.page), card);
  }

  #showKnown(row) {
    if (this.#shown !== "known") this.#build();
    const { title, actions, facts, power } = this.#parts;
    const name = shownName(row.name, row.id);
    if (title.textContent !== name) title.replaceChildren(foreign(name));
    this.#tools.title(name);
    facts.replaceChildren(factList(this.#facts(row)));
    const may = JSON.stringify([[...row.may].sort(), row.project.delivery, row.power]);
    if (may === this.#parts.may) return;
    this.#parts.may = may;
    actions.replaceChildren(...this.#actions(row));
    power.replaceChildren(...this.#powerActions(row));
  }

  #build() {
    this.#parts = {
      title: make("h1", { tabIndex: -1 }),
      actions: make("div", { className: "row", id: "actions" }),
      facts: make("div", { id: "facts" }),
      age: make("p", { className: "hint", id: "age" }),
      power: make("section", { id: "power", attributes: { "aria-label": SERVER.power } }),
      notice: make("p", { className: "hint", id: "notice", attributes: { role: "status" } }),
      may: "",
    };
    const { title, actions, facts, age, power, notice } = this.#parts;
    const card = make("section", { className: "card server" }, title, actions, notice, facts, age, power);
    this.#place("known", card);
  }

  #actions(row) {
    const isOpened = mayOpen(row);
    const open = isOpened || mayWatch(row)
      ? button(isOpened ? SERVER.open : SERVER.watch, () => this.#consoles.open(this.#row ?? row), { isPrimary: true })
      : null;
    const { asks } = this.#tools;
    const path = asks?.(row.project.project_id, row.id);
    const ask = asks && !isOpened
      ? make("a", { className: "button", href: this.#tools.address(path) }, SERVER.ask)
      : null;
    return [open, ask, button(SERVER.copy, () => this.#copyLink())].filter(Boolean);
  }

  #powerActions(row) {
    if (!row.may.has("server:power")) return [];
    const offered = Object.keys(POWER).filter((one) => (row.power === "on" ? one !== "on" : true));
    const buttons = offered
      .filter((one) => row.power !== "off" || one === "on")
      .map((one) => button(POWER[one].label, () => this.#power.ask(this.#row ?? row, one)));
    return [make("h2", {}, SERVER.power), make("div", { className: "row" }, buttons)];
  }

  #facts(row) {
    const { project } = row;
    const words = SERVER.facts;
    const may = [...row.may].sort().map((one) => PERMISSIONS[one] ?? one).join(", ");
    const isReadable = row.may.has("server:read");
    const state = (kind, value, text) => (value ? stateMark(kind, value, text) : isReadable ? SERVER.unknownValue : "");
    return [
      [words.id, row.id],
      [words.project, [shownName(project.project_name, project.project_id), project.account]
        .map((one) => shownName(one)).filter(Boolean).join(" · ")],
      [words.location, shownName(row.location)],
      [words.model, shownName(row.model)],
      [words.power, state("power", row.power, powerText(row))],
      [words.health, state("health", row.health, shownName(row.health))],
      [words.tags, row.tags.length ? make("span", { className: "tags" }, tagElements(row)) : ""],
      [words.use, useText(row) === "" ? SERVER.unused : (useText(row) ?? "")],
      [words.delivery, mayOpen(row) || mayWatch(row) ? SERVER.delivery[project.delivery] : ""],
      [words.may, may],
    ];
  }

  #showAge() {
    const readAt = this.#row?.readAt;
    if (this.#shown !== "known" || !readAt) return;
    const text = SERVER.asOf(clockTime(readAt), ago(readAt, this.#tools.now()));
    if (this.#parts.age.textContent !== text) this.#parts.age.textContent = text;
  }

  async #copyLink() {
    const isCopied = await copyToClipboard(location.origin + location.pathname);
    this.#parts.notice.textContent = isCopied ? SERVER.copied : SERVER.notCopied;
  }
}
