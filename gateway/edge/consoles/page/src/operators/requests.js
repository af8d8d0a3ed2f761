// Access requests: list, and end one.
import { REQUESTS } from "./texts.js";
import { confirmAction } from "./dialog.js";
import { clockTime } from "../people/times.js";
import { field, text } from "./dom.js";
import { Listing } from "./listing.js";
import { incomplete } from "./processes.js";

const { columns } = REQUESTS;

export class RequestsView {
  #tools;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    const choices = [["", REQUESTS.open], ...Object.entries(REQUESTS.states)];
    const state = field(REQUESTS.state, { choices });
    const listing = new Listing(this.#tools, {
      name: REQUESTS.table,
      empty: REQUESTS.empty,
      more: [state.box],
      load: async () => {
        const parameters = { state: state.control.value };
        const { status, data } = await this.#tools.api.read("/requests", parameters);
        return { status, data, rows: data.requests, note: incomplete(data) };
      },
      columns: [
        [columns.person, (one) => `${one.subject} (${one.issuer})`],
        [columns.state, (one) => REQUESTS.states[one.state] ?? one.state],
        [columns.role, (one) => one.role],
        [columns.servers, (one) => one.servers.join(", ") || one.project],
        [columns.ends, (one) => (one.ends_at ? clockTime(one.ends_at) : "")],
        [columns.approved, (one) => (one.break_glass ? REQUESTS.breakGlass : one.approved_by.join(", "))],
        [columns.reason, (one) => [one.ticket, one.reason].filter(Boolean).join(": ")],
        [columns.created, (one) => clockTime(one.created_at)],
        [columns.id, (one) => one.id],
      ],
      actions: [
        {
          label: REQUESTS.end,
          permission: "requests",
          applies: (one) => ["pending", "active"].includes(one.state),
          act: (one) => this.#end(one),
        },
      ],
    });
    state.control.addEventListener("change", () => listing.refresh());
    root.replaceChildren(listing.element);
    return listing.refresh();
  }

  #end(one) {
    return confirmAction({
      title: REQUESTS.endTitle(text(one.subject)),
      text: REQUESTS.endText,
      label: REQUESTS.end,
      send: ({ reason }) =>
        this.#tools.act("/requests/end", { id: one.id, reason }, () => REQUESTS.ended),
    });
  }
}
