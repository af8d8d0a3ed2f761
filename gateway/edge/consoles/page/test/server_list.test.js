import assert from "node:assert/strict";
import test from "node:test";
import {
  applyState, folded, matcher, mayOpen, mayWatch, rowsOf, sorted, valuesOf,
} from "../src/people/servers/list_model.js";
import { windowOf } from "../src/people/servers/row_window.js";

function server(id, changes = {}) {
  return { id, name: `web-${id}`, permissions: ["server:read", "console:open"], ...changes };
}

function rows(servers, project = {}) {
  const known = {
    project_id: "p1", project_name: "shop", account: "prod", region: "cn-east-3", delivery: "proxied",
  };
  return rowsOf([{ ...known, ...project, servers }]);
}

const found = (all, wanted) => all.filter(matcher(wanted)).map((row) => row.id);

test("a search finds names, IDs, tags, locations and projects, in any case and order", () => {
  const all = rows([
    server("a1", { location: { dc: "DC-7", rack: "r3", unit: null }, tags: [{ key: "env", value: "Prod" }] }),
    server("b2", { name: "Straße", tags: [{ key: "solo", value: "" }] }),
  ]);
  for (const search of ["a1", "WEB-A", "env=prod", "dc-7", "r3 prod", "prod  dc", "cn-east-3 a1"]) {
    assert.deepEqual(found(all, { search }), ["a1"], search);
  }
  assert.deepEqual(found(all, { search: "straße" }), ["b2"]);
  assert.deepEqual(found(all, { search: "solo" }), ["b2"]);
  assert.deepEqual(found(all, { search: "shop" }), ["a1", "b2"]);
  assert.deepEqual(found(all, { search: " " }), ["a1", "b2"]);
  assert.deepEqual(found(all, { search: "nothing" }), []);
});

test("a word of the search does not reach over two fields", () => {
  assert.deepEqual(found(rows([server("a1", { name: "web" })]), { search: "weba1" }), []);
});

test("compatible forms of one letter are the same in a search", () => {
  assert.equal(folded("ＷＥＢ"), "web");
});

test("filters narrow by region, power, health and what the person may do", () => {
  const all = rows([
    server("a", { power_state: "on", health_state: "OK" }),
    server("b", { power_state: "off", health_state: "Warning", permissions: ["server:power"] }),
    server("c"),
  ]);
  all[2].use = [{ by: null, mode: "control" }];
  assert.deepEqual(found(all, { filters: { power: "off" } }), ["b"]);
  assert.deepEqual(found(all, { filters: { health: "OK", power: "on" } }), ["a"]);
  assert.deepEqual(found(all, { filters: { may: "power" } }), ["b"]);
  assert.deepEqual(found(all, { filters: { may: "console" } }), ["a", "c"]);
  assert.deepEqual(found(all, { filters: { may: "used" } }), ["c"]);
  assert.deepEqual(found(all, { filters: { region: "cn-east-3", power: "" } }), ["a", "b", "c"]);
  assert.deepEqual(found(all, { filters: { region: "other" } }), []);
  assert.deepEqual(found(all, { filters: { unknown: "x" } }), ["a", "b", "c"]);
});

test("numbers in names are in numeric order, and rows without a value are last", () => {
  const all = rows([
    server("1", { name: "web-10" }),
    server("2", { name: null }),
    server("3", { name: "Web-9" }),
  ]);
  const ids = (sort) => sorted(all, sort).map((row) => row.id);
  assert.deepEqual(ids({ column: "name", isDescending: false }), ["3", "1", "2"]);
  assert.deepEqual(ids({ column: "name", isDescending: true }), ["1", "3", "2"]);
});

test("equal values are sorted by name in both directions", () => {
  const all = rows([
    server("1", { name: "b", health_state: "OK" }),
    server("2", { name: "a", health_state: "OK" }),
    server("3", { name: "c", health_state: "Warning" }),
  ]);
  const ids = (isDescending) => sorted(all, { column: "health", isDescending }).map((row) => row.id);
  assert.deepEqual(ids(false), ["2", "1", "3"]);
  assert.deepEqual(ids(true), ["3", "2", "1"]);
});

test("a server without details has no text but its name, ID and project", () => {
  const [row] = rows([{ id: "x", name: null, permissions: ["console:view"] }], { region: null });
  assert.equal(row.text, "\nx\n\n\nshop\nprod");
  assert.equal(mayOpen(row), false);
  assert.equal(mayWatch(row), true);
});

test("only consoles that run through the gateway can be watched", () => {
  const [row] = rows([{ id: "x", name: null, permissions: ["console:view"] }], { delivery: "direct" });
  assert.equal(mayWatch(row), false);
});

test("the state replaces power, and names people only where the person may watch", () => {
  const may = ["server:read", "console:view"];
  const all = rows([server("a", { power_state: "on", health_state: "OK", permissions: may }), server("b")]);
  const { project } = all[0];
  const on = (id) => ({ project_id: "p1", server_id: id, person: { subject: "ben" }, mode: "view", since: "t" });
  const state = {
    projects: [{ project_id: "p1", listed_at: "t1", is_current: false, problem: "busy" }],
    power: [{ project_id: "p1", server_id: "a", power_state: "off", health_state: "OK", read_at: "t2" }],
    consoles: { sessions: [on("a"), on("b")], complete: true },
  };
  applyState(all, [project], state);
  assert.deepEqual([all[0].power, all[0].readAt, all[1].readAt], ["off", "t2", "t1"]);
  assert.deepEqual([project.isCurrent, project.problem], [false, "busy"]);
  assert.deepEqual(all[0].use, [{ by: { subject: "ben" }, mode: "view", since: "t" }]);
  assert.equal(all[1].use, null);
  applyState(all, [project], { ...state, power: [], consoles: null });
  assert.deepEqual([all[0].power, all[0].use], ["on", null]);
});

test("the values of a filter are those that occur", () => {
  const all = rows([server("a", { power_state: "on" }), server("b", { power_state: "off" }), server("c")]);
  assert.deepEqual(valuesOf(all, "power"), ["off", "on"]);
});

test("the window has the rows on the screen and a few around them", () => {
  const at = (top, count = 10_000) => windowOf({ count, rowHeight: 50, top, height: 800 });
  assert.deepEqual(at(-200), { first: 0, end: 18 });
  assert.deepEqual(at(0), { first: 0, end: 22 });
  assert.deepEqual(at(5_000), { first: 94, end: 122 });
  assert.deepEqual(at(499_900), { first: 9_992, end: 10_000 });
  assert.deepEqual(at(9e9), { first: 10_000, end: 10_000 });
  assert.deepEqual(at(0, 0), { first: 0, end: 0 });
  assert.deepEqual(windowOf({ count: 5, rowHeight: 0, top: 0, height: 800 }), { first: 0, end: 0 });
});
