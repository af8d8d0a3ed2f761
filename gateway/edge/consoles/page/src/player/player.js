// The player's course: ticket, view, end.
import { plainText } from "../bounds.js";
import { takeTicket } from "../ticket.js";
import { View, copyToClipboard, element } from "../view.js";
import { CachedSource } from "./sources.js";
import { openStage } from "./stage.js";
import { ACTIONS, CARDS, LABELS, STATES, VIEW_ENDS } from "./texts.js";
import { ViewConnection } from "./view_connection.js";

const KEY = "recording-view";

const timers = {
  set: (action, delay) => setTimeout(action, delay),
  clear: (timer) => clearTimeout(timer),
};

/** What a tab keeps for a reload: the next ticket of its view, and where it was. */
class StoredView {
  load() {
    try {
      return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
    } catch {
      return {};
    }
  }

  save(data) {
    sessionStorage.setItem(KEY, JSON.stringify({ ...this.load(), ...data }));
  }

  clear() {
    sessionStorage.removeItem(KEY);
  }
}

export class Player {
  #config;
  #view;
  #stored = new StoredView();
  #connection = null;
  #source = null;
  #stage = null;
  #recording = null;
  #at = null;

  /** `config`: {ends, contact}. */
  constructor(config) {
    this.#config = config;
    this.#view = new View(STATES, "Console", config.contact);
  }

  start() {
    addEventListener("hashchange", () => location.reload());
    addEventListener("online", () => this.#connection?.retryNow());
    addEventListener("pagehide", () => {
      if (this.#stage) this.#stored.save({ at: this.#stage.clock });
    });
    const text = takeTicket(location, history);
    if (text !== null) this.#showReady(text);
    else if (this.#stored.load().ticket) this.#open();
    else this.#view.card("empty", { ...CARDS.empty, ...this.#again() });
  }

  /** `text`: the ticket, and perhaps `&at=` with the time to begin at. */
  #showReady(text) {
    const [ticket, ...more] = text.split("&");
    const at = Date.parse(new URLSearchParams(more.join("&")).get("at") ?? "");
    this.#stored.save({ ticket, at: Number.isFinite(at) ? at : null });
    const actions = [{ label: ACTIONS.play, act: () => this.#open(), isPrimary: true }];
    this.#view.card("ready", { ...CARDS.ready, actions });
  }

  #open() {
    this.#view.card("opening", { ...CARDS.opening, isBusy: true });
    this.#at = this.#stored.load().at ?? null;
    const url = new URL("player/socket", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.#connection = new ViewConnection({
      url: url.href,
      tickets: {
        load: () => this.#stored.load().ticket ?? "",
        save: (ticket) => this.#stored.save({ ticket }),
      },
      listener: {
        opened: (message) => this.#opened(message),
        lost: () => this.#lost(),
        ended: (end) => this.#ended(end),
      },
      openSocket: (address, protocol) => new WebSocket(address, protocol),
      timers,
    });
    this.#source = new CachedSource((part, chunk) => this.#connection.read(part, chunk));
    this.#connection.open();
  }

  #opened(message) {
    if (this.#stage) {
      // The same view after a lost network.
      this.#view.enter("paused");
      element("play").focus();
      return;
    }
    const { recording } = message;
    this.#recording = recording;
    this.#stage = openStage(message, {
      source: this.#source,
      readKeys: (part, chunk) => this.#connection.keys(part, chunk),
      view: this.#view,
      ends: this.#config.ends,
      at: this.#at,
    });
  }

  #lost() {
    this.#stage?.pause();
    const act = () => this.#connection.retryNow();
    const actions = [{ label: ACTIONS.retry, act, isPrimary: true }];
    this.#view.card("lost", { ...CARDS.lost, actions, isBusy: true });
  }

  #ended(end) {
    this.#stage?.close();
    this.#stage = null;
    this.#source.forget();
    this.#stored.clear();
    this.#view.closePanels();
    const known = VIEW_ENDS[end.reason] ?? this.#config.ends.find(({ name }) => name === end.reason);
    const { title, advice } = known ?? CARDS.unknownEnd;
    const facts = [];
    if (end.error_msg) facts.push(["Message", plainText(end.error_msg, 500)]);
    if (end.error_code) facts.push(["Code", plainText(end.error_code)]);
    if (end.request_id) facts.push(["Request ID", plainText(end.request_id)]);
    const isRefusal = Boolean(end.error_msg);
    this.#view.card("ended", { title, lead: advice, facts, ...this.#again(), isRefusal });
  }

  /** Return the command that requests a new address, and the button that copies it. */
  #again() {
    const id = this.#recording?.id;
    const text = id ? LABELS.command(plainText(id)) : LABELS.anyCommand;
    const act = async () => {
      const isCopied = await copyToClipboard(text);
      element("card-notice").textContent = isCopied ? LABELS.copied : LABELS.notCopied;
    };
    return {
      command: { label: LABELS.newAddress, text },
      actions: id ? [{ label: ACTIONS.copyCommand, act }] : [],
    };
  }
}
