// The pages of logins: the issuers, who is logged in, the way on, and why a login failed.
import { plainText } from "../bounds.js";
import { ADMIN_LOGIN, FACTS, LOGIN as PUBLIC_LOGIN, LOGIN_STATES } from "../texts.js";
import { View, element } from "../view.js";
import { safeReturnPath } from "./return_path.js";
import { BrowserSession } from "./session.js";

const config = JSON.parse(element("config").textContent);
const LOGIN = config.is_admin ? { ...PUBLIC_LOGIN, ...ADMIN_LOGIN } : PUBLIC_LOGIN;
const view = new View(LOGIN_STATES, "Console Gateway", config.contact);
const session = new BrowserSession(config.base, fetch.bind(window));
const query = new URLSearchParams(location.search);
const returnPath = safeReturnPath(query.get("return"), config.base);

const go = (path) => location.assign(path);
const startAgain = { label: LOGIN.startAgain, act: () => go(`${config.base}/login`) };

function loginAddress(issuer) {
  const kept = new URLSearchParams();
  if (returnPath) kept.set("return", returnPath);
  if (query.has("fresh")) kept.set("fresh", "1");
  const text = kept.toString();
  return `${config.base}/login/${issuer}${text ? `?${text}` : ""}`;
}

function showIssuers() {
  const isOne = config.issuers.length === 1;
  view.card("choose", {
    ...LOGIN.choose,
    actions: config.issuers.map(({ name, label }) => ({
      label: LOGIN.with(plainText(label)),
      act: () => go(loginAddress(name)),
      isPrimary: isOne,
    })),
  });
}

function showPerson({ person, ends_at: endsAt }) {
  const ends = new Date(endsAt).toLocaleString([], { dateStyle: "short", timeStyle: "long" });
  const actions = [{ label: LOGIN.logOut, act: logOut }];
  const next = returnPath ?? config.home;
  if (next !== `${config.base}/login`) {
    actions.unshift({ label: LOGIN.goOn, act: () => go(next), isPrimary: true });
  }
  view.card("in", {
    ...LOGIN.in,
    facts: [
      [FACTS.person, plainText(person.subject), plainText(person.issuer)],
      [FACTS.ends, ends],
    ],
    actions,
  });
}

async function logOut() {
  view.card("leaving", { ...LOGIN.leaving, isBusy: true });
  const { status, data } = await session.logOut();
  if (status === 200) go(data.location);
  else view.card("failed", { ...LOGIN.notLoggedOut, actions: [{ label: LOGIN.retry, act: logOut }] });
}

async function check() {
  view.card("checking", { ...LOGIN.checking, isBusy: true });
  const { status, data } = await session.load();
  if (status === 200 && !query.has("fresh")) showPerson(data);
  else if (status === 200 || status === 401) showIssuers();
  else {
    const message = data.error_msg ? plainText(data.error_msg, 500) : LOGIN.noAnswer;
    const actions = [{ label: LOGIN.retry, act: check, isPrimary: true }];
    view.card("failed", { title: LOGIN.unavailable, lead: message, actions, isRefusal: true });
  }
}

function start() {
  if (config.state === "failed") {
    const facts = [[FACTS.request, plainText(config.request_id)]];
    const { title, advice: lead } = config;
    view.card("failed", { title, lead, facts, actions: [startAgain], isRefusal: true });
  } else if (config.state === "continue") {
    // The document goes on by itself; this is for browsers that do not.
    const actions = [{ label: LOGIN.goOn, act: () => go(config.path), isPrimary: true }];
    view.card("continuing", { ...LOGIN.goingOn, actions });
  } else if (config.state === "logged_out") {
    view.card("out", { ...LOGIN.loggedOut, actions: [{ ...startAgain, label: LOGIN.again }] });
  } else {
    check();
  }
}

// A page that "back" brings up again may show a person who has logged out.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
start();
