import assert from "node:assert/strict";
import test from "node:test";
import { StoredSession, lockSession } from "../src/storage.js";

class Memory {
  values = new Map();
  getItem = (key) => this.values.get(key) ?? null;
  setItem = (key, value) => this.values.set(key, value);
  removeItem = (key) => this.values.delete(key);
}

test("a newer key replaces only the key", () => {
  const stored = new StoredSession(new Memory());
  stored.save({ socket: "/s", resume_key: "1" });
  stored.save({ resume_key: "2" });
  assert.deepEqual(stored.load(), { socket: "/s", resume_key: "2" });
  stored.clear();
  assert.equal(stored.load(), null);
});

test("storage of another shape is no session", () => {
  const memory = new Memory();
  for (const value of ["{", "null", "7", '{"socket": 1}']) {
    memory.setItem("console-session", value);
    assert.equal(new StoredSession(memory).load(), null);
  }
});

test("a browser without locks does without", async () => {
  assert.equal(typeof (await lockSession(undefined, "sid")), "function");
});
