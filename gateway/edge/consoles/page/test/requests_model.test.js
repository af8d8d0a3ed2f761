import assert from "node:assert/strict";
import test from "node:test";
import {
  durationChoices,
  firstDuration,
  formProblems,
  isExtendable,
  namedProject,
  requestBody,
  ruleFor,
  secondsUntil,
  sections,
  serverIds,
  withoutNames,
} from "../src/people/requests/model.js";
import { FORM } from "../src/people/requests/texts.js";

const ID = "1b2c3d4e-2222-4333-8444-555555555555";
const OTHER = "2b2c3d4e-2222-4333-8444-555555555555";
const PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
const RULE = {
  rule: "op",
  role: "operator",
  project_ids: [],
  server_ids: [],
  duration_max_s: 14_400,
  ticket_required: false,
  break_glass: { per_day: 1, reason_min: 10 },
};
const FILLED = {
  project: PROJECT,
  servers: [ID],
  durationS: 600,
  reason: "a disk",
  ticket: "",
  isBreakGlass: false,
};

const problems = (changes, rule = RULE) =>
  formProblems({ ...FILLED, ...changes }, rule, FORM.problems);

test("a request belongs to one list", () => {
  const own = { id: "1", own: true, may: ["withdraw"] };
  const waiting = { id: "2", own: false, may: ["approve", "deny"] };
  const running = { id: "3", own: false, may: ["end"] };
  const decided = { id: "4", own: false, may: ["deny"] };
  const found = sections([own, waiting, running, decided]);
  assert.deepEqual(found, { toDecide: [waiting], own: [own], others: [running, decided] });
});

test("more time is for one's own access that runs or has run out", () => {
  const states = ["pending", "active", "ended", "denied", "withdrawn", "expired", "revoked"];
  assert.deepEqual(
    states.filter((state) => isExtendable({ own: true, state })),
    ["active", "ended"],
  );
  assert.equal(isExtendable({ own: false, state: "active" }), false);
});

test("durations end with the longest of the rule", () => {
  assert.deepEqual(durationChoices(5000), [900, 1800, 3600, 5000]);
  assert.deepEqual(durationChoices(3600), [900, 1800, 3600]);
  assert.deepEqual(durationChoices(300), [300]);
  assert.equal(firstDuration(14_400), 3600);
  assert.equal(firstDuration(300), 300);
});

test("servers are read from any list of IDs", () => {
  assert.deepEqual(serverIds(` ${ID.toUpperCase()},\n${PROJECT}/${OTHER}; ${ID} `), [ID, OTHER]);
  assert.equal(namedProject(`${PROJECT}/${OTHER}`), PROJECT);
  assert.equal(namedProject(ID), "");
});

test("a name stands for the one server that has it", () => {
  const row = (name, id, project) => ({ name, id, project: { project_id: project } });
  const rows = [row("Web-01", ID, PROJECT), row("db", OTHER, PROJECT), row("db", ID, "p2")];
  assert.deepEqual(withoutNames(["web-01"], "", rows), { project: PROJECT, servers: [ID] });
  assert.deepEqual(withoutNames(["db"], "", rows), { project: "", servers: ["db"] });
  assert.deepEqual(withoutNames(["db"], "p2", rows), { project: "p2", servers: [ID] });
  assert.deepEqual(withoutNames([OTHER], PROJECT, rows), { project: PROJECT, servers: [OTHER] });
});

test("each field says what is wrong with it", () => {
  assert.deepEqual(problems({}), {});
  const wrong = problems({ project: "a b", servers: ["<script>"], reason: " ", ticket: "a b" });
  assert.deepEqual(Object.keys(wrong), ["project", "servers", "reason", "ticket"]);
  assert.match(wrong.servers, /<script>/);
  assert.ok(problems({ servers: [] }).servers);
  assert.ok(problems({ servers: Array(21).fill(ID) }).servers);
  assert.match(problems({ reason: "x".repeat(10_240) }).reason, /10240/);
  assert.deepEqual(problems({ reason: "🙂".repeat(2000) }), {});
  assert.deepEqual(Object.keys(problems({}, { ...RULE, ticket_required: true })), ["ticket"]);
});

test("break-glass needs a longer reason", () => {
  assert.ok(problems({ isBreakGlass: true }).reason);
  assert.deepEqual(problems({ isBreakGlass: true, reason: "the disk burns" }), {});
});

test("the body has what the API takes, and no more", () => {
  const names = ["rule", "role", "project_id", "server_ids", "duration_s", "reason"];
  assert.deepEqual(Object.keys(requestBody(FILLED, RULE)), names);
  const body = requestBody({ ...FILLED, reason: " x ", ticket: "T-1", isBreakGlass: true }, RULE);
  assert.deepEqual([body.reason, body.ticket, body.break_glass], ["x", "T-1", true]);
});

test("the form begins with the rule of the earlier request, else with one that allows the server", () => {
  const rules = [
    { ...RULE, rule: "b", role: "b", project_ids: ["p2"] },
    { ...RULE, server_ids: [OTHER] },
    RULE,
  ];
  assert.equal(ruleFor(rules, { rule: "b", project: PROJECT }).rule, "b");
  assert.equal(ruleFor(rules, { role: "operator", project: PROJECT, servers: ID }), RULE);
  assert.equal(ruleFor(rules, { project: PROJECT, servers: OTHER }), rules[1]);
  assert.equal(ruleFor(rules, { project: "p2", servers: ID }), rules[0]);
  assert.equal(ruleFor(rules.slice(0, 1), { project: PROJECT }), rules[0]);
});

test("time that is over is 0", () => {
  const at = "2026-11-30T09:00:00.000000Z";
  assert.equal(secondsUntil(at, Date.parse(at) - 1500), 1.5);
  assert.equal(secondsUntil(at, Date.parse(at) + 1500), 0);
});
