import assert from "node:assert/strict";
import test from "node:test";
import { LiveData } from "../src/people/live_data.js";

class FakePoller {
  runs = 0;
  isRunning = false;
  constructor(read) {
    this.read = read;
  }
  start() {
    this.isRunning = true;
    this.runs += 1;
  }
  stop() {
    this.isRunning = false;
  }
}

class FakeSession {
  asked = [];
  constructor(...replies) {
    this.replies = replies;
  }
  async get(path, { etag }) {
    this.asked.push([path, etag]);
    return { data: {}, etag: "", ...this.replies.shift() };
  }
}

function live(...replies) {
  const session = new FakeSession(...replies);
  const seen = [];
  let poller;
  const data = new LiveData(
    session,
    "/ui/requests",
    () => seen.push(data.state),
    (read) => {
      poller = new FakePoller(read);
      return poller;
    },
  );
  data.start();
  return { data, session, seen, poller };
}

test("unchanged data is not announced again", async () => {
  const { data, session, seen, poller } = live(
    { status: 200, data: { a: 1 }, etag: '"x"' },
    { status: 304 },
  );
  await poller.read();
  await poller.read();
  assert.deepEqual(session.asked, [
    ["/ui/requests", ""],
    ["/ui/requests", '"x"'],
  ]);
  assert.deepEqual(seen, ["ready"]);
  assert.deepEqual(data.data, { a: 1 });
});

test("data stays while the gateway does not answer", async () => {
  const { data, seen, poller } = live(
    { status: 200, data: { a: 1 } },
    { status: 0 },
    { status: 304 },
  );
  for (let i = 0; i < 3; i += 1) await poller.read();
  assert.deepEqual(seen, ["ready", "offline", "ready"]);
  assert.deepEqual(data.data, { a: 1 });
});

test("nothing of the person stays after the session", async () => {
  const { data, seen, poller } = live({ status: 200, data: { a: 1 } }, { status: 401 });
  await poller.read();
  await poller.read();
  assert.deepEqual(seen, ["ready", "expired"]);
  assert.equal(data.data, null);
  assert.equal(poller.isRunning, false);
});

test("a refused path is not read again until the person tries", async () => {
  const { data, poller } = live({ status: 404, data: { error_msg: "no" } });
  await poller.read();
  assert.equal(data.state, "failed");
  assert.equal(data.problem.status, 404);
  assert.equal(poller.isRunning, false);
  data.retry();
  assert.equal(poller.isRunning, true);
});

test("a reading from before a write is not shown", async () => {
  const { data, poller } = live({ status: 200, data: { version: 1 } });
  const reading = poller.read();
  data.replace({ version: 2 });
  await reading;
  assert.deepEqual(data.data, { version: 2 });
});
