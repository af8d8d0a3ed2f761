import assert from "node:assert/strict";
import test from "node:test";
import { CHORDS, KEYSYMS, charKeysym, chordEvents, textEvents } from "../src/keys.js";

const pressed = (events) => events.filter(({ down }) => down).map(({ keysym }) => keysym);

test("characters have the keysyms of X11", () => {
  const expected = { a: 0x61, "~": 0x7e, é: 0xe9, "€": 0x010020ac, 世: 0x01004e16, "😀": 0x0101f600 };
  for (const [character, keysym] of Object.entries(expected)) {
    assert.equal(charKeysym(character), keysym, character);
  }
  assert.equal(charKeysym("\u0007"), null);
  assert.equal(charKeysym("\u0085"), null);
});

test("text is typed key by key, with Shift where a US keyboard needs it", () => {
  assert.deepEqual(pressed(textEvents("aB\r\n\t!")), [
    0x61, KEYSYMS.Shift, 0x42, KEYSYMS.Enter, KEYSYMS.Tab, KEYSYMS.Shift, 0x21,
  ]);
});

test("every key that is pressed is released", () => {
  for (const events of [textEvents("Ab\n\u0007é"), ...CHORDS.map(chordEvents)]) {
    const down = new Set();
    for (const event of events) {
      if (event.down) down.add(event.keysym);
      else assert.ok(down.delete(event.keysym));
    }
    assert.equal(down.size, 0);
  }
});

test("a chord is released in reverse order", () => {
  assert.deepEqual(
    chordEvents(["Control", "Alt", "Delete"]).map(({ keysym, down }) => [keysym, down]),
    [[0xffe3, true], [0xffe9, true], [0xffff, true], [0xffff, false], [0xffe9, false], [0xffe3, false]],
  );
});

test("every key of a chord has a keysym", () => {
  for (const name of CHORDS.flat()) assert.ok(KEYSYMS[name] > 0xff00, name);
  assert.equal(KEYSYMS.F12, 0xffc9);
});
