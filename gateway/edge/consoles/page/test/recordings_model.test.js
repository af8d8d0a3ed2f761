import assert from "node:assert/strict";
import test from "node:test";
import { joined, lengthS, pagePath, sizeText } from "../src/people/recordings/model.js";

const NOW = Date.parse("2026-11-30T12:00:00Z");

test("the first page begins at the span, the next where the gateway says", () => {
  const first = new URL(pagePath({ span: "day", server: "ABC", subject: "anna" }, NOW), "http://x");
  assert.equal(first.pathname, "/ui/console/recordings");
  assert.deepEqual(Object.fromEntries(first.searchParams), {
    limit: "50",
    since: "2026-11-29T12:00:00.000Z",
    server: "abc",
    subject: "anna",
  });
  const until = "2026-11-20T10:00:00.123456Z";
  const next = new URL(pagePath({ span: "all", server: "", subject: "" }, NOW, until), "http://x");
  assert.deepEqual(Object.fromEntries(next.searchParams), { limit: "50", until });
});

test("a recording of both pages is listed once", () => {
  assert.deepEqual(
    joined([{ id: "a" }, { id: "b" }], [{ id: "b" }, { id: "c" }]).map(({ id }) => id),
    ["a", "b", "c"],
  );
});

test("a size is in words", () => {
  const sizes = [0, 1023, 1024, 1536, 5 * 1024 ** 3, 3 * 1024 ** 4];
  const words = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 GiB", "3072.0 GiB"];
  assert.deepEqual(sizes.map(sizeText), words);
});

test("a recording in progress has no length", () => {
  const started_at = "2026-11-30T10:00:00Z";
  assert.equal(lengthS({ started_at, ended_at: null }), null);
  assert.equal(lengthS({ started_at, ended_at: "2026-11-30T10:01:30Z" }), 90);
});
