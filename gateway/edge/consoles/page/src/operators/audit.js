// The search of the audit log in the directory of this host.
import { AUDIT } from "./texts.js";
import { clockTime } from "../people/times.js";
import { field, fieldForm, text } from "./dom.js";
import { Listing } from "./listing.js";

const { columns } = AUDIT;
const DAY_MS = 86_400_000;

/** Return the value of a date field for a time. */
function local(at) {
  const shifted = new Date(at - new Date(at).getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 16);
}

/** Say what proves the records, and where was not searched. */
function note({ records, intact, complete, hosts, other_hosts: others, missing }) {
  const unproven = Object.entries(AUDIT.unproven)
    .map(([proof, words]) => [records.filter((one) => one.proof === proof).length, words])
    .filter(([count]) => count);
  const notes = [
    intact ? "" : AUDIT.broken,
    ...unproven.map(([count, words]) => words(count)),
    records.length && !unproven.length ? AUDIT.signed : "",
    complete ? "" : AUDIT.cut,
    AUDIT.hosts(hosts.map(text).join(", ")),
    others.length ? AUDIT.otherHosts(others.map(text).join(", ")) : "",
    missing ? AUDIT.missing(missing) : "",
  ];
  return notes.filter(Boolean).join(" ");
}

export class AuditView {
  #tools;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    const fields = {
      subject: field(AUDIT.person),
      issuer: field(AUDIT.issuer),
      server: field(AUDIT.server),
      request_id: field(AUDIT.request),
      event: field(AUDIT.event),
      since: field(AUDIT.since, { type: "datetime-local", value: local(Date.now() - DAY_MS) }),
      until: field(AUDIT.until, { type: "datetime-local" }),
    };
    const listing = this.#records(fields);
    const form = fieldForm(fields, AUDIT.search, () => listing.refresh());
    root.replaceChildren(form, listing.element);
  }

  #records(fields) {
    return new Listing(this.#tools, {
      name: AUDIT.table,
      empty: AUDIT.empty,
      before: AUDIT.before,
      load: async () => {
        const values = Object.entries(fields).map(([name, { control }]) => {
          const value = control.value.trim();
          return [name, control.type === "datetime-local" && value ? new Date(value).toISOString() : value];
        });
        const { status, data } = await this.#tools.api.read("/audit", Object.fromEntries(values));
        if (status !== 200) return { status, data };
        return { status, data, rows: data.records, note: note(data) };
      },
      columns: [
        [columns.at, (one) => clockTime(one.at)],
        [columns.proof, (one) => AUDIT.proofs[one.proof] ?? one.proof],
        [columns.event, (one) => one.event],
        [columns.person, (one) => [one.issuer, one.subject].filter(Boolean).join(": ")],
        [columns.decision, (one) => [one.decision, one.rule].filter(Boolean).join(", ")],
        [columns.target, (one) => one.target],
        [columns.server, (one) => [one.project, ...one.servers].filter(Boolean).join(" ")],
        [columns.request, (one) => one.request_id],
        [columns.from, (one) => one.client_address],
        [columns.detail, (one) => one.detail],
      ],
    });
  }
}
