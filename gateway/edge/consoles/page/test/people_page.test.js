import assert from "node:assert/strict";
import test from "node:test";
import { isFailure, nextWaitMs } from "../src/people/poller.js";
import { safeReturnPath } from "../src/people/return_path.js";
import { Router, loginPath } from "../src/people/router.js";
import { RecentServers } from "../src/people/servers/recent.js";
import { BrowserSession } from "../src/people/session.js";
import { ageS, ago, clockTime } from "../src/people/times.js";

const ROUTES = [
  { path: "/", page: "servers" },
  { path: "/servers/:project/:server", page: "servers" },
  { path: "/requests", page: "requests" },
  { path: "/requests/:id", page: "requests" },
];

test("a path finds its view and its names", () => {
  const router = new Router(ROUTES, "/gw");
  const { route, params } = router.find("/servers/p1/s-2");
  assert.equal(route.path, "/servers/:project/:server");
  assert.deepEqual({ ...params, query: null }, { project: "p1", server: "s-2", query: null });
  assert.equal(router.find("/requests", "?project=p1").params.query.get("project"), "p1");
  assert.equal(router.find("/requests/").route.path, "/requests");
  for (const path of ["", "/servers", "/servers/a", "/servers/a/b/c", "/requests/a/b", "/requests/%2e"]) {
    assert.equal(router.find(path), null, path);
  }
});

test("the list is at the address, everything else below /page", () => {
  for (const base of ["", "/gw"]) {
    const router = new Router(ROUTES, base);
    for (const path of ["/", "/servers/a/b", "/requests"]) {
      assert.equal(router.path(router.address(path)), path);
    }
    assert.equal(router.address("/"), `${base}/`);
    assert.equal(router.address("/requests?server=x"), `${base}/page/requests?server=x`);
    assert.equal(router.path(base), "/");
    for (const path of ["/console", "/requests", "/page", "/pages/x"]) {
      assert.equal(router.path(base + path), null);
    }
  }
});

test("a login comes back to every page", () => {
  const router = new Router(ROUTES, "/gw");
  const id = "7c1d2e3f-4a5b-4c6d-8e9f-0a1b2c3d4e5f";
  for (const path of ["/", `/servers/p1/${id}`, `/requests?project=p1&server=${id}`]) {
    const [pathname, search] = router.address(path).split("?");
    const login = loginPath("/gw", { pathname, search: search ? `?${search}` : "" }, false);
    const query = new URLSearchParams(login.split("?").slice(1).join("?"));
    assert.equal(safeReturnPath(query.get("return"), "/gw"), router.address(path));
    assert.equal(query.has("fresh"), false);
  }
  assert.match(loginPath("", { pathname: "/", search: "" }, true), /^\/login\?return=%2F&fresh=1$/);
});

test("polling is slower with each failure and applies Retry-After", () => {
  const wait = (failures, retryAfterS = 0, random = 0.5) => nextWaitMs({ failures, retryAfterS }, random);
  assert.equal(wait(0), 15_000);
  assert.deepEqual([1, 2, 3, 4].map((one) => wait(one)), [1_000, 2_000, 4_000, 8_000]);
  assert.equal(wait(30), 120_000);
  assert.equal(wait(1, 7), 7_000);
  assert.equal(wait(0, 0, 0), 12_000);
  assert.equal(wait(0, 0, 1), 18_000);
  assert.deepEqual([0, 429, 500, 503].map(isFailure), [true, true, true, true]);
  assert.deepEqual([200, 304, 401, 403].map(isFailure), [false, false, false, false]);
});

/** Return a session and the requests that it sends; `replies` are statuses with a body. */
function scripted(replies, onLoginRequired) {
  const sent = [];
  const fetch = async (path, options) => {
    sent.push({ path, ...options });
    const reply = replies.shift();
    if (reply === undefined) throw new TypeError("no network");
    const [status, body = {}, headers = {}] = reply;
    const text = status === 304 ? null : JSON.stringify(body);
    return new Response(text, { status, headers });
  };
  return { session: new BrowserSession("/gw", fetch, onLoginRequired), sent };
}

