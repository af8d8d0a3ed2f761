import assert from "node:assert/strict";
import test from "node:test";
import { Draft } from "../src/people/requests/draft.js";

class Memory {
  values = new Map();
  getItem = (key) => this.values.get(key) ?? null;
  setItem = (key, value) => this.values.set(key, value);
  removeItem = (key) => this.values.delete(key);
}

const ANNA = { issuer: "corp", subject: "anna" };

test("a draft is for the person who wrote it", () => {
  const storage = new Memory();
  new Draft(storage, ANNA).save({ reason: "a disk" });
  assert.deepEqual(new Draft(storage, ANNA).load(), { reason: "a disk" });
  assert.equal(new Draft(storage, { issuer: "corp", subject: "victor" }).load(), null);
  new Draft(storage, ANNA).clear();
  assert.equal(new Draft(storage, ANNA).load(), null);
});

test("a storage that refuses loses only the draft", () => {
  const refusing = {
    getItem: () => "{",
    setItem() {
      throw new Error("full");
    },
    removeItem() {},
  };
  const draft = new Draft(refusing, ANNA);
  draft.save({});
  assert.equal(draft.load(), null);
});
