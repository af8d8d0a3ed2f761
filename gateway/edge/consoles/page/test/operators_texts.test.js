import assert from "node:assert/strict";
import test from "node:test";
import { BUDGETS } from "../src/operators/texts.js";

test("the rate of a budget is short", () => {
  const shown = [9, 1 / 6, 2.5, 1234.5678, 1 / 86_400].map(BUDGETS.rate);
  assert.deepEqual(shown, ["9", "0.167", "2.5", "1234.57", "0.0000116"]);
  assert.equal(BUDGETS.standalone(1 / 3), "0.333, without Redis");
});
