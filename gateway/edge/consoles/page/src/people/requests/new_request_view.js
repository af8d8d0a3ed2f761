// The form of a new access request. What may be requested comes from the rules of the policy only.
import { duration } from "../../texts.js";
import { choose, labelled } from "../choice.js";
import { button, factList, make, stateCard } from "../dom.js";
import { failureCard } from "../failure.js";
import { pageLink, showRefusal } from "../live_state.js";
import { LIVE } from "../live_texts.js";
import {
  REASON_CHARS_MAX,
  durationChoices,
  firstDuration,
  formProblems,
  namedProject,
  requestBody,
  ruleFor,
  serverIds,
  withoutNames,
} from "./model.js";
import { serverList } from "./parts.js";
import { Draft } from "./draft.js";
import { PERMISSIONS } from "../texts.js";
import { FORM, GLASS, REQUEST } from "./texts.js";

const CHECKBOXES_MAX = 30;
const PROBLEM_ORDER = ["project", "servers", "reason", "ticket"];

export class NewRequestView {
  #tools;
  #place = make("div");
  #rules = [];
  #rule = null;
  #isClosed = false;
  #isSending = false;
  #fields = {};
  #form = make("form", { className: "request-form", noValidate: true });
  #perRule = make("div");
  #glass = make("div");
  #problems = make("div", { className: "problems", attributes: { role: "alert" } });
  #sending = make("p", { className: "done", attributes: { role: "status" } });

  #draft;

  constructor(tools) {
    this.#tools = tools;
    this.#draft = new Draft(sessionStorage, tools.person);
  }

