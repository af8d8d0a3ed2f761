// The page's course: ticket, session, end.
import { ScreenTooLarge, Screen } from "./screen.js";
import { plainText } from "./bounds.js";
import { Connection } from "./connection.js";
import { Controls } from "./controls.js";
import { ResumePolicy } from "./resume.js";
import { StoredSession, lockSession } from "./storage.js";
import {
  ACTIONS, CARDS, ENDS_BY, FACTS, LABELS, MODES, NO_ANSWER_LEAD, REJECTION_LEAD, SPENT_LEAD, STATES,
  WARNINGS, clock, duration, rejectionTitle,
} from "./texts.js";
import { TicketClient, takeTicket } from "./ticket.js";
import { View, ask, copyToClipboard, element, fillFacts } from "./view.js";

/** Statuses of a redemption that leave the ticket as it is: 0 is a missing answer. */
const UNSPENT = new Set([0, 409, 429, 503]);
const FRESH_LOGIN_CODE = "CGW.4036";
/** Codes of answers that a login changes; they leave the ticket as it is. */
const LOGIN_CODES = new Set(["CGW.4011", FRESH_LOGIN_CODE]);
const OTHER_PERSON_CODE = "CGW.4038";
/** Ends that are up to the operators. */
const REFUSALS = new Set([
  "operator", "right_ended", "cloud_unavailable", "protocol_error", "recording_failed",
]);
const NOTICE_MS = 10000;
const ANY_SERVER = { label: LABELS.newAddress, text: LABELS.anyServer };

const timers = {
  now: () => Date.now(),
  set: (action, delay) => setTimeout(action, delay),
  clear: (timer) => clearTimeout(timer),
};

/** Return a person as text: a subject with its issuer, or what the gateway sent. */
function personFact(name, person) {
  if (typeof person === "string") return [name, plainText(person)];
  return [name, plainText(person.subject), plainText(person.issuer)];
}

export class App {
  #config;
  #view;
  #controls;
  #stored = new StoredSession(sessionStorage);
  #client = null;
  #offer = null;
  #connection = null;
  #screen = null;
  #session = null;
  #warnings = new Map();
  #watchers = [];
  #screenName = "";
  #securityMessage = null;
  #skew = 0;
  #releaseLock = () => {};

  /** `config`: {ends, resume_within_s, ticket_lifetime_s, has_logins, has_pages, contact}. */
  constructor(config) {
    this.#config = config;
    this.#view = new View(STATES, "Console", config.contact);
    this.#controls = new Controls(this.#view, () => this.#connection?.end());
  }

  start() {
    setInterval(() => this.#tick(), 1000);
    addEventListener("hashchange", () => this.#readAddress());
    addEventListener("pagehide", () => {
      // A session that is long gone may be unknown to the gateway: the next page must not wait.
      if (this.#stored.load()) this.#stored.save({ left_at: Date.now() });
    });
    addEventListener("online", () => this.#connection?.retryNow());
    addEventListener("beforeunload", (event) => {
      // Ctrl + W is a key of many consoles, and would close the tab.
      if (this.#view.state === "live" && !this.#controls.viewOnly) event.preventDefault();
    });
    document.addEventListener("keydown", (event) => this.#connectOnEnter(event));
    element("info-panel").addEventListener("beforetoggle", () => this.#fillInfo());
    const stored = this.#stored.load();
    if (!this.#readAddress()) {
      if (stored) this.#resume(stored);
      else if (this.#config.has_logins) this.#checkParked();
      else this.#showEmpty();
    }
  }

  #showEmpty() {
    this.#view.card("empty", { ...CARDS.empty, command: ANY_SERVER });
  }

  /** Return whether the address has a ticket. */
  #readAddress() {
    const ticket = takeTicket(location, history);
    if (ticket === null) return false;
    if (this.#connection === null) {
      this.#check(ticket);
    } else {
      this.#notify(CARDS.busyAddress);
    }
    return true;
  }

  /** Show a text for a while, in place of a warning. */
  #notify(text) {
    this.#view.warn(text);
    timers.set(() => this.#showWarning(), NOTICE_MS);
  }

  // Ticket

  /** Show the ticket that waits in this browser for the login of its person, if there is one. */
  async #checkParked() {
    const reply = await this.#describe(null);
    if (reply.status === 410) this.#showEmpty();
    else this.#described(reply);
  }

  async #check(ticket) {
    this.#described(await this.#describe(ticket));
  }

  #describe(ticket) {
    this.#view.card("checking", { ...CARDS.checking, isBusy: true });
    const lifetimeMs = 1000 * this.#config.ticket_lifetime_s;
    this.#client = new TicketClient({ ticket, lifetimeMs, fetch: fetch.bind(window), timers });
    return this.#client.describe();
  }

  #described(reply) {
    if (reply.serverTime !== null) this.#skew = reply.serverTime - Date.now();
    if (this.#needsLogin(reply)) {
      this.#askForLogin(reply);
      return;
    }
    if (!reply.ok) {
      this.#rejected(reply);
      return;
    }
    this.#offer = reply.data;
    this.#view.server = this.#serverName(this.#offer.server);
    this.#showReady();
  }

  #needsLogin({ data }) {
    return this.#config.has_logins && LOGIN_CODES.has(data.error_code);
  }

  /** Park the ticket, and lead to the login; it comes back to this page. */
  async #askForLogin({ data }) {
    const parked = this.#client.isParked ? { ok: true } : await this.#client.park();
    if (!parked.ok) {
      this.#rejected(parked);
      return;
    }
    const query = new URLSearchParams({ return: location.pathname });
    if (data.error_code === FRESH_LOGIN_CODE) query.set("fresh", "1");
    const act = () => location.assign(`login?${query}`);
    const actions = [{ label: ACTIONS.logIn, act, isPrimary: true }];
    this.#view.card("login", { ...CARDS.login, actions });
  }

