// Access requests: list, and end one.
import { REQUESTS } from "./texts.js";
import { confirmAction } from "./dialog.js";
import { clockTime } from "../people/times.js";
import { duration } from "../texts.js";
import { field, text } from "./dom.js";
import { Listing } from "./listing.js";
import { incomplete } from "./processes.js";

const { columns } = REQUESTS;
const SERVERS_SHOWN = 3;

function stateOf({ state, in_force: isInForce }) {
  const words = REQUESTS.states[state] ?? state;
  return state === "active" && !isInForce ? REQUESTS.notInForce(words) : words;
}

function serversOf({ servers, project }) {
  const names = servers.slice(0, SERVERS_SHOWN).join(", ") || project;
  return servers.length > SERVERS_SHOWN ? REQUESTS.servers(servers.length, names) : names;
}

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
        [columns.state, stateOf],
        [columns.role, (one) => one.role],
        [columns.servers, serversOf],
        [columns.ends, (one) => (one.ends_at ? clockTime(one.ends_at) : REQUESTS.afterApproval(duration(one.duration_s)))],
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
