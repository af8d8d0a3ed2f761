// Every text of the pages of servers, and those that all pages of people share.
import { duration } from "../texts.js";

export const NAVIGATION = {
  servers: "Servers",
  requests: "Requests",
  sessions: "Sessions",
  recordings: "Recordings",
};

export const PAGE = {
  name: "Console Gateway",
  logOut: "Log out",
  loggingOut: "Logging out",
  notLoggedOut: "You are still logged in: the gateway did not answer. Try again.",
  zone: (zone) => `Times are in ${zone}.`,
  contact: "Need help?",
  offline: "The gateway does not answer. This page shows what it knew; it tries again by itself.",
  online: "The gateway answers again.",
  failing: "The gateway cannot answer at the moment. This page tries again by itself.",
  notFound: "There is no such page.",
  backToServers: "Show my servers",
};

/** A session that has ended, or a login that is too old for an action. */
export const EXPIRED = {
  title: "Your session has ended.",
  text: "Log in again. You come back to this page.",
  go: "Log in again",
  stay: "Stay here",
};
export const FRESH = {
  title: "This needs a recent login.",
  text: "Log in again, then repeat the action. You come back to this page.",
  go: "Log in again",
  stay: "Cancel",
};

export const LIST = {
  title: "My servers",
  search: "Search by name, ID, tag or location",
  all: "All",
  region: "Region",
  power: "Power",
  health: "Health",
  may: "Console",
  sort: "Sort by",
  columns: {
    name: "Name",
    location: "Location",
    power: "Power",
    health: "Health",
    tags: "Tags",
    use: "On the console",
    action: "Console",
  },
  mayValues: { console: "May open or watch", power: "May switch power", used: "In use" },
  reset: "Clear search and filters",
  count: (shown, total) => (shown === total ? count(total) : `${shown} of ${count(total)}`),
  age: (age) => `Power and health are up to ${age} old.`,
  listed: (project, at) => `${project}: as listed at ${at}.`,
  unread: (project) => `${project}: the cloud's list has not been read yet.`,
  old: "That is too old for some rules, so servers may be missing.",
  problems: {
    busy: "The cloud limits requests at the moment.",
    unavailable: "The cloud does not answer.",
    rejected: "The cloud refuses to list them.",
  },
  incomplete: "Some people on consoles may be missing here: a store is unavailable.",
  recent: "Recently opened",
  loading: { title: "Loading your servers", lead: "" },
  slow: "This takes longer than usual. The gateway may be busy.",
  empty: {
    title: "You see no servers yet.",
    lead: "No rule gives you access to a server now, or the lists have not been read yet.",
  },
  noMatch: { title: "No server matches.", lead: "Change the search or clear the filters." },
  table: "Servers",
};

export const SERVER = {
  page: "Server",
  unknown: {
    title: "You cannot see this server.",
    lead: "It does not exist, or you have no access to it. The answer is the same in both cases.",
  },
  open: "Open console",
  watch: "Watch console",
  ask: "Request access",
  copy: "Copy link to this page",
  copied: "Copied. The link opens this page after a login; it gives no access.",
  notCopied: "The browser did not allow copying. Copy the address of this page.",
  back: "All servers",
  power: "Power",
  powerStates: { on: "On", off: "Off" },
  facts: {
    name: "Name",
    id: "ID",
    project: "Project",
    account: "Account",
    region: "Region",
    location: "Location",
    model: "Model",
    power: "Power",
    health: "Health",
    tags: "Tags",
    may: "You may",
    use: "On the console",
    delivery: "Console",
  },
  asOf: (at, age) => `Power and health as of ${at}, ${age}.`,
  delivery: { proxied: "Through this gateway", direct: "Address of the cloud" },
  unknownValue: "Unknown",
  unused: "No one",
  using: (who, mode) => (mode === "view" ? `${who}, watching` : who),
  another: "Another person",
};

/** Permissions in words: every permission of a policy. */
export const PERMISSIONS = {
  "console:open": "open the console",
  "console:takeover": "take over a console in use",
  "console:view": "watch the console",
  "instance:create": "create its instance",
  "instance:delete": "delete its instance",
  "instance:network": "change the addresses of its instance",
  "instance:password": "change the password of its instance",
  "instance:read": "read its instance",
  "instance:reinstall": "reinstall its system",
  "recording:view": "play recordings",
  "recording:keys": "see recorded keys",
  "server:logs": "read its logs",
  "server:power": "switch its power",
  "server:read": "read its details",
  "server:tag": "change its tags",
  "server:tag_policy": "change tags that the policy uses",
  "site:read": "read data centers and racks",
  "site:write": "change data centers and racks",
};

export const CONSOLE = {
  opening: "Opening the console",
  waiting: "The cloud limits how fast consoles open. Yours waits in the queue.",
  opened: "The console opens in a new tab.",
  ready: "The console is ready. The browser waits for your click.",
  openNow: "Open it",
  validFor: (seconds) => `It works once, for ${duration(seconds)}.`,
  bearer:
    "This console is at an address of the cloud that works for anyone who has it, like a password." +
    " Do not copy or send it.",
  fresh: "Does not open? Request another address",
  failed: "The console was not opened.",
  expired: "The address has expired. Open the console again.",
};

export const POWER = {
  on: {
    label: "Switch on",
    title: (name) => `Switch ${name} on?`,
    text: "Its operating system starts.",
    done: "The cloud switches the server on.",
  },
  off: {
    label: "Switch off",
    title: (name) => `Switch ${name} off?`,
    text: "It stops at once for everyone who uses it. What its operating system has not written may be lost.",
    done: "The cloud switches the server off.",
  },
  reboot: {
    label: "Restart",
    title: (name) => `Restart ${name}?`,
    text: "It stops for everyone who uses it, and starts again.",
    done: "The cloud restarts the server.",
  },
};
export const POWER_WORDS = {
  cancel: "Cancel",
  sending: "Sending",
  failed: "The power operation was not accepted.",
  delay: "The power state here follows within about a minute.",
};

export const FAILURES = {
  title: "The gateway did not answer as expected.",
  offline: "The gateway does not answer. Check your network.",
  close: "Close",
  server: "Server ID",
  retry: "Try again",
  retryIn: (seconds) => `Try again in ${duration(seconds)}`,
  requestId: "Request ID",
  code: "Code",
  message: "Message",
};

function count(total) {
  return total === 1 ? "1 server" : `${total} servers`;
}
