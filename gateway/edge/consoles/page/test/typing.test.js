import assert from "node:assert/strict";
import test from "node:test";
import { KEYSYMS, chordEvents, textEvents } from "../src/keys.js";
import { PAD, StickyModifiers, changes } from "../src/typing.js";

test("text after the padding is inserted", () => {
  assert.deepEqual(changes(`${PAD}ls`), { deleted: 0, inserted: "ls" });
});

test("a shorter padding is deleted characters", () => {
  assert.deepEqual(changes(PAD.slice(0, -2)), { deleted: 2, inserted: "" });
});

test("a keyboard's correction deletes and inserts", () => {
  assert.deepEqual(changes(`${PAD.slice(0, -1)}the`), { deleted: 1, inserted: "the" });
});

test("text before the padding is inserted without it", () => {
  assert.deepEqual(changes(`x${PAD}`), { deleted: PAD.length, inserted: "x" });
});

test("chosen modifiers surround the next key only", () => {
  const modifiers = new StickyModifiers();
  assert.equal(modifiers.toggle("Control"), true);
  const key = textEvents("c");
  const events = modifiers.apply(key).map(({ keysym, down }) => [keysym, down]);
  assert.deepEqual(events, [
    [KEYSYMS.Control, true], [0x63, true], [0x63, false], [KEYSYMS.Control, false],
  ]);
  assert.equal(modifiers.apply(key), key);
});

test("a modifier that is chosen twice is not chosen", () => {
  const modifiers = new StickyModifiers();
  modifiers.toggle("Alt");
  assert.equal(modifiers.toggle("Alt"), false);
  const tab = chordEvents(["Tab"]);
  assert.equal(modifiers.apply(tab), tab);
});
