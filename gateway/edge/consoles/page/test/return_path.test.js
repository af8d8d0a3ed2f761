import assert from "node:assert/strict";
import test from "node:test";
import { safeReturnPath } from "../src/people/return_path.js";

test("paths of the gateway stay", () => {
  for (const path of ["/console", "/", "/servers/a-1/b?tab=x&y=1"]) {
    assert.equal(safeReturnPath(path, ""), path);
  }
  assert.equal(safeReturnPath("/gw/console", "/gw"), "/gw/console");
});

test("everything else is dropped", () => {
  for (const path of [null, "", "//host", "/\\host", "https://host", "/%2f%2fhost", "/a/../b",
    "/a\n", "/a#b", "javascript:alert(1)", "/a//b", "/console:80", "/@host"]) {
    assert.equal(safeReturnPath(path, ""), null, String(path));
  }
  assert.equal(safeReturnPath("/console", "/gw"), null);
  assert.equal(safeReturnPath("/gwx", "/gw"), null);
});
