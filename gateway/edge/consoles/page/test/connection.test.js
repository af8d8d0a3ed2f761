import assert from "node:assert/strict";
import test from "node:test";
import { Connection } from "../src/connection.js";
import { ResumePolicy } from "../src/resume.js";

class FakeTimers {
  time = 0;
  pending = new Map();
  #next = 1;

  now = () => this.time;

  set = (action, delay) => {
    this.pending.set(this.#next, { action, at: this.time + delay });
    this.#next += 1;
    return this.#next - 1;
  };

  clear = (timer) => this.pending.delete(timer);

  advance(milliseconds) {
    const end = this.time + milliseconds;
    for (;;) {
      const due = [...this.pending].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
      if (due.length === 0) break;
      const [timer, { action, at }] = due[0];
      this.pending.delete(timer);
      this.time = at;
      action();
    }
    this.time = end;
  }
}

class FakeSocket {
  readyState = 0;
  sent = [];

  accept() {
    this.readyState = 1;
    this.onopen();
  }

  receive(message) {
    this.onmessage({ data: message instanceof ArrayBuffer ? message : JSON.stringify(message) });
  }

  send(data) {
    this.sent.push(typeof data === "string" ? JSON.parse(data) : data);
  }

  close() {
    this.readyState = 3;
  }

  lose(code) {
    this.readyState = 3;
    this.onclose({ code });
  }
}

function start() {
  const sockets = [];
  const events = [];
  const timers = new FakeTimers();
  let key = "key-1";
  const names = ["attached", "waiting", "connecting", "live", "warning", "warningOver", "mode",
    "watchers", "lost", "ended"];
  const listener = Object.fromEntries(
    names.map((name) => [name, (value) => events.push([name, value])]),
  );
  const connection = new Connection({
    url: "wss://gateway/socket",
    keys: { load: () => key, save: (next) => { key = next; } },
    policy: new ResumePolicy(30000),
    listener,
    openSocket: () => {
      sockets.push(new FakeSocket());
      return sockets.at(-1);
    },
    timers,
  });
  connection.open();
  const attach = (next) => {
    sockets.at(-1).accept();
    sockets.at(-1).receive({ type: "attached", resume_key: next });
  };
  return { attach, connection, events, key: () => key, sockets, timers };
}

const names = (events) => events.map(([name]) => name);

test("the first frame has the key, and the answer's key replaces it", () => {
  const page = start();
  page.attach("key-2");
  assert.deepEqual(page.sockets[0].sent, [
    { type: "attach", resume_key: "key-1" },
    { type: "key_received" },
  ]);
  assert.equal(page.key(), "key-2");
});

test("noVNC gets binary frames only, after live only", () => {
  const page = start();
  page.attach("key-2");
  const frame = new ArrayBuffer(3);
  page.sockets[0].receive(frame);
  page.sockets[0].receive({ type: "state", state: "live" });
  const channel = page.events.at(-1)[1];
  const frames = [];
  channel.onmessage = ({ data }) => frames.push(data);
  page.sockets[0].receive({ type: "watchers", watchers: [] });
  page.sockets[0].receive(frame);
  assert.deepEqual(frames, [frame]);
  channel.send(new Uint8Array([1]));
  assert.deepEqual(page.sockets[0].sent.at(-1), new Uint8Array([1]));
});

for (const code of [1001, 1005, 1006, 1011, 1012, 4007]) {
  test(`close code ${code} resumes with the newest key`, () => {
    const page = start();
    page.attach("key-2");
    page.sockets[0].lose(code);
    page.timers.advance(0);
    page.attach("key-3");
    assert.deepEqual(page.sockets[1].sent[0], { type: "attach", resume_key: "key-2" });
    assert.deepEqual(names(page.events), ["attached", "lost", "attached"]);
  });
}

for (const code of [4000, 4001, 4002, 4003, 4004, 4005, 4006, 4008, 4009, 4010, 4011, 4012, 4013, 4014]) {
  test(`close code ${code} is final`, () => {
    const page = start();
    page.attach("key-2");
    page.sockets[0].lose(code);
    page.timers.advance(60000);
    assert.equal(page.sockets.length, 1);
    assert.deepEqual(page.events.at(-1), ["ended", { code }]);
  });
}

test("the ended message is the end, whatever the close code says", () => {
  const page = start();
  page.attach("key-2");
  const ended = { type: "ended", code: 4002, reason: "right_ended", request_id: "r" };
  page.sockets[0].receive(ended);
  page.sockets[0].lose(1006);
  assert.deepEqual(page.events.at(-1), ["ended", ended]);
  assert.equal(page.events.length, 2);
});

test("an outage of more than 30 s ends the session", () => {
  const page = start();
  page.attach("key-2");
  page.sockets[0].lose(1006);
  for (let second = 0; second < 40; second += 1) {
    page.timers.advance(1000);
    const socket = page.sockets.at(-1);
    if (socket.readyState === 0) socket.lose(1006);
  }
  assert.deepEqual(page.events.at(-1), ["ended", { code: null, reason: "abandoned" }]);
  assert.ok(page.sockets.length > 4);
});

test("an attempt without an answer is left after 10 s", () => {
  const page = start();
  page.attach("key-2");
  page.sockets[0].lose(1006);
  page.timers.advance(0);
  assert.equal(page.sockets.length, 2);
  page.timers.advance(11000);
  assert.equal(page.sockets.length, 3);
  assert.equal(page.sockets[1].readyState, 3);
});

test("a late event of a left WebSocket changes nothing", () => {
  const page = start();
  page.attach("key-2");
  page.sockets[0].lose(1006);
  page.timers.advance(0);
  page.attach("key-3");
  page.sockets[0].receive({ type: "ended", code: 4001, reason: "operator" });
  page.sockets[0].onclose({ code: 4008 });
  assert.deepEqual(names(page.events), ["attached", "lost", "attached"]);
});

test("the network's return tries again at once", () => {
  const page = start();
  page.sockets[0].lose(1006);
  page.timers.advance(0);
  page.sockets[1].lose(1006);
  page.connection.retryNow();
  assert.equal(page.sockets.length, 3);
  page.connection.retryNow();
  assert.equal(page.sockets.length, 3);
  page.timers.advance(2000);
  assert.equal(page.sockets.length, 3);
});

test("the person's end is sent, and nothing follows", () => {
  const page = start();
  page.attach("key-2");
  page.connection.end();
  assert.deepEqual(page.sockets[0].sent.at(-1), { type: "end" });
  page.timers.advance(60000);
  assert.deepEqual(names(page.events), ["attached", "ended"]);
});

test("a frame that noVNC fails on ends the session", () => {
  const page = start();
  page.attach("key-2");
  page.sockets[0].receive({ type: "state", state: "live" });
  const failure = new Error("unknown message");
  page.events.at(-1)[1].onmessage = () => { throw failure; };
  page.sockets[0].receive(new ArrayBuffer(1));
  assert.deepEqual(page.events.at(-1), ["ended", { code: 4012, detail: failure }]);
});

test("text that is not JSON ends the session", () => {
  const page = start();
  page.attach("key-2");
  page.sockets[0].onmessage({ data: "{" });
  assert.equal(page.events.at(-1)[1].code, 4012);
});

test("a message of a newer gateway is ignored", () => {
  const page = start();
  page.attach("key-2");
  page.sockets[0].receive({ type: "new" });
  assert.deepEqual(names(page.events), ["attached"]);
});
