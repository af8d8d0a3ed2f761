// The policy in force, and why it decides as it does.
import { POLICY } from "./texts.js";
import { fillFacts } from "../view.js";
import { confirmAction } from "./dialog.js";
import { button, make } from "../people/dom.js";
import { clockTime } from "../people/times.js";
import { field, fieldForm, text } from "./dom.js";
import { Listing } from "./listing.js";
import { describe } from "./locks.js";
import { missing } from "./processes.js";

const { columns, facts } = POLICY;
const PERMISSIONS = ["console:open", "console:view", "server:read", "server:power", "recording:view"];

export class PolicyView {
  #tools;

  constructor(tools) {
    this.#tools = tools;
  }

  show(root) {
    const listing = this.#inForce();
    root.replaceChildren(this.#question(), listing.element);
    return listing.refresh();
  }

  #inForce() {
    const tools = this.#tools;
    const more = [];
    if (tools.may("override")) {
      more.push(
        button(POLICY.reload, async () => {
          if (await this.#reload()) await listing.refresh();
        }),
      );
    }
    const listing = new Listing(tools, {
      name: POLICY.table,
      empty: POLICY.empty,
      more,
      load: async () => {
        const { status, data } = await tools.api.read("/policy");
        return { status, data, rows: data.processes, note: status === 200 ? missing(data) : "" };
      },
      columns: [
        [columns.process, (one) => one.process],
        [columns.version, (one) => one.version],
        [columns.rules, (one) => one.rules],
        [columns.loaded, (one) => clockTime(one.loaded_at)],
        [columns.file, (one) => (one.file_rejected ? POLICY.rejected(one.error) : POLICY.inForce)],
      ],
    });
    return listing;
  }

  #reload() {
    return confirmAction({
      title: POLICY.reloadTitle,
      text: POLICY.reloadText,
      label: POLICY.reload,
      send: (values) => this.#tools.act("/policy/reload", values, () => POLICY.reloaded),
    });
  }

  #question() {
    const fields = {
      subject: field(POLICY.person, { required: true }),
      issuer: field(POLICY.issuer, { required: true }),
      groups: field(POLICY.groups),
      project: field(POLICY.project, { required: true }),
      server: field(POLICY.server),
      permission: field(POLICY.permission, { choices: PERMISSIONS.map((one) => [one, one]) }),
    };
    const answer = make("div", { className: "op-answer", attributes: { role: "status" } });
    const form = fieldForm(fields, POLICY.ask, (values) => this.#ask(values, answer));
    const heading = make("h2", { textContent: POLICY.explain });
    return make("section", { className: "op-listing" }, heading, form, answer);
  }

  async #ask({ groups, server, ...question }, answer) {
    const body = { ...question };
    if (server) body.server = server;
    const named = groups.split(",").map((one) => one.trim()).filter(Boolean);
    if (named.length) body.groups = named;
    const { status, data } = await this.#tools.api.act("/policy/explain", body);
    if (status === 401) this.#tools.expired();
    else if (status === 200) answer.replaceChildren(...explanation(data));
    else answer.textContent = this.#tools.problem(status, data);
  }
}

function explanation(data) {
  const because = [
    ...data.locks.map((one) => POLICY.byLock(text(describe(one.effect)))),
    data.rule ? POLICY.byRule(text(data.rule.label), text(data.rule.location)) : POLICY.noRule,
  ];
  const others = data.others.map((one) => POLICY.byRule(text(one.label), text(one.location)));
  const groups = data.groups.map((one) => text(one)).join(", ") || "–";
  const list = make("dl");
  fillFacts(list, [
    [facts.decision, data.allowed ? POLICY.allowed : POLICY.denied],
    [facts.because, because.join("; ")],
    [facts.also, others.join("; ") || POLICY.noOthers],
    [facts.groups, groups, POLICY.groupsFrom[data.groups_from]],
    [facts.inventory, data.attributes_known ? POLICY.knownServer(text(data.server_name)) : POLICY.unknownServer],
    [facts.policy, text(data.policy), POLICY.answeredBy(text(data.process))],
  ]);
  const verdict = data.allowed ? "op-allowed" : "op-denied";
  return [make("div", { className: verdict }, list)];
}