  show(root, { query = new URLSearchParams() }) {
    this.#tools.title(FORM.title);
    root.replaceChildren(
      pageLink(this.#tools, "/requests", REQUEST.back, "back"),
      make("h1", { textContent: FORM.title, tabIndex: -1 }),
      this.#place,
    );
    this.#load(query);
  }

  /** Another view follows: what was typed is not needed any more. A login only leaves the page. */
  close() {
    this.#isClosed = true;
    this.#draft.clear();
  }

  async #load(query) {
    this.#place.replaceChildren(stateCard({ state: "loading", title: LIVE.loading, isBusy: true }));
    const { session } = this.#tools;
    const from = /^[0-9a-f]{32}$/.test(query.get("from") ?? "") ? query.get("from") : "";
    const replies = await Promise.all([
      session.get("/ui/requests/rules"),
      ...(from ? [session.get(`/ui/requests/${from}`)] : []),
    ]);
    if (this.#isClosed) return;
    const failed = replies.find(({ status }) => status !== 200);
    if (failed) {
      this.#place.replaceChildren(
        failureCard(LIVE.failed, failed, () => this.#load(query), this.#tools.contact),
      );
      return;
    }
    const [
      {
        data: { rules },
      },
      earlier,
    ] = replies;
    this.#rules = rules;
    if (rules.length === 0) {
      this.#place.replaceChildren(stateCard({ state: "empty", ...FORM.noRules }));
      return;
    }
    this.#render(this.#draft.load() ?? wantedOf(query, earlier?.data));
  }

  #render(wanted) {
    this.#rule = ruleFor(this.#rules, wanted);
    const rule = make(
      "select",
      { name: "rule" },
      this.#rules.map((one) =>
        make("option", { value: one.rule, textContent: FORM.ruleText(one) }),
      ),
    );
    rule.value = this.#rule.rule;
    rule.addEventListener("change", () => this.#choose(rule.value));
    const reason = make("textarea", {
      name: "reason",
      rows: 5,
      dir: "auto",
      value: wanted.reason,
      required: true,
    });
    const count = make("p", { className: "hint count" });
    const showCount = () => {
      const length = [...reason.value].length;
      count.textContent = FORM.reasonCount(length, REASON_CHARS_MAX);
      count.classList.toggle("over", length > REASON_CHARS_MAX);
    };
    reason.addEventListener("input", showCount);
    showCount();
    this.#fields = { rule, reason };
    this.#form.replaceChildren(
      make("p", { className: "lead", textContent: wanted.isExtension ? FORM.extends : FORM.lead }),
      labelled(FORM.rule, rule),
      this.#perRule,
      make(
        "div",
        { className: "field-with-count" },
        labelled(FORM.reason, reason, FORM.reasonHint),
        count,
      ),
      this.#problems,
      this.#sending,
      make(
        "div",
        { className: "row" },
        make("button", { type: "submit", className: "primary", textContent: FORM.send }),
        button(FORM.cancel, () => this.#tools.go("/requests")),
      ),
      this.#glass,
    );
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(false);
    });
    this.#form.addEventListener("input", () => this.#saveDraft(wanted.isExtension));
    this.#renderRule(wanted);
    this.#place.replaceChildren(this.#form);
  }

  #choose(name) {
    const entered = this.#entered(false);
    this.#rule = this.#rules.find((one) => one.rule === name);
    this.#renderRule({ ...entered, servers: this.#serverText() });
  }

  /** Render what depends on the rule; what was entered stays where the new rule has a field for it. */
  #renderRule(wanted) {
    const rule = this.#rule;
    const project = projectField(rule, wanted.project);
    const listed = rule.server_ids.length > 0 && rule.server_ids.length <= CHECKBOXES_MAX;
    const servers = listed ? serverBoxes(rule, wanted.servers) : serverText(wanted.servers);
    const time = make(
      "select",
      { name: "duration" },
      durationChoices(rule.duration_max_s).map((seconds) =>
        make("option", { value: String(seconds), textContent: duration(seconds) }),
      ),
    );
    time.value = String(closest(rule, wanted.durationS));
    const ticket = make("input", {
      name: "ticket",
      value: wanted.ticket ?? "",
      autocomplete: "off",
      required: rule.ticket_required,
    });
    this.#fields = { ...this.#fields, project, servers, duration: time, ticket };
    this.#perRule.replaceChildren(
      factList([
        [FORM.permissions, rule.permissions.map((one) => PERMISSIONS[one] ?? one).join(", ")],
        [FORM.approvals, FORM.approvalsText(rule.approvals_required)],
      ]),
      labelled(FORM.project, project, project.tagName === "INPUT" ? FORM.projectHint : ""),
      listed ? servers : labelled(FORM.servers, servers, FORM.serversHint),
      ...(rule.selects_by_attributes
        ? [make("p", { className: "hint", textContent: FORM.selects })]
        : []),
      labelled(FORM.duration, time),
      labelled(FORM.ticket, ticket, rule.ticket_required ? FORM.ticketHint : FORM.ticketOptional),
    );
    this.#problems.replaceChildren();
    this.#renderGlass();
  }

  #renderGlass() {
    const glass = this.#rule.break_glass;
    if (glass === null) {
      this.#glass.replaceChildren();
      return;
    }
    this.#glass.replaceChildren(
      make(
        "details",
        { className: "glass" },
        make("summary", { textContent: GLASS.summary }),
        make("p", { textContent: GLASS.text(glass.per_day) }),
        button(GLASS.start, () => this.#send(true), { className: "danger" }),
      ),
    );
  }

  #saveDraft(isExtension) {
    const { rule, role } = this.#rule;
    this.#draft.save({
      ...this.#entered(false),
      servers: this.#serverText(),
      isExtension,
      rule,
      role,
    });
  }

  #serverText() {
    const { servers } = this.#fields;
    if (servers.tagName === "TEXTAREA") return servers.value;
    return [...servers.querySelectorAll("input:checked")].map((one) => one.value).join("\n");
  }

  #entered(isBreakGlass) {
    const { project, reason, duration: time, ticket } = this.#fields;
    const text = this.#serverText();
    const named = project.value.trim() || namedProject(text);
    return {
      ...withoutNames(serverIds(text), named, this.#tools.servers.rows),
      durationS: Number(time.value),
      reason: reason.value,
      ticket: ticket.value.trim(),
      isBreakGlass,
    };
  }

  async #send(isBreakGlass) {
    if (this.#isSending) return;
    const form = this.#entered(isBreakGlass);
    const problems = formProblems(form, this.#rule, FORM.problems);
    this.#showProblems(problems);
    if (Object.keys(problems).length > 0) return;
    if (isBreakGlass && !(await this.#confirmGlass(form))) return;
    this.#isSending = true;
    this.#sending.textContent = FORM.sending;
    const reply = await this.#tools.session.write("/ui/requests", requestBody(form, this.#rule));
    this.#isSending = false;
    this.#sending.textContent = "";
    if (this.#isClosed) return;
    if (reply.status === 201) this.#tools.go(`/requests/${reply.data.id}`);
    else showRefusal(this.#problems, reply);
  }

  /** Say that this is an emergency, with everything that is taken; a box and a button confirm it. */
  #confirmGlass(form) {
    const box = make("input", { type: "checkbox", name: "understood", id: "glass-understood" });
    return choose({
      title: GLASS.title,
      texts: [GLASS.lead, GLASS.consequences],
      facts: [
        [REQUEST.facts.role, this.#rule.role],
        [REQUEST.facts.project, form.project],
        [REQUEST.facts.servers, serverList(this.#tools, form.project, form.servers)],
        [REQUEST.facts.duration, duration(form.durationS)],
        [
          REQUEST.facts.reason,
          make("div", { className: "reason", dir: "auto", textContent: form.reason.trim() }),
        ],
      ],
      more: [
        make(
          "div",
          { className: "check" },
          box,
          make("label", { htmlFor: box.id, textContent: GLASS.understood }),
        ),
      ],
      yes: GLASS.yes,
      no: GLASS.no,
      isDanger: true,
      problem: () => (box.checked ? "" : GLASS.notUnderstood),
    });
  }

  #showProblems(problems) {
    const names = PROBLEM_ORDER.filter((name) => problems[name]);
    for (const name of PROBLEM_ORDER) {
      const field = this.#fields[name];
      if (field.tagName !== "FIELDSET")
        field.setAttribute("aria-invalid", String(name in problems));
    }
    this.#problems.replaceChildren(
      ...(names.length === 0
        ? []
        : [
            make("h2", { textContent: FORM.problems.title }),
            make(
              "ul",
              {},
              names.map((name) => make("li", { dir: "auto", textContent: problems[name] })),
            ),
          ]),
    );
    if (names.length > 0) this.#fields[names[0]].focus();
  }
}

/** Return what to fill in: from the address, or from an earlier request. */
function wantedOf(query, earlier) {
  if (earlier) {
    return {
      isExtension: true,
      rule: earlier.rule,
      role: earlier.role,
      project: earlier.project_id,
      servers: earlier.server_ids.join("\n"),
      durationS: earlier.duration_s,
      reason: earlier.reason,
      ticket: earlier.ticket,
    };
  }
  return {
    isExtension: false,
    role: query.get("role") ?? "",
    project: (query.get("project") ?? "").slice(0, 64),
    servers: (query.get("server") ?? "").slice(0, 1000).replaceAll(",", "\n"),
    reason: "",
    ticket: "",
  };
}

function projectField(rule, wanted) {
  if (rule.project_ids.length === 0) {
    return make("input", {
      name: "project",
      value: wanted ?? "",
      autocomplete: "off",
      spellcheck: false,
      required: true,
    });
  }
  const field = make(
    "select",
    { name: "project" },
    rule.project_ids.map((id) => make("option", { value: id, textContent: id })),
  );
  if (rule.project_ids.includes(wanted)) field.value = wanted;
  return field;
}

function serverText(wanted) {
  return make("textarea", {
    name: "servers",
    rows: 3,
    value: wanted ?? "",
    spellcheck: false,
    required: true,
  });
}

function serverBoxes(rule, wanted) {
  const chosen = new Set(serverIds(wanted ?? ""));
  const isOnly = rule.server_ids.length === 1;
  const boxes = rule.server_ids.map((id) =>
    make(
      "div",
      { className: "check" },
      make("input", {
        type: "checkbox",
        name: "server",
        id: `server-${id}`,
        value: id,
        checked: isOnly || chosen.has(id),
      }),
      make("label", { htmlFor: `server-${id}`, textContent: id }),
    ),
  );
  return make(
    "fieldset",
    { name: "servers", tabIndex: -1 },
    make("legend", { textContent: FORM.servers }),
    make("p", { className: "hint", textContent: FORM.listed }),
    ...boxes,
  );
}

/** Return the choice that is closest below a duration, or the shortest. */
function closest(rule, wantedS) {
  const choices = durationChoices(rule.duration_max_s);
  const wanted = firstDuration(rule.duration_max_s, wantedS);
  return choices.findLast((one) => one <= wanted) ?? choices[0];
}
