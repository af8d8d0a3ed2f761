import assert from "node:assert/strict";
import { test } from "node:test";
import { describe } from "../src/operators/locks.js";

test("a lock names its one target and its issuer", () => {
  const lock = { kind: "lock", issuer: "", subject: "", group: "", server: "", project: "" };
  assert.equal(describe({ ...lock, subject: "olga", issuer: "corp" }), "Lock on person olga (corp)");
  assert.equal(describe({ ...lock, server: "s1" }), "Lock on server s1");
});

test("other overrides list what they are about", () => {
  const revoked = { kind: "revoked_subject", issuer: "corp", subject: "olga", before: 1.5 };
  assert.equal(describe(revoked), "Revoked tokens of corp olga");
  const dropped = { kind: "dropped_links", project: "", server: "s1", person: "" };
  assert.equal(describe(dropped), "Dropped links s1");
  const levels = { kind: "log_levels", levels: { "gateway.policy": "debug" } };
  assert.equal(describe(levels), 'Log levels {"gateway.policy":"debug"}');
  assert.equal(describe({ kind: "of_a_later_version", name: "x" }), "of_a_later_version x");
});
