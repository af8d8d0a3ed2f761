// The pages of a person: one document, a view for each path, and what all views share.
import "./style.css";
import { element } from "../view.js";
import { plainText } from "../bounds.js";
import { make, stateCard } from "./dom.js";
import { failureCard } from "./failure.js";
import { isFailure } from "./poller.js";
import { RecordingView } from "./recordings/recording_view.js";
import { RecordingsView } from "./recordings/recordings_view.js";
import { NewRequestView } from "./requests/new_request_view.js";
import { RequestView } from "./requests/request_view.js";
import { RequestsView } from "./requests/requests_view.js";
import { WaitingCount } from "./requests/waiting_count.js";
import { Router, loginPath } from "./router.js";
import { RecentServers } from "./servers/recent.js";
import { ServerStore } from "./servers/server_store.js";
import { ServerView } from "./servers/server_view.js";
import { ServersView } from "./servers/servers_view.js";
import { BrowserSession, needsLogin } from "./session.js";
import { SessionsView } from "./sessions/sessions_view.js";
import { EXPIRED, FAILURES, FRESH, NAVIGATION, PAGE } from "./texts.js";
import * as texts from "./texts.js";
import { zoneName } from "./times.js";

/**
 * Each page: its path, the entry of the navigation, and its view. A view has
 * `constructor(tools)`, `show(root, params)` and `close()`; `params` has the names of the path and
 * `query`. The first path of an entry is its link.
 */
const ROUTES = [
  { path: "/", page: "servers", View: ServersView },
  { path: "/servers/:project/:server", page: "servers", View: ServerView },
  { path: "/requests", page: "requests", View: RequestsView },
  { path: "/requests/new", page: "requests", View: NewRequestView },
  { path: "/requests/:id", page: "requests", View: RequestView },
  { path: "/sessions", page: "sessions", View: SessionsView },
  { path: "/recordings", page: "recordings", View: RecordingsView },
  { path: "/recordings/:id", page: "recordings", View: RecordingView },
];

