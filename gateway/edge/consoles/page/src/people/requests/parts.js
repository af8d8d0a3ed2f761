// What the views of requests have in common: the state of a request, people, and its whole content.
import { duration } from "../../texts.js";
import { factList, foreign, make } from "../dom.js";
import { serverName } from "../live_state.js";
import { clockTime } from "../times.js";
import { secondsUntil } from "./model.js";
import { REQUEST, ROW, STATE_WORDS } from "./texts.js";

/** Return the state as a badge, with the mark of break-glass. */
export function stateBadges(request) {
  const word = STATE_WORDS[request.state] ?? request.state;
  return make(
    "span",
    { className: "badges" },
    make("span", { className: "badge", data: { state: request.state }, textContent: word }),
    request.break_glass
      ? make("span", { className: "badge", data: { state: "glass" }, textContent: ROW.glass })
      : null,
  );
}

/** Return what is left of a request that is open, in words; "" for others. */
export function leftText(request, nowMs) {
  if (request.state === "active") return ROW.left(secondsUntil(request.ends_at, nowMs));
  if (request.state === "pending") return ROW.expiresIn(secondsUntil(request.pending_until, nowMs));
  return "";
}

/** Return a person as text: the subject, and the issuer in small. */
export function personElement({ subject, issuer }) {
  return make(
    "span",
    { className: "person" },
    foreign(subject),
    issuer ? make("small", { dir: "auto", textContent: issuer }) : null,
  );
}

function approvalsElement({ approvals, approvals_required: required, break_glass: isGlass }) {
  if (isGlass) return ROW.glass;
  if (approvals.length === 0) return required === null ? "" : REQUEST.noApprovals(required);
  const lines = approvals.map(({ by, at }) =>
    make("li", { dir: "auto", textContent: REQUEST.approvedBy(by.subject, clockTime(at)) }),
  );
  const count =
    required === null
      ? null
      : make("small", { textContent: ROW.approvals(approvals.length, required) });
  return make("div", {}, make("ul", { className: "plain-list" }, lines), count);
}

function approversText(approvers) {
  if (approvers === null) return "";
  const { groups, users, issuer } = approvers;
  return [
    groups.length > 0 ? REQUEST.groups(groups.join(", ")) : "",
    users.length > 0 ? REQUEST.users(users.join(", ")) : "",
    issuer ? REQUEST.ofIssuer(issuer) : "",
  ]
    .filter(Boolean)
    .join("\n");
}

/** Return servers by ID, with the names that the reader's list of servers has. */
export function serverList(tools, project, ids) {
  return make(
    "ul",
    { className: "plain-list" },
    ids.map((id) => {
      const name = serverName(tools, project, id);
      return make("li", {}, id, name === id ? null : make("small", {}, foreign(name)));
    }),
  );
}

/** Return the whole content of a request: everything that an approver decides on. */
export function contentFacts(request, tools) {
  const names = REQUEST.facts;
  return [
    [names.requester, personElement(request.requester)],
    [names.role, request.role],
    [names.rule, request.rule === request.role ? "" : request.rule],
    [names.project, request.project_id],
    [names.servers, serverList(tools, request.project_id, request.server_ids)],
    [
      names.duration,
      request.break_glass
        ? duration(request.duration_s)
        : REQUEST.durationFromApproval(request.duration_s),
    ],
    [names.reason, make("div", { className: "reason", dir: "auto", textContent: request.reason })],
    [names.ticket, request.ticket],
    [names.created, clockTime(request.created_at)],
  ];
}

/** Return the content and the course of a request as a list. */
export function requestFacts(request, tools) {
  const names = REQUEST.facts;
  const closed = request.closed;
  const isOver = !["pending", "active"].includes(request.state);
  return factList([
    ...contentFacts(request, tools),
    [names.pendingUntil, request.state === "pending" ? clockTime(request.pending_until) : ""],
    [names.approvals, approvalsElement(request)],
    [
      names.approvers,
      request.state === "pending"
        ? make("span", {
            className: "lines",
            dir: "auto",
            textContent: approversText(request.approvers),
          })
        : "",
    ],
    [names.started, clockTime(request.started_at)],
    [isOver ? names.ended : names.ends, clockTime(request.ends_at)],
    [names.closedBy, closed?.by.subject ? personElement(closed.by) : ""],
    [
      names.closedReason,
      closed?.reason
        ? make("div", { className: "reason", dir: "auto", textContent: closed.reason })
        : "",
    ],
    [names.id, request.id],
  ]);
}
