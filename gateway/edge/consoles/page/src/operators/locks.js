// Locks, revocations and other overrides: list, add, lift, clear.
import { LOCKS } from "./texts.js";
import { confirmAction } from "./dialog.js";
import { button } from "../people/dom.js";
import { clockTime } from "../people/times.js";
import { field, text } from "./dom.js";
import { Listing } from "./listing.js";
import { incomplete } from "./processes.js";

const REVOCATIONS = ["revoked_token", "revoked_subject", "revoked_before"];
const { columns } = LOCKS;

/** Say what an override does. */
export function describe({ kind, ...effect }) {
  if (kind === "lock") {
    const target = Object.keys(LOCKS.targets).find((name) => effect[name]);
    const issuer = effect.issuer ? ` (${effect.issuer})` : "";
    return `${LOCKS.kinds.lock} ${LOCKS.targets[target] ?? ""} ${effect[target] ?? ""}${issuer}`;
  }
  const facts = Object.entries(effect)
    .filter(([name, value]) => value !== "" && name !== "before")
    .map(([, value]) => (typeof value === "object" ? JSON.stringify(value) : value));
  return `${LOCKS.kinds[kind] ?? kind} ${facts.join(" ")}`;
}

function applied(done) {
  return (data) => (data.all_replicas_notified === false ? LOCKS.onlyHere : `${done} ${data.note ?? ""}`);
}

/** Ask for a lock; `about` is a person {issuer, subject}, or nothing. */
export function lockDialog(tools, about = {}) {
  const targets = Object.entries(LOCKS.targets);
  return confirmAction({
    title: LOCKS.addTitle,
    text: LOCKS.addText,
    label: LOCKS.add,
    fields: [
      ["target", field(LOCKS.target, { choices: targets })],
      ["value", field(LOCKS.value, { value: about.subject, required: true })],
      ["issuer", field(LOCKS.issuer, { value: about.issuer })],
      ["hours", field(LOCKS.hours, { type: "number" })],
    ],
    send: ({ target, value, issuer, hours, reason }) => {
      const body = { [target]: value, reason };
      if (issuer) body.issuer = issuer;
      if (hours) body.duration_s = Number(hours) * 3600;
      return tools.act("/locks", body, applied(LOCKS.added));
    },
  });
}

/** Ask for the revocation of a person's tokens. */
export function revokeDialog(tools, about = {}) {
  return confirmAction({
    title: LOCKS.revokeTitle,
    text: LOCKS.revokeText,
    label: LOCKS.revoke,
    fields: [
      ["subject", field(LOCKS.subject, { value: about.subject, required: true })],
      ["issuer", field(LOCKS.ofIssuer, { value: about.issuer, required: true })],
    ],
    send: (values) => tools.act("/revocations", values, applied(LOCKS.revoked)),
  });
}

export class LocksView {
  #tools;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    const tools = this.#tools;
    const add = async (dialog) => {
      if (await dialog(tools)) await listing.refresh();
    };
    const more = [];
    if (tools.may("lock")) more.push(button(LOCKS.add, () => add(lockDialog)));
    if (tools.may("revoke")) more.push(button(LOCKS.revoke, () => add(revokeDialog)));
    const listing = new Listing(tools, {
      name: LOCKS.table,
      empty: LOCKS.empty,
      more,
      load: async () => {
        const { status, data } = await tools.api.read("/overrides");
        const notes = [data.loaded === false ? LOCKS.notLoaded : "", incomplete(data)];
        return { status, data, rows: data.overrides, note: notes.filter(Boolean).join(" ") };
      },
      columns: [
        [columns.what, (one) => describe(one.effect)],
        [columns.until, (one) => (one.expires_at.startsWith("9999-") ? LOCKS.untilLifted : clockTime(one.expires_at))],
        [columns.reason, (one) => one.reason],
        [columns.by, (one) => one.created_by],
        [columns.since, (one) => clockTime(one.created_at)],
        [columns.id, (one) => one.id],
      ],
      actions: [
        {
          label: LOCKS.lift,
          permission: "lock",
          applies: ({ effect }) => effect.kind === "lock",
          act: (one) => this.#end(one, "/locks/lift", LOCKS.lift, LOCKS.liftTitle, LOCKS.liftText, LOCKS.lifted),
        },
        {
          label: LOCKS.clear,
          permission: "revoke",
          applies: ({ effect }) => REVOCATIONS.includes(effect.kind),
          act: (one) => this.#clear(one),
        },
        {
          label: LOCKS.clear,
          permission: "override",
          applies: ({ effect }) => ["dropped_links", "rate_ceiling", "log_levels"].includes(effect.kind),
          act: (one) => this.#clear(one),
        },
      ],
    });
    root.replaceChildren(listing.element);
    return listing.refresh();
  }

  #clear(one) {
    return this.#end(one, "/overrides/clear", LOCKS.clear, LOCKS.clearTitle, LOCKS.clearText, LOCKS.cleared);
  }

  #end(one, path, label, title, words, done) {
    return confirmAction({
      title,
      text: words(text(describe(one.effect))),
      label,
      send: ({ reason }) => this.#tools.act(path, { id: one.id, reason }, applied(done)),
    });
  }
}
