import assert from "node:assert/strict";
import test from "node:test";
import { Unreadable } from "../src/player/records.js";
import { ViewConnection, ViewOver } from "../src/player/view_connection.js";

class FakeSocket {
  readyState = 0;
  sent = [];

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = 1;
    this.onopen();
  }

  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}

function connect() {
  const sockets = [];
  const events = [];
  const waits = [];
  let ticket = "t1";
  const connection = new ViewConnection({
    url: "wss://gateway.example/console/player/socket",
    tickets: {
      load: () => ticket,
      save: (next) => {
        ticket = next;
      },
    },
    listener: {
      opened: (message) => {
        events.push(["opened", message.recording]);
        if (message.recording === "reads") connection.read(9, 9);
      },
      lost: () => events.push(["lost"]),
      ended: (end) => events.push(["ended", end.code, end.reason]),
    },
    openSocket: () => {
      sockets.push(new FakeSocket());
      return sockets.at(-1);
    },
    timers: { set: (action, delay) => waits.push([action, delay]), clear: () => {} },
  });
  connection.open();
  return { connection, sockets, events, waits };
}

test("a view opens with the ticket, and reads chunks in order", async () => {
  const { connection, sockets: [socket], events } = connect();
  socket.open();
  assert.deepEqual(socket.sent, [{ type: "open", ticket: "t1" }]);
  const early = connection.read(1, 0);
  socket.say({ type: "opened", ticket: "t2", recording: "r" });
  const late = connection.read(1, 1);
  assert.deepEqual(socket.sent.slice(1).map(({ chunk }) => chunk), [0, 1]);
  socket.onmessage({ data: new Uint8Array([1]).buffer });
  socket.say({ type: "unreadable", reason: "changed" });
  assert.deepEqual([...(await early)], [1]);
  await assert.rejects(late, Unreadable);
  assert.deepEqual(events, [["opened", "r"]]);
});

test("after a lost network the next ticket opens the view again", async () => {
  const { connection, sockets, events, waits } = connect();
  sockets[0].open();
  sockets[0].say({ type: "opened", ticket: "t2" });
  const read = connection.read(2, 7);
  sockets[0].onclose({ code: 1006 });
  const [again, delay] = waits.at(-1);
  assert.equal(delay, 0);
  again();
  sockets[1].open();
  assert.deepEqual(sockets[1].sent, [{ type: "open", ticket: "t2" }]);
  sockets[1].say({ type: "opened", ticket: "t3" });
  assert.deepEqual(sockets[1].sent[1], { type: "read", part: 2, chunk: 7 });
  sockets[1].onmessage({ data: new Uint8Array(3).buffer });
  assert.equal((await read).length, 3);
  assert.deepEqual(events.map(([name]) => name), ["opened", "lost", "opened"]);
});

test("a read of the listener is sent once", () => {
  const { sockets: [socket] } = connect();
  socket.open();
  socket.say({ type: "opened", ticket: "t2", recording: "reads" });
  assert.deepEqual(socket.sent.slice(1), [{ type: "read", part: 9, chunk: 9 }]);
});

test("an end closes the view and its reads", async () => {
  const { connection, sockets: [socket], events } = connect();
  socket.open();
  socket.say({ type: "opened", ticket: "t2" });
  const read = connection.read(1, 0);
  socket.say({ type: "ended", code: 4002, reason: "right_ended" });
  await assert.rejects(read, ViewOver);
  await assert.rejects(connection.read(1, 1), ViewOver);
  socket.onclose({ code: 4002 });
  assert.deepEqual(events, [["opened", undefined], ["ended", 4002, "right_ended"]]);
});

test("a close code without a message ends the view", () => {
  const { sockets: [socket], events } = connect();
  socket.open();
  socket.onclose({ code: 4001 });
  assert.deepEqual(events, [["ended", 4001, undefined]]);
});
