// The search of the audit log of this replica.
import { AUDIT } from "./texts.js";
import { clockTime } from "../people/times.js";
import { field, fieldForm } from "./dom.js";
import { Listing } from "./listing.js";

const { columns } = AUDIT;
const DAY_MS = 86_400_000;

/** Return the value of a date field for a time. */
function local(at) {
  const shifted = new Date(at - new Date(at).getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 16);
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
      load: async () => {
        const values = Object.entries(fields).map(([name, { control }]) => {
          const value = control.value.trim();
          return [name, control.type === "datetime-local" && value ? new Date(value).toISOString() : value];
        });
        const { status, data } = await this.#tools.api.read("/audit", Object.fromEntries(values));
        if (status !== 200) return { status, data };
        const notes = [data.intact ? AUDIT.verified : AUDIT.broken, data.complete ? "" : AUDIT.cut];
        return { status, data, rows: data.records, note: notes.filter(Boolean).join(" ") };
      },
      columns: [
        [columns.at, (one) => clockTime(one.at)],
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