  #serverName(server) {
    return plainText(server.name || server.id);
  }

  #serverFacts({ server, person }) {
    const name = this.#serverName(server);
    const id = plainText(server.id);
    return [
      [FACTS.server, name, name === id ? null : id],
      [FACTS.project, plainText(server.project_id)],
      personFact(FACTS.person, person),
    ];
  }

  #useText({ since, by, own }) {
    const at = new Date(since).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    if (own) return LABELS.ownUse(at);
    return LABELS.inUse(at, by ? plainText(by.subject ?? by) : null);
  }

  #readyFacts() {
    const offer = this.#offer;
    const facts = [...this.#serverFacts(offer), [FACTS.mode, MODES[offer.mode]]];
    if (offer.recorded) facts.push([FACTS.recorded, LABELS.recorded(offer)]);
    if (offer.in_use) facts.push([FACTS.use, this.#useText(offer.in_use)]);
    const left = (this.#client.deadline - Date.now()) / 1000;
    return [...facts, [FACTS.expires, LABELS.validFor(left)]];
  }

  #showReady() {
    const { title, lead } = CARDS.ready;
    this.#view.card("ready", {
      title: title(this.#serverName(this.#offer.server)),
      lead,
      facts: this.#readyFacts(),
      actions: [{ label: ACTIONS.connect, act: () => this.#connect(), isPrimary: true }],
    });
  }

  #connectOnEnter(event) {
    const isFree = !event.target.closest?.("button, a, dialog, input, textarea");
    if (event.key === "Enter" && this.#view.state === "ready" && isFree) this.#connect();
  }

  async #connect() {
    const { in_use: use, mode } = this.#offer;
    if (!use || mode === "view") {
      await this.#redeem(mode, false);
      return;
    }
    element("use-text").textContent = this.#useText(use);
    element("use-take").hidden = !use.may_take_over;
    element("use-view").hidden = !use.may_view;
    element("use-title").textContent = use.own ? LABELS.ownTitle : LABELS.useTitle;
    element("use-hint").textContent = use.own
      ? LABELS.ownHint
      : LABELS.useHint(use.may_take_over, use.may_view);
    const dialog = element("use-dialog");
    for (const choice of ["take", "view"]) {
      element(`use-${choice}`).onclick = () => dialog.close(choice);
    }
    const { choice } = await ask(dialog);
    if (this.#view.state !== "ready") return;
    if (choice === "take") await this.#redeem("control", true);
    if (choice === "view") await this.#redeem("view", false);
  }

  async #redeem(mode, takeOver) {
    this.#view.card("opening", { ...CARDS.opening, isBusy: true });
    const reply = await this.#client.redeem(mode, takeOver);
    if (reply.status === 409 && reply.data.in_use) {
      this.#offer.in_use = reply.data.in_use;
      this.#showReady();
      await this.#connect();
      return;
    }
    if (this.#needsLogin(reply)) {
      this.#askForLogin(reply);
      return;
    }
    if (!reply.ok) {
      this.#rejected(reply);
      return;
    }
    const { session_id, socket, resume_key } = reply.data;
    const { server, person } = this.#offer;
    this.#client = null;
    this.#stored.save({ session_id, socket, resume_key, server, person, skew: this.#skew });
    this.#releaseLock = await lockSession(navigator.locks, session_id, { steal: true });
    this.#open(this.#stored.load());
  }

  #rejected({ status, data, mayBeSpent }) {
    const facts = this.#offer ? this.#serverFacts(this.#offer) : [];
    if (data.error_msg) facts.push([FACTS.message, plainText(data.error_msg, 500)]);
    if (data.error_code) facts.push([FACTS.code, plainText(data.error_code)]);
    const answered = mayBeSpent ? SPENT_LEAD : REJECTION_LEAD;
    const lead = status === 0 ? NO_ANSWER_LEAD : answered;
    const again = this.#offer ? this.#again(this.#offer.server) : { command: ANY_SERVER };
    const isUnspent = this.#offer && UNSPENT.has(status) && Date.now() < this.#client.deadline;
    if (isUnspent) {
      const act = () => this.#showReady();
      again.actions.unshift({ label: ACTIONS.tryAgain, act, isPrimary: true });
    }
    if (data.error_code === OTHER_PERSON_CODE) {
      again.actions = [{ label: ACTIONS.showLogin, act: () => location.assign("login") }];
    }
    this.#view.closePanels();
    this.#view.card("rejected", {
      title: rejectionTitle(status),
      lead,
      facts,
      ...again,
      isRefusal: true,
    });
  }

  // Session

  async #resume(stored, { steal = false } = {}) {
    this.#view.server = this.#serverName(stored.server);
    const release = await lockSession(navigator.locks, stored.session_id, { steal });
    if (release === null) {
      const act = () => this.#resume(stored, { steal: true });
      const actions = [{ label: ACTIONS.moveHere, act, isPrimary: true }];
      this.#view.card("elsewhere", { ...CARDS.elsewhere, actions });
      return;
    }
    this.#releaseLock = release;
    this.#skew = stored.skew ?? 0;
    this.#showProgress("lost", CARDS.lost);
    this.#open(stored);
  }

  #open(stored) {
    this.#session = stored;
    const url = new URL(stored.socket, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.#connection = new Connection({
      url: url.href,
      keys: {
        load: () => this.#stored.load()?.resume_key ?? stored.resume_key,
        save: (resume_key) => this.#stored.save({ resume_key, left_at: null }),
      },
      policy: new ResumePolicy(1000 * this.#config.resume_within_s, stored.left_at ?? null),
      listener: this.#listener(),
      openSocket: (address, protocol) => new WebSocket(address, protocol),
      timers,
    });
    this.#connection.open();
  }

  #listener() {
    return {
      attached: (info) => this.#attached(info),
      waiting: (message) => {
        const seconds = message.expected_wait_s >= 1 ? message.expected_wait_s : null;
        const { title, lead } = CARDS.waiting;
        this.#showProgress("waiting", { title, lead: lead(seconds) });
      },
      connecting: () => this.#showProgress("connecting", CARDS.connecting),
      live: (channel) => this.#live(channel),
      expectedEnd: ({ ends_at, ends_by }) => {
        this.#session = { ...this.#session, ends_at, ends_by };
        this.#tick();
      },
      warning: (message) => this.#warn(message),
      warningOver: (reason) => {
        this.#warnings.delete(reason);
        this.#showWarning();
      },
      mode: (mode) => {
        this.#session = { ...this.#session, mode };
        this.#controls.mode = mode;
        this.#showRecorded();
        if (this.#screen) this.#screen.label = this.#screenLabel();
        this.#view.announce(mode === "view" ? LABELS.viewOnly : LABELS.control);
      },
      powerEnded: () => {
        this.#controls.mayPower = false;
      },
      powerRejected: ({ error_msg: message }) => {
        this.#notify(LABELS.powerRejected(plainText(message, 200)));
      },
      recording: (isRecorded) => {
        this.#session = { ...this.#session, recorded: isRecorded };
        this.#showRecorded();
        this.#view.announce(isRecorded ? LABELS.recorded(this.#session) : LABELS.recordingFailed);
      },
      watchers: (watchers) => this.#showWatchers(watchers ?? []),
      lost: (delay) => this.#lost(delay),
      ended: (end) => this.#ended(end),
    };
  }

  #showProgress(state, { title, lead }, more = []) {
    this.#view.card(state, {
      title,
      lead,
      facts: state === "lost" ? [] : this.#serverFacts(this.#session),
      actions: [...more, { label: ACTIONS.disconnect, act: () => this.#connection.end() }],
      isBusy: true,
    });
  }

  #attached(info) {
    // The description of the ticket may have a name that the session does not know.
    const name = info.server.name ?? this.#session.server.name;
    this.#session = { ...this.#session, ...info, server: { ...info.server, name } };
    this.#view.server = this.#serverName(this.#session.server);
    this.#controls.mode = info.mode;
    this.#controls.clipboard = info.clipboard;
    this.#controls.mayPower = info.power;
    this.#showRecorded();
  }

  #live(channel) {
    this.#dropScreen();
    const target = element("screen");
    target.hidden = false;
    this.#screen = new Screen(target, channel, {
      viewOnly: this.#controls.viewOnly,
      scaled: this.#controls.scaled,
      label: this.#screenLabel(),
      listener: {
        connected: () => this.#connected(),
        passwordRequired: () => this.#askPassword(),
        named: (name) => {
          this.#screenName = plainText(name, 80);
        },
        copied: (text) => this.#controls.receiveClipboard(text),
        powerOffered: (isOffered) => {
          this.#controls.powerOffered = isOffered;
        },
        rejected: (reason) => {
          this.#securityMessage = `${LABELS.passwordRejected} ${plainText(reason, 200)}`.trim();
        },
      },
    });
    this.#controls.screen = this.#screen;
  }

  #screenLabel() {
    const server = this.#serverName(this.#session.server);
    return this.#session.mode === "view" ? LABELS.viewed(server) : LABELS.console(server);
  }

  #connected() {
    element("last-picture").hidden = true;
    this.#view.live();
    this.#tick();
    this.#screen.focus();
  }

  async #askPassword() {
    const { choice, value } = await ask(element("password-dialog"));
    if (choice === "send") this.#screen?.sendPassword(value);
    else if (this.#screen) this.#connection.end();
  }

  #lost(delay) {
    const picture = element("last-picture");
    if (this.#screen) {
      this.#screen.copyTo(picture);
      picture.hidden = false;
    }
    this.#dropScreen();
    this.#view.closePanels();
    this.#warnings.clear();
    this.#showWarning();
    const act = () => this.#connection.retryNow();
    this.#showProgress("lost", CARDS.lost, delay > 0 ? [{ label: ACTIONS.retry, act }] : []);
  }

  #dropScreen() {
    this.#controls.screen = null;
    this.#screen?.close();
    this.#screen = null;
    element("screen").hidden = true;
  }

  #warn(message) {
    if (!(message.reason in WARNINGS)) return;
    this.#warnings.set(message.reason, { ...message, endsAt: Date.parse(message.ends_at) });
    this.#showWarning();
  }

  /** Show the warning that ends the session first. */
  #showWarning() {
    const [first] = [...this.#warnings.values()].sort((one, other) => one.endsAt - other.endsAt);
    if (!first) {
      this.#view.warn(null);
      return;
    }
    const { text, action } = WARNINGS[first.reason];
    const acts = { idle: () => this.#controls.tap(), token: () => this.#askToken() };
    if (first.may_request === undefined) {
      this.#view.warn(text, action && { label: action, act: acts[first.reason] });
    } else this.#view.warn(this.#rightText(text, first), this.#moreTime(first));
    this.#tick();
  }

  #rightText(text, { ends_at: endsAt, may_request: mayRequest }) {
    const needsCommand = mayRequest && !this.#config.has_pages;
    return needsCommand ? `${text(clock(endsAt))} ${LABELS.moreTimeCommand}` : text(clock(endsAt));
  }

  /** Return the button that opens the page for more time in another tab: this one has keys. */
  #moreTime({ may_request: mayRequest, request }) {
    if (!mayRequest || !this.#config.has_pages) return null;
    const { id, project_id: project } = this.#session.server;
    const query = new URLSearchParams(request ? { from: request } : { project, server: id });
    const act = () => open(`page/requests/new?${query}`, "_blank", "noopener");
    return { label: ACTIONS.moreTime, act };
  }

  async #askToken() {
    const { choice, value } = await ask(element("token-dialog"));
    if (choice !== "send" || value.trim() === "") return;
    this.#connection?.sendToken(value.trim());
    this.#view.announce(LABELS.tokenSent);
  }

  #showRecorded() {
    element("bar-recorded").hidden = !this.#session.recorded;
    element("bar-recorded").textContent = LABELS.recordedMark(this.#session);
  }

  #showWatchers(watchers) {
    this.#watchers = watchers;
    element("bar-watchers").hidden = watchers.length === 0;
    element("bar-watchers").textContent = LABELS.watched(watchers.length);
    if (watchers.length > 0) this.#view.announce(LABELS.watched(watchers.length));
  }

  #fillInfo() {
    const session = this.#session;
    const facts = [
      ...this.#serverFacts(session),
      [FACTS.mode, MODES[session.mode]],
      [FACTS.ends, clock(session.ends_at), ENDS_BY[session.ends_by]],
      [FACTS.recorded, session.recorded ? LABELS.recorded(session) : LABELS.notRecorded],
      ...this.#watchers.map((one) => personFact(FACTS.watchers, one)),
    ];
    if (this.#screenName) facts.push([FACTS.screen, this.#screenName]);
    fillFacts(element("info-facts"), [...facts, [FACTS.session, session.session_id]]);
  }

  #serverNow() {
    return Date.now() + this.#skew;
  }

  #tick() {
    const { state } = this.#view;
    if (state === "ready") {
      if (Date.now() >= this.#client.deadline) this.#expire();
      else fillFacts(element("card-facts"), this.#readyFacts());
    }
    if (state !== "live") return;
    const left = (Date.parse(this.#session.ends_at) - this.#serverNow()) / 1000;
    element("time-left").textContent = Number.isFinite(left) ? LABELS.left(left) : "";
    element("time-left").title = Number.isFinite(left) ? LABELS.endsAt(this.#session) : "";
    const ends = Math.min(...[...this.#warnings.values()].map(({ endsAt }) => endsAt));
    if (Number.isFinite(ends)) {
      element("warning-left").textContent = LABELS.left((ends - this.#serverNow()) / 1000);
    }
  }

  #expire() {
    this.#view.closePanels();
    this.#view.card("rejected", { ...CARDS.expired, ...this.#again(this.#offer.server) });
  }

  /** Return the command that requests a new address, and the button that copies it. */
  #again(server) {
    const text = LABELS.command(plainText(server.project_id), plainText(server.name || server.id));
    const act = async () => {
      const isCopied = await copyToClipboard(text);
      element("card-notice").textContent = isCopied ? LABELS.copied : LABELS.notCopied;
    };
    return {
      command: { label: LABELS.newAddress, text },
      actions: [{ label: ACTIONS.copyCommand, act }],
    };
  }

  #endOf({ code, reason, by }) {
    const { ends } = this.#config;
    const { person } = this.#session;
    if (reason === "taken_over" && by?.subject === person.subject && by.issuer === person.issuer) {
      return CARDS.takenOverByOwn;
    }
    const name = this.#securityMessage ? "cloud_closed" : reason;
    return (
      ends.find((one) => one.name === name) ??
      ends.find((one) => code !== null && one.code === code) ??
      CARDS.unknownEnd
    );
  }

  #ended(end) {
    const { title, advice } = this.#endOf(end);
    const session = this.#session;
    const facts = this.#serverFacts(session);
    if (session.started_at) {
      const seconds = (this.#serverNow() - Date.parse(session.started_at)) / 1000;
      facts.push([FACTS.duration, duration(seconds)]);
    }
    if (end.by) facts.push(personFact(FACTS.by, end.by));
    const message = this.#endMessage(end);
    if (message) facts.push([FACTS.message, message]);
    if (end.error_code) facts.push([FACTS.code, plainText(end.error_code)]);
    if (end.request_id) facts.push([FACTS.request, plainText(end.request_id)]);
    this.#close();
    const isRefusal = REFUSALS.has(end.reason);
    const again = this.#again(session.server);
    this.#view.card("ended", { title, lead: advice, facts, ...again, isRefusal });
  }

  #endMessage(end) {
    if (this.#securityMessage) return this.#securityMessage;
    if (end.detail instanceof ScreenTooLarge) return CARDS.tooLarge;
    if (end.detail !== undefined) return CARDS.notUnderstood;
    return end.error_msg ? plainText(end.error_msg, 500) : null;
  }

  #close() {
    this.#connection = null;
    this.#stored.clear();
    this.#releaseLock();
    this.#dropScreen();
    this.#controls.reset();
    this.#view.closePanels();
    this.#warnings.clear();
    this.#view.warn(null);
    element("last-picture").hidden = true;
    this.#watchers = [];
  }
}
