// Live consoles, logins of browsers, and tokens in use.
import { LOCKS, SESSIONS } from "./texts.js";
import { confirmAction } from "./dialog.js";
import { clockTime } from "../people/times.js";
import { field, text } from "./dom.js";
import { Listing } from "./listing.js";
import { lockDialog, revokeDialog } from "./locks.js";
import { missing } from "./processes.js";

const { columns } = SESSIONS;
/** How often, and after how long, the list is read again while it has a console that was ended. */
const READINGS_MAX = 10;
const AGAIN_MS = 500;

/** Return a row for each token, with the processes that have it in their cache. */
function tokenRows(all) {
  const rows = new Map();
  for (const { process, tokens } of all) {
    for (const one of tokens) {
      const key = JSON.stringify(one);
      if (!rows.has(key)) rows.set(key, { ...one, processes: [] });
      rows.get(key).processes.push(process);
    }
  }
  return [...rows.values()];
}

export class SessionsView {
  #tools;
  /** Readings left for each console that was ended: its process takes a moment. */
  #ending = new Map();

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    const listings = [this.#consoles(), this.#logins(), this.#tokens()];
    root.replaceChildren(...listings.map(({ element }) => element));
    return Promise.all(listings.map((one) => one.refresh()));
  }

  #consoles() {
    const { api } = this.#tools;
    const listing = new Listing(this.#tools, {
      name: SESSIONS.consoles,
      empty: SESSIONS.noConsoles,
      load: async () => {
        const { status, data } = await api.read("/consoles");
        const isEnding = data.consoles?.some(({ id }) => this.#isEnding(id));
        if (isEnding) setTimeout(() => listing.refresh(), AGAIN_MS);
        const note = data.complete === false ? SESSIONS.partial : "";
        return { status, data, rows: data.consoles, note };
      },
      columns: [
        [columns.person, (one) => one.subject],
        [columns.issuer, (one) => one.issuer],
        [columns.server, (one) => one.server],
        [columns.project, (one) => one.project],
        [columns.account, (one) => one.account],
        [columns.mode, (one) => SESSIONS.mode[one.mode] ?? one.mode],
        [columns.started, (one) => clockTime(one.started_at)],
        [columns.from, (one) => one.client_address],
        [columns.process, (one) => one.process],
      ],
      actions: [{ label: SESSIONS.end, permission: "consoles", act: (one) => this.#end(one) }],
    });
    return listing;
  }

  #isEnding(id) {
    const left = this.#ending.get(id) ?? 0;
    if (left > 0) this.#ending.set(id, left - 1);
    return left > 0;
  }

  async #end(one) {
    const isEnded = await confirmAction({
      title: SESSIONS.endTitle(text(one.subject)),
      text: SESSIONS.endText(text(one.server)),
      label: SESSIONS.end,
      send: ({ reason }) =>
        this.#tools.act("/consoles/end", { id: one.id, reason }, () => SESSIONS.ended),
    });
    if (isEnded) this.#ending.set(one.id, READINGS_MAX);
    return isEnded;
  }

  #logins() {
    const { api } = this.#tools;
    const listener = field(SESSIONS.listener, { choices: Object.entries(SESSIONS.listeners) });
    const person = field(SESSIONS.loginsOf);
    const listing = new Listing(this.#tools, {
      name: SESSIONS.logins,
      empty: SESSIONS.noLogins,
      more: [listener.box, person.box],
      load: async (before) => {
        const parameters = { listener: listener.control.value, subject: person.control.value.trim(), before };
        const { status, data } = await api.read("/logins", parameters);
        return { status, data, rows: data.logins, next: data.next };
      },
      columns: [
        [columns.person, (one) => one.subject],
        [columns.issuer, (one) => one.issuer],
        [columns.from, (one) => one.client_address],
        [columns.started, (one) => clockTime(one.started_at)],
        [columns.used, (one) => clockTime(one.used_at)],
        [columns.idle, (one) => clockTime(one.idle_ends_at)],
        [columns.ends, (one) => clockTime(one.ends_at)],
        [columns.login, (one) => one.id.slice(0, 16)],
      ],
      actions: [
        {
          label: SESSIONS.end,
          permission: "revoke",
          act: (one) => this.#endLogins(one, { id: one.id }, listener.control.value),
        },
        {
          label: SESSIONS.endAll,
          permission: "revoke",
          act: ({ issuer, subject }) =>
            this.#endLogins({ subject }, { issuer, subject }, listener.control.value),
        },
      ],
    });
    for (const { control } of [listener, person]) {
      control.addEventListener("change", () => listing.refresh());
    }
    return listing;
  }

  #endLogins({ subject, client_address: from }, logins, listener) {
    const person = text(subject);
    const words = logins.id
      ? { title: SESSIONS.endLoginTitle(person, text(from)), label: SESSIONS.end }
      : { title: SESSIONS.endLoginsTitle(person), label: SESSIONS.endAll };
    return confirmAction({
      ...words,
      text: SESSIONS.endLoginsText,
      send: ({ reason }) =>
        this.#tools.act("/logins/end", { ...logins, listener, reason }, (data) => SESSIONS.loginsEnded(data.ended.length)),
    });
  }

  #tokens() {
    const { api } = this.#tools;
    return new Listing(this.#tools, {
      name: SESSIONS.tokens,
      empty: SESSIONS.noTokens,
      load: async () => {
        const { status, data } = await api.read("/sessions");
        if (status !== 200) return { status, data };
        const rows = tokenRows(data.processes);
        const omitted = data.processes.reduce((sum, one) => sum + one.truncated, 0);
        const notes = [missing(data), omitted ? SESSIONS.truncated(omitted) : ""];
        return { status, data, rows, note: notes.filter(Boolean).join(" ") };
      },
      columns: [
        [columns.person, (one) => one.subject],
        [columns.issuer, (one) => one.issuer],
        [columns.token, (one) => one.token_id],
        [columns.issued, (one) => clockTime(one.issued_at)],
        [columns.expires, (one) => clockTime(one.expires_at)],
        [columns.process, (one) => one.processes.join(", ")],
      ],
      actions: [
        { label: LOCKS.revoke, permission: "revoke", act: (one) => revokeDialog(this.#tools, one) },
        { label: LOCKS.add, permission: "lock", act: (one) => lockDialog(this.#tools, one) },
      ],
    });
  }
}