class Pages {
  #config = JSON.parse(element("config").textContent);
  #routes = ROUTES.filter(({ page }) => this.#config.pages.includes(page));
  #router = new Router(this.#routes, this.#config.base);
  #session = new BrowserSession(this.#config.base, fetch.bind(window), (isFresh) =>
    setTimeout(() => this.#requireLogin(isFresh)));
  #servers = new ServerStore(this.#session);
  #person = null;
  #tools = null;
  #view = null;
  #isLeaving = false;

  async start() {
    this.#servers.follow(() => this.#showConnection());
    this.#servers.start();
    const reply = await this.#session.load();
    if (needsLogin(reply)) this.#goToLogin(false);
    else if (reply.status === 200) this.#begin(reply.data.person);
    else {
      const retry = () => location.reload();
      const card = failureCard(FAILURES.title, reply, retry, this.#config.contact);
      element("view").replaceChildren(card);
    }
  }

  #begin(person) {
    this.#person = person;
    this.#tools = this.#makeTools();
    this.#showFrame();
    history.scrollRestoration = "manual";
    addEventListener("popstate", () => this.#show());
    document.addEventListener("click", (event) => this.#onClick(event));
    for (const type of ["keydown", "pointerdown"]) {
      addEventListener(type, () => this.#session.noteActivity(), { passive: true });
    }
    document.addEventListener("visibilitychange", () => this.#checkPerson());
    this.#show({ isFirst: true });
  }

  #makeTools() {
    const hasRequests = this.#routes.some(({ page }) => page === "requests");
    return {
      session: this.#session,
      base: this.#config.base,
      texts,
      contact: this.#config.contact ?? null,
      person: this.#person,
      servers: this.#servers,
      recent: new RecentServers(localStorage, this.#person),
      /** Show the page at a path of the router, such as "/requests/ID". */
      go: (path) => this.#go(path),
      /** Return the browser's path of a path of the router, for links. */
      address: (path) => this.#router.address(path),
      /** Return the gateway's time, in milliseconds. */
      now: () => Date.now() + this.#servers.skewMs,
      /** Set the page's title. */
      title: (text) => {
        document.title = `${plainText(text, 80)} · ${PAGE.name}`;
      },
      /** Say a text to screen readers. */
      announce: (text) => {
        element("announcement").textContent = text;
      },
      /** Return the path that requests access to a server; null without such a page. */
      asks: hasRequests
        ? (project, server) => (project ? `/requests/new?project=${project}&server=${server}` : "/requests/new")
        : null,
    };
  }

  // The frame

  #showFrame() {
    document.body.dataset.state = "in";
    element("person").hidden = false;
    element("person-name").textContent = plainText(this.#person.subject);
    element("person-name").title = plainText(this.#person.issuer);
    element("log-out").textContent = PAGE.logOut;
    element("log-out").addEventListener("click", () => this.#logOut());
    element("zone").textContent = PAGE.zone(zoneName());
    const { contact } = this.#config;
    if (contact) {
      element("contact").href = contact.url;
      element("contact").textContent = contact.text;
      element("contact").hidden = false;
    }
    const links = Object.entries(NAVIGATION).flatMap(([page, text]) => {
      const route = this.#routes.find((one) => one.page === page);
      const href = route && this.#router.address(route.path);
      return route ? [make("a", { href, textContent: text, data: { page } })] : [];
    });
    element("nav").replaceChildren(...links);
    const requests = links.find((link) => link.dataset.page === "requests");
    if (requests) new WaitingCount(this.#session, requests).start();
  }

  #showConnection() {
    const { failure, isLoaded } = this.#servers;
    const line = element("connection");
    const isFailing = failure !== null && isLoaded && !needsLogin(failure);
    if (isFailing) line.textContent = connectionText(failure);
    else if (!line.hidden) element("announcement").textContent = PAGE.online;
    line.hidden = !isFailing;
  }

  // Views

  #go(path) {
    history.pushState(null, "", this.#router.address(path));
    this.#show();
  }

  #show({ isFirst = false } = {}) {
    this.#view?.close();
    this.#view = null;
    const found = this.#router.find(this.#router.path(location.pathname) ?? "", location.search);
    for (const link of element("nav").children) {
      if (link.dataset.page === found?.route.page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const root = make("div", { className: "view" });
    element("view").replaceChildren(root);
    element("announcement").textContent = "";
    if (!isFirst) scrollTo(0, 0);
    if (found === null) this.#showNotFound(root);
    else {
      this.#view = new found.route.View(this.#tools);
      this.#view.show(root, found.params);
    }
    if (!isFirst && !root.contains(document.activeElement)) {
      (root.querySelector("h1") ?? element("view")).focus({ preventScroll: true });
    }
  }

  #showNotFound(root) {
    this.#tools.title(PAGE.notFound);
    const link = make("a", { className: "button", href: this.#router.address("/") }, PAGE.backToServers);
    const heading = make("h1", { className: "unseen", tabIndex: -1 }, PAGE.notFound);
    root.append(heading, stateCard({ state: "not-found", title: PAGE.notFound, actions: [link] }));
  }

  /** Follow links of these pages without a load; leave all others to the browser. */
  #onClick(event) {
    const link = event.target.closest?.("a[href]");
    const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!link || !isPlain || link.target || link.origin !== location.origin || link.hash) return;
    const path = this.#router.path(link.pathname);
    if (path === null) return;
    event.preventDefault();
    this.#go(path + link.search);
  }

  // Login

  #goToLogin(isFresh) {
    if (this.#isLeaving) return; // a second navigation would begin anew
    this.#isLeaving = true;
    location.assign(loginPath(this.#config.base, location, isFresh));
  }

  #requireLogin(isFresh) {
    const dialog = element("login-dialog");
    if (this.#isLeaving || dialog.open) return;
    if (this.#person === null) {
      this.#goToLogin(isFresh);
      return;
    }
    const words = isFresh ? FRESH : EXPIRED;
    element("login-title").textContent = words.title;
    element("login-text").textContent = words.text;
    element("login-go").textContent = words.go;
    element("login-stay").textContent = words.stay;
    dialog.returnValue = "cancel";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "go") this.#goToLogin(isFresh);
    }, { once: true });
    dialog.showModal();
  }

  async #logOut() {
    const leave = element("log-out");
    leave.disabled = true;
    leave.textContent = PAGE.loggingOut;
    this.#servers.stop();
    const { status, data } = await this.#session.logOut();
    if (status === 200) {
      this.#isLeaving = true;
      location.assign(data.location);
      return;
    }
    leave.disabled = false;
    leave.textContent = PAGE.logOut;
    element("connection").textContent = PAGE.notLoggedOut;
    element("connection").hidden = false;
    this.#servers.start();
  }

  /** Load the page anew if another tab of this browser has another person's session now. */
  async #checkPerson() {
    if (document.hidden || this.#isLeaving) return;
    const reply = await this.#session.load();
    if (needsLogin(reply)) this.#requireLogin(false);
    else if (reply.status === 200) {
      const { issuer, subject } = reply.data.person;
      if (issuer !== this.#person.issuer || subject !== this.#person.subject) location.reload();
      else this.#servers.start(); // a new login in another tab
    }
  }
}

function connectionText(failure) {
  if (failure.status === 0) return PAGE.offline;
  return isFailure(failure.status) ? PAGE.failing : plainText(failure.data.error_msg, 500);
}

// A page that "back" brings up again may show a person who has logged out.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
new Pages().start();
