// The operators' pages: who is logged in, the navigation, and the view of this address.
import { element } from "../view.js";
import "./style.css";
import { button, make } from "../people/dom.js";
import { contactLink } from "../people/failure.js";
import { BrowserSession } from "../people/session.js";
import { zoneName } from "../people/times.js";
import { AdminApi } from "./api.js";
import { AuditView } from "./audit.js";
import { BudgetsView } from "./budgets.js";
import { text } from "./dom.js";
import { LocksView } from "./locks.js";
import { PolicyView } from "./policy.js";
import { RequestsView } from "./requests.js";
import { SessionsView } from "./sessions.js";
import { AUDIT, BUDGETS, LOCKS, NAME, NAVIGATION, PAGE, POLICY, REQUESTS, SESSIONS, STATES } from "./texts.js";

/** By path: the name in the navigation, the texts, the view, and the permission that it needs. */
const VIEWS = {
  "/": ["sessions", SESSIONS, SessionsView, "read"],
  "/budgets": ["budgets", BUDGETS, BudgetsView, "read"],
  "/locks": ["locks", LOCKS, LocksView, "read"],
  "/requests": ["requests", REQUESTS, RequestsView, "requests"],
  "/policy": ["policy", POLICY, PolicyView, "read"],
  "/audit": ["audit", AUDIT, AuditView, "audit"],
};

const config = JSON.parse(element("config").textContent);
const session = new BrowserSession(config.base, fetch.bind(window));
const here = location.pathname.slice(config.base.length) || "/";
let permissions = new Set();

function announce(words) {
  element("announcement").textContent = words;
}

function show(state, { title, lead = "" }, ...content) {
  document.body.dataset.state = state;
  document.title = `${title} · ${NAME}`;
  element("op-title").textContent = title;
  element("op-lead").textContent = lead;
  element("op-content").replaceChildren(...content);
  announce(`${title} ${lead}`);
}

function problem(status, data) {
  if (status === 0) return STATES.offline;
  if (data.error_code === "CGW.4033") return STATES.stale;
  return text(data.error_msg || `HTTP ${status}`, 500);
}

function logIn() {
  location.assign(`${config.base}/login?return=${encodeURIComponent(config.base + here)}`);
}

function expired() {
  element("op-nav").hidden = true;
  element("op-leave").hidden = true;
  element("op-person").textContent = "";
  element("op-dialog").close();
  const action = button(STATES.expired.action, logIn, { isPrimary: true });
  show("expired", STATES.expired, action);
  action.focus();
}

const tools = {
  api: new AdminApi(session),
  may: (permission) => permissions.has(permission),
  expired,
  problem,
  /** Send an action; return "" once it is performed, else why it is not. */
  async act(path, body, done) {
    const { status, data } = await tools.api.act(path, body);
    if (status === 401) {
      expired();
      return "";
    }
    if (status !== 200) return problem(status, data);
    announce(done(data));
    return "";
  },
};

function navigation() {
  const links = Object.entries(VIEWS)
    .filter(([, [, , , permission]]) => permissions.has(permission))
    .map(([path, [name]]) => {
      const link = make("a", { href: config.base + path, textContent: NAVIGATION[name] });
      if (path === here) link.setAttribute("aria-current", "page");
      return link;
    });
  element("op-nav").setAttribute("aria-label", NAVIGATION.label);
  element("op-nav").replaceChildren(...links);
  element("op-nav").hidden = links.length === 0;
}

async function leave() {
  const { status, data } = await session.logOut();
  if (status === 200) location.assign(data.location);
  else announce(problem(status, data));
}

function enter({ person, permissions: granted }) {
  permissions = new Set(granted);
  element("op-person").textContent = PAGE.person(text(person.subject), text(person.issuer));
  element("op-leave").textContent = PAGE.logOut;
  element("op-leave").hidden = false;
  element("op-leave").onclick = leave;
  navigation();
  const [, words, View, permission] = VIEWS[here] ?? [];
  if (!granted.length) return show("nothing", STATES.nothing, contactLink(config.contact) ?? "");
  if (!View) return show("nothing", { title: PAGE.unknown });
  if (!permissions.has(permission)) {
    const first = Object.keys(VIEWS).find((path) => permissions.has(VIEWS[path][3]));
    if (here === "/" && first) return location.replace(config.base + first);
    return show("nothing", { title: words.title, lead: PAGE.missing(permission) }, contactLink(config.contact) ?? "");
  }
  const isReader = granted.every((one) => one === "read" || one === "audit");
  show("open", { title: words.title, lead: words.lead });
  if (isReader) element("op-lead").append(" ", PAGE.readOnly);
  return new View(tools).show(element("op-content"));
}

async function start() {
  element("op-name").textContent = NAME;
  element("op-zone").textContent = PAGE.zone(zoneName());
  show("checking", { title: PAGE.checking });
  const { status, data } = await session.load();
  if (status === 200) return enter(data);
  if (status === 401) return logIn();
  const again = button(STATES.retry, start, { isPrimary: true });
  if (status !== 503) {
    const help = contactLink(config.contact) ?? "";
    return show("failed", { title: STATES.notOpened, lead: problem(status, data) }, again, help);
  }
  const lead = `${problem(status, data)} ${STATES.unavailable.lead}`;
  return show("failed", { title: STATES.unavailable.title, lead }, again);
}

// A page that "back" brings up again may show what a person who has logged out saw.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
start();
