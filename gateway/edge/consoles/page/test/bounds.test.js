import assert from "node:assert/strict";
import test from "node:test";
import { CLIPBOARD_BYTES_MAX, clipboardText, plainText } from "../src/bounds.js";

test("control and direction characters become spaces", () => {
  assert.equal(plainText("a\u001b[31m\r\nb\u202ec\u0000 "), "a [31m b c");
});

test("long text is cut, and says so", () => {
  const text = plainText("😀".repeat(500), 10);
  assert.equal([...text].length, 10);
  assert.ok(text.endsWith("😀…"));
});

test("anything becomes text", () => {
  assert.equal(plainText(undefined), "");
  assert.equal(plainText(7), "7");
});

test("clipboard text is cut at 64 KiB of UTF-8, between characters", () => {
  const { text, bytes, truncated } = clipboardText("é😀".repeat(20000));
  assert.ok(bytes <= CLIPBOARD_BYTES_MAX && bytes > CLIPBOARD_BYTES_MAX - 4);
  assert.equal(new TextEncoder().encode(text).length, bytes);
  assert.ok(truncated && text.isWellFormed());
});

test("clipboard text within the bound stays as it is", () => {
  assert.deepEqual(clipboardText("a\nb"), { text: "a\nb", bytes: 3, truncated: false });
});