test("an unchanged reply costs no body", async () => {
  const { session, sent } = scripted([[200, { a: 1 }, { ETag: '"x"' }], [304, {}, { ETag: '"x"' }]]);
  const first = await session.get("/ui/servers");
  assert.deepEqual([first.status, first.data, first.etag], [200, { a: 1 }, '"x"']);
  const second = await session.get("/ui/servers", { etag: first.etag });
  assert.equal(second.status, 304);
  assert.equal(sent[0].path, "/gw/ui/servers");
  assert.equal(sent[0].headers["If-None-Match"], undefined);
  assert.equal(sent[1].headers["If-None-Match"], '"x"');
});

test("only what a person does counts as activity", async () => {
  const { session, sent } = scripted([[200], [200], [200]]);
  await session.get("/a");
  await session.get("/a");
  session.noteActivity();
  await session.get("/a");
  const isActive = sent.map(({ headers }) => headers["X-Activity"] === "person");
  assert.deepEqual(isActive, [true, false, true]);
});

test("activity that did not arrive is sent again", async () => {
  const { session, sent } = scripted([]);
  assert.equal((await session.get("/a")).status, 0);
  await session.get("/a");
  assert.equal(sent[1].headers["X-Activity"], "person");
});

test("a request says whether a login, or a recent one, is missing", async () => {
  const missing = [];
  const { session } = scripted(
    [
      [401, { error_code: "CGW.4011" }],
      [403, { error_code: "CGW.4036" }],
      [403, { error_code: "CGW.4030" }],
      [503, { error_code: "CGW.5030" }, { "Retry-After": "3", "X-Request-Id": "r-1" }],
    ],
    (isFresh) => missing.push(isFresh),
  );
  await session.get("/a");
  await session.write("/a", {});
  await session.write("/a", {});
  const failed = await session.get("/a");
  assert.deepEqual(missing, [false, true]);
  assert.deepEqual([failed.retryAfterS, failed.requestId], [3, "r-1"]);
});

const served = (body, status = 200, headers = {}) =>
  new BrowserSession("/gw", async () => new Response(body, { status, headers }));

test("a download is a file only when it is complete", async () => {
  const sizes = [];
  const options = { onBytes: (bytes) => sizes.push(bytes), signal: new AbortController().signal };
  const whole = await served("recorded").download("/x/export", options);
  assert.equal(await whole.file.text(), "recorded");
  assert.deepEqual(sizes, [8]);
  const large = "x".repeat(9 * 1024 * 1024);
  assert.equal((await served(large).download("/x/export", options)).file.size, large.length);
  const cut = new ReadableStream({
    pull(controller) {
      controller.enqueue(new Uint8Array(4));
      controller.error(new TypeError("reset"));
    },
  });
  const reply = await served(cut, 200, { "X-Request-Id": "r-1" }).download("/x/export", options);
  assert.deepEqual([reply.status, reply.file, reply.requestId], [200, null, "r-1"]);
  const rejected = await served('{"error_code":"CGW.4048"}', 404).download("/x/export", options);
  assert.deepEqual([rejected.status, rejected.file, rejected.data.error_code], [404, null, "CGW.4048"]);
  const offline = new BrowserSession("/gw", async () => {
    throw new TypeError("offline");
  });
  assert.equal((await offline.download("/x/export", options)).status, 0);
});

test("times have the reader's zone", () => {
  const text = clockTime("2026-11-30T09:00:00.000000Z", "en-GB", "Europe/Berlin");
  assert.match(text, /30 Nov 2026.*10:00:00.*(CET|GMT\+1)/);
  assert.equal(clockTime(null), "");
  assert.equal(ageS("2026-11-30T09:00:00Z", Date.parse("2026-11-30T09:00:12Z")), 12);
  assert.equal(ageS("2026-11-30T09:00:00Z", Date.parse("2026-11-30T08:00:00Z")), 0);
  assert.equal(ago(null, 0), "");
});

test("recent servers belong to one person, and bad storage is no servers", () => {
  const stored = new Map();
  const storage = {
    getItem: (key) => stored.get(key) ?? null,
    setItem: (key, value) => stored.set(key, value),
  };
  const anna = new RecentServers(storage, { issuer: "corp", subject: "anna" });
  for (const one of ["p/1", "p/2", "p/1"]) anna.add(one);
  assert.deepEqual(anna.keys, ["p/1", "p/2"]);
  for (let i = 0; i < 20; i += 1) anna.add(`p/${i}`);
  assert.equal(anna.keys.length, 6);
  assert.deepEqual(new RecentServers(storage, { issuer: "corp", subject: "ben" }).keys, []);
  for (const key of stored.keys()) stored.set(key, "{");
  assert.deepEqual(anna.keys, []);
});
