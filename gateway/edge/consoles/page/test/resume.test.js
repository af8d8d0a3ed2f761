import assert from "node:assert/strict";
import test from "node:test";
import { ResumePolicy } from "../src/resume.js";

function delays(policy, from, count, took = 0) {
  const found = [];
  let now = from;
  for (let attempt = 0; attempt < count; attempt += 1) {
    const delay = policy.lost(now);
    found.push(delay);
    if (delay === null) break;
    now += delay + took;
  }
  return found;
}

test("an outage is tried at once, then after 1, 2, 4 and 8 s, within 30 s", () => {
  assert.deepEqual(delays(new ResumePolicy(30000), 0, 9), [0, 1000, 2000, 4000, 8000, 8000, null]);
});

test("slow attempts count into the 30 s", () => {
  assert.deepEqual(delays(new ResumePolicy(30000), 0, 9, 10000), [0, 1000, 2000, null]);
});

test("after a reload the outage goes on from when the page before it left", () => {
  assert.deepEqual(delays(new ResumePolicy(30000, 10000), 25000, 9), [0, 1000, 2000, 4000, null]);
  assert.equal(new ResumePolicy(30000, 10000).lost(40000), null);
  const policy = new ResumePolicy(30000, 10000);
  policy.attached();
  assert.equal(policy.lost(50000), 0);
});

test("a connection that was accepted begins a new outage", () => {
  const policy = new ResumePolicy(30000);
  policy.lost(0);
  assert.equal(policy.deadline, 30000);
  policy.attached();
  assert.equal(policy.deadline, null);
  policy.lost(50000);
  assert.equal(policy.deadline, 80000);
});

test("a flapping network waits longer each time", () => {
  const policy = new ResumePolicy(30000);
  const found = [];
  for (let now = 0; now < 60000; now += 10000) {
    found.push(policy.lost(now));
    policy.attached();
    policy.live(now + 1000);
  }
  assert.deepEqual(found, [0, 1000, 2000, 4000, 8000, 8000]);
});

test("a connection that was live for 30 s resets the delays", () => {
  const policy = new ResumePolicy(30000);
  delays(policy, 0, 4);
  policy.attached();
  policy.live(10000);
  assert.equal(policy.lost(40000), 0);
});
