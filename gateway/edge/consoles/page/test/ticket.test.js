import assert from "node:assert/strict";
import test from "node:test";
import { TicketClient, takeTicket } from "../src/ticket.js";

function client(replies) {
  const waits = [];
  let time = 0;
  const timers = {
    now: () => time,
    set: (resume, delay) => {
      waits.push(delay);
      time += delay;
      resume();
    },
    clear: () => {},
  };
  const requests = [];
  const fetch = async (path, options) => {
    requests.push([path, JSON.parse(options.body)]);
    const reply = replies.length > 1 ? replies.shift() : replies[0];
    if (reply === null) throw new TypeError("no network");
    const { status = 200, headers = {}, body = {} } = reply;
    return new Response(JSON.stringify(body), { status, headers });
  };
  return { ticket: new TicketClient({ ticket: "t", lifetimeMs: 60000, fetch, timers }), requests, waits };
}

test("the ticket leaves the address at once", () => {
  const location = { hash: "#secret", pathname: "/gw/console", search: "" };
  const addresses = [];
  const history = { replaceState: (state, title, address) => addresses.push(address) };
  assert.equal(takeTicket(location, history), "secret");
  assert.deepEqual(addresses, ["/gw/console"]);
  assert.equal(takeTicket({ ...location, hash: "" }, history), null);
  assert.equal(addresses.length, 1);
});

test("describing reports the time that is left", async () => {
  const { ticket } = client([{ body: { expires_in: 42.5 } }]);
  await ticket.describe();
  assert.equal(ticket.deadline, 42500);
});

test("429, 503 and a missing answer are tried again after Retry-After", async () => {
  const { ticket, requests, waits } = client([
    { status: 503, headers: { "Retry-After": "3" } }, { status: 429 }, null, { status: 200 },
  ]);
  const reply = await ticket.redeem("view", true);
  assert.equal(reply.ok, true);
  assert.deepEqual(waits, [3000, 1000, 1000]);
  const request = ["console/redeem", { ticket: "t", mode: "view", take_over: true }];
  assert.deepEqual(requests, [request, request, request, request]);
});

test("a rejection after a failed attempt says that the ticket may be spent", async () => {
  for (const [first, expected] of [[{ status: 503 }, true], [null, true], [{ status: 429 }, false]]) {
    const { ticket } = client([first, { status: 410 }]);
    assert.equal((await ticket.redeem("control", false)).mayBeSpent, expected);
  }
});

test("nothing is tried after the ticket's life", async () => {
  const { ticket, requests } = client([{ status: 503, headers: { "Retry-After": "20" } }]);
  assert.equal((await ticket.describe()).status, 503);
  assert.equal(requests.length, 3);
});

test("other rejections are final", async () => {
  for (const status of [400, 403, 409, 410, 500]) {
    const { ticket, requests } = client([{ status, body: { error_code: "x" } }]);
    const reply = await ticket.describe();
    assert.equal(reply.status, status);
    assert.equal(reply.data.error_code, "x");
    assert.equal(requests.length, 1);
  }
});

test("a parked ticket is named by the cookie only", async () => {
  const { ticket, requests } = client([{ body: { expires_in: 600 } }]);
  assert.equal(ticket.isParked, false);
  await ticket.park();
  assert.equal(ticket.isParked, true);
  await ticket.describe();
  await ticket.redeem("view", false);
  assert.deepEqual(requests, [
    ["console/park", { ticket: "t" }],
    ["console/parked", { parked: true }],
    ["console/redeem", { parked: true, mode: "view", take_over: false }],
  ]);
});

test("a ticket that could not be parked stays as it is", async () => {
  const { ticket } = client([{ status: 410 }]);
  const reply = await ticket.park();
  assert.equal(reply.status, 410);
  assert.equal(ticket.isParked, false);
});
