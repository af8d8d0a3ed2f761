import assert from "node:assert/strict";
import test from "node:test";
import { Keystrokes, keyText } from "../src/player/keystrokes.js";

const key = (time, keysym, down = 1) => {
  const data = new Uint8Array(5);
  new DataView(data.buffer).setUint32(1, keysym);
  data[0] = down;
  return { time, kind: 6, data };
};

test("keys are shown as their signs", () => {
  const keysyms = [0x61, 0x20, 0xff0d, 0xffe3, 0xffbe, 0xffe1, 0x010020ac, 0xfe03];
  assert.deepEqual(keysyms.map(keyText), ["a", "␣", "⏎", "Ctrl", "F1", "", "€", "0xfe03"]);
});

test("lines end with Enter and before a pause, and have the time of their first key", () => {
  const keys = new Keystrokes();
  const pressed = (start, keysyms) => keysyms.map((one, index) => key(start + 100 * index, one));
  keys.add(60000, pressed(0, [0x71]));
  keys.add(0, [
    ...pressed(1000, [0x6c, 0x73, 0x20, 0xffe1, 0x2d, 0xff0d]),
    ...pressed(1700, [0x61, 0xffe3, 0x63]),
    ...pressed(5000, [0x62]),
  ]);
  assert.deepEqual(keys.lines, [
    { time: 1000, text: "ls␣-⏎" },
    { time: 1700, text: "a Ctrl c" },
    { time: 5000, text: "b" },
    { time: 60000, text: "q" },
  ]);
  assert.equal(new Keystrokes().isEmpty, true);
});

test("only keys of the last seconds are shown, over all parts", () => {
  const keys = new Keystrokes();
  keys.add(60000, [key(0, 0x63)]);
  keys.add(0, [key(1000, 0x61), key(1100, 0x61, 0), key(2000, 0x62)]);
  assert.deepEqual([500, 1000, 2500, 5500, 9000, 60000].map((time) => keys.at(time)),
    ["", "a", "a b", "b", "", "c"]);
});
