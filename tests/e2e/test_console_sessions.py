"""Live consoles over real processes: gateways, Valkey and the simulated cloud's screens."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from gateway.domain.rfb.encodings import Encoding
from tests.e2e.test_commands import run
from tests.support import programs, rfb
from tests.support.live_delivery import (
    ADMIN_API,
    PROJECT,
    admin_headers,
    admin_post,
    deliver_live,
    ticket,
)
from tests.support.live_page import LivePage
from tests.support.round_trips import RoundTrips
from tests.support.stack import (
    CloudProcess,
    RunningGateway,
    Stack,
    eventually,
    fetch,
    make_policy,
)
from tests.support.valkey import free_port

ENDED_WITHIN_S = 1.0


@pytest.fixture(scope="module")
def live() -> Iterator[Stack]:
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False, admin_api=ADMIN_API)
    deliver_live(stack.gateway)
    second = stack.replica(start=False, admin_api=ADMIN_API)
    deliver_live(second)
    second.config["page"] = {"enabled": True}
    second.write_config()
    policy = make_policy(stack.cloud)
    policy["roles"]["watcher"] = ["console:view"]
    watchers = {"role": "watcher", "to": {"groups": ["watchers"]}, "on": {"projects": [PROJECT]}}
    second.write_policy({**policy, "grants": [*policy["grants"], watchers]})
    stack.gateway.start()
    second.start()
    yield stack
    stack.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
def server(live: Stack) -> str:
    """Return a server on which no other test has just left a session."""
    return live.cloud.servers[_Counter.next() % (len(live.cloud.servers) - 1)]


class _Counter:
    value = 0

    @classmethod
    def next(cls) -> int:
        cls.value += 1
        return cls.value


async def open_console(
    live: Stack,
    client: aiohttp.ClientSession,
    server: str,
    subject: str,
    gateway: RunningGateway | None = None,
) -> LivePage:
    gateway = gateway or live.gateway
    text = await asyncio.to_thread(ticket, gateway, live.cloud.token(subject), server)
    page = LivePage(client, gateway.url)
    status, data = await page.redeem(text)
    assert status == 200, data
    await page.connect()
    await page.until_live()
    return page


def ended(gateways: list[RunningGateway], session: str) -> list[dict[str, Any]]:
    return [
        record
        for gateway in gateways
        for record in gateway.audit("console_session_ended")
        if record["session"] == session
    ]


async def test_people_on_consoles_of_other_replicas_are_listed(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    page = await open_console(live, client, server, "olga")
    second = live._gateways[1]

    def sessions(group: str) -> list[tuple[str, str]] | None:
        token = live.cloud.token("walter", groups=[group])
        state = fetch(second.url, "GET", "/servers/state", {"Authorization": f"Bearer {token}"})
        consoles = json.loads(state.body)["consoles"]
        if consoles is None:
            return None
        return [(one["server_id"], one["person"]["subject"]) for one in consoles["sessions"]]

    await asyncio.to_thread(eventually, lambda: sessions("watchers") == [(server, "olga")])
    assert await asyncio.to_thread(sessions, "operators") is None
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000


def test_page_without_login_is_the_list_alone(live: Stack) -> None:
    """`check` says so; the paths of pages are unknown ones, as without `page.enabled`."""
    second = live._gateways[1]
    checked = programs.run("gateway", "check", "--config", str(second.config_file))
    assert checked.returncode == 0, checked.stderr
    assert "page.enabled: serves `GET /servers` only" in checked.stderr
    assert "[page_without_login]" in checked.stderr
    for path in ("/", "/page/requests", "/ui/session", "/ui/servers", "/login"):
        found = fetch(second.url, "GET", path, {"Sec-Fetch-Site": "same-origin"})
        assert (found.status, found.error_code) == (401, "CGW.4010"), path
    headers = {"Authorization": f"Bearer {live.cloud.token('olga')}"}
    assert fetch(second.url, "GET", "/servers", headers).json["projects"] != []


async def test_ticket_opens_a_live_console_once(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    gateway = live.gateway
    text = ticket(gateway, live.cloud.token("once"), server)
    page = LivePage(client, gateway.url)
    status, described = await page.post("/console/ticket", {"ticket": text})
    assert status == 200
    assert described["server"] == {"project_id": PROJECT, "id": server, "name": None}
    assert described["person"] == {"subject": "once", "issuer": "corp"}
    assert 0 < described["expires_in"] <= 60
    assert (await page.redeem(text))[0] == 200
    status, data = await LivePage(client, gateway.url).redeem(text)
    assert (status, data["error_code"]) == (410, "CGW.4100")
    await page.connect()
    await page.until_live()
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000
    assert page.messages[-1]["reason"] == "person"
    eventually(lambda: ended([live.gateway], page.session_id))
    (record,) = ended([live.gateway], page.session_id)
    assert (record["end"], record["subject"], record["servers"]) == ("person", "once", [server])
    (issued,) = [r for r in gateway.audit("console_ticket_issued") if r["subject"] == "once"]
    (rejected,) = [
        r
        for r in gateway.audit("console_ticket_rejected")
        if r["link_fingerprint"] == issued["link_fingerprint"]
    ]
    assert rejected["detail"] == "spent or expired"


async def test_response_with_a_ticket_is_that_of_a_link(live: Stack, server: str) -> None:
    """Status, headers and body are those of `direct`; `no-cache` changes nothing."""
    gateway, token = live.gateway, live.cloud.token("form")
    plain = await asyncio.to_thread(gateway.console, token, server)
    fresh = await asyncio.to_thread(gateway.console, token, server, Cache_Control="no-cache")
    for response in (plain, fresh):
        assert response.status == 200
        assert set(response.json) == {"url"}
        assert response.json["url"].startswith(f"{gateway.url}/console#")
        assert response.headers["cache-control"] == "no-store"
        assert 55 <= int(response.headers["x-console-expires-in"]) <= 60
    assert plain.headers.keys() == fresh.headers.keys()
    assert plain.json["url"] != fresh.json["url"]


async def test_head_issues_no_ticket(live: Stack, server: str) -> None:
    """HEAD is not allowed, as with the cloud's own URLs."""
    gateway, before = live.gateway, len(live.gateway.audit("console_ticket_issued"))
    path = f"/v1/{PROJECT}/physicalservers/{server}/remote-console-address"
    headers = {"Authorization": f"Bearer {live.cloud.token('head')}"}
    assert fetch(gateway.url, "HEAD", path, headers).status == 405
    assert len(gateway.audit("console_ticket_issued")) == before


async def test_another_replica_redeems_and_serves(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    first, second = live.gateway, live._gateways[1]
    text = ticket(first, live.cloud.token("roamer"), server)
    page = LivePage(client, second.url)
    assert (await page.redeem(text))[0] == 200
    page.origin = first.url
    await page.connect(first.url)
    await page.until_live()
    # A tab that moves: the newest key replaces the connection on the first replica.
    moved = LivePage(client, second.url)
    moved.__dict__ |= {key: page.__dict__[key] for key in ("session_id", "cookie", "key", "_path")}
    await moved.connect()
    await moved.until_live()
    assert await page.until_closed() == 4008
    # The old tab's key is used up: it takes nothing over.
    await page.connect(first.url)
    assert await page.until_closed() == 4009
    await moved.send({"type": "end"})
    assert await moved.until_closed() == 4000


async def test_replica_without_redis_redeems_its_own_ticket_only(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    """The others have Redis, and no such ticket: they know neither that it is good nor spent."""
    first, alone = live.gateway, live.replica(start=False)
    alone.config["store"]["redis"] = {"url": f"redis://127.0.0.1:{free_port()}/0"}
    deliver_live(alone)
    await asyncio.to_thread(alone.start)
    text = await asyncio.to_thread(ticket, alone, live.cloud.token("remote"), server)
    elsewhere, page = LivePage(client, first.url), LivePage(client, alone.url)
    for _ in range(2):
        status, data = await elsewhere.post("/console/ticket", {"ticket": text})
        assert (status, data["error_code"]) == (503, "CGW.5038")
        assert (await elsewhere.redeem(text))[0] == 503
    assert (await page.redeem(text))[0] == 200
    assert (await page.redeem(text))[0] == 410
    assert (await elsewhere.redeem(text))[0] == 503
    await page.connect()
    await page.until_live()
    # A page that reaches the wrong replica tries again: no one but its own knows the session.
    page.origin = first.url
    await page.connect(first.url)
    assert await page.until_closed() == 4007
    (issued,) = alone.audit("console_ticket_issued")
    rejected = [
        one
        for gateway in (first, alone)
        for one in gateway.audit("console_ticket_rejected")
        if one["link_fingerprint"] == issued["link_fingerprint"]
    ]
    assert [one["detail"] for one in rejected] == ["spent or expired"]
    await asyncio.to_thread(alone.stop)


async def test_lost_connection_resumes_within_30_s(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    page = await open_console(live, client, server, "flaky")
    await page.lose()
    await page.connect()
    waiting = await page.until("state", state="waiting")
    assert waiting["expected_wait_s"] == 1.0
    await page.until_live()
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000


@pytest.mark.parametrize(
    ("how", "event", "expected"),
    [
        pytest.param("policy", "policy_loaded", 4002, id="by_policy"),
        pytest.param("lock", "lock_set", 4002, id="by_lock"),
        pytest.param("revocation", "revoked", 4002, id="by_revocation"),
        pytest.param("operator", "admin_action", 4001, id="by_operator"),
    ],
)
async def test_session_ends_within_a_second_on_another_replica(
    live: Stack, client: aiohttp.ClientSession, server: str, how: str, event: str, expected: int
) -> None:
    """Invariant 11, from the gateways' own times: of the change's record, and of the end's."""
    first, second = live.gateway, live._gateways[1]
    page = await open_console(live, client, server, f"ended-{how}", second)
    policy = json.loads(second.policy_file.read_text())
    changed, began = second if how == "policy" else first, time.time()
    with RoundTrips(first, second, valkey=live.valkey) as trips:
        try:
            if how == "policy":
                denial = {"to": {"users": [f"ended-{how}"]}, "on": {"servers": [server]}}
                second.write_policy({**policy, "denials": [{"role": "operator", **denial}]})
            else:
                paths = {"lock": "locks", "revocation": "revocations", "operator": "consoles/end"}
                target = {"issuer": "corp", "subject": f"ended-{how}", "reason": "test"}
                body = {"id": page.session_id} if how == "operator" else target
                path, admin = f"/admin/{paths[how]}", admin_headers(live.cloud)
                await asyncio.to_thread(admin_post, first, path, admin, body)
            assert await page.until_closed() == expected
        finally:
            second.write_policy(policy)
    eventually(lambda: ended([first, second], page.session_id))
    (record,) = ended([first, second], page.session_id)
    changes: list[float] = []  # a policy is in force before its record is written
    eventually(
        lambda: (
            changes.extend(one["at"] for one in changed.audit(event) if one["at"] >= began)
            or changes
        )
    )
    since = min(changes)
    assert record["at"] - since <= trips.limit_s(ENDED_WITHIN_S)


@pytest.mark.parametrize(
    ("change", "status", "code", "detail"),
    [
        ({"origin": "https://evil.example.net"}, 403, "CGW.4033", "foreign origin: https://evil"),
        ({"origin": "null"}, 403, "CGW.4033", "foreign origin: null"),
        ({"origin": "http://127.0.0.1:1"}, 403, "CGW.4033", "foreign origin: http://127.0.0.1:1"),
        (
            {"origin": "https://evil.example.net", "type": "text/plain"},
            *(403, "CGW.4033", "foreign origin: https://evil"),
        ),
        ({"type": "text/plain"}, 415, "CGW.4150", "sent by a form"),
        ({"type": "application/x-www-form-urlencoded"}, 415, "CGW.4150", "sent by a form"),
        ({"ticket": "x" * 54}, 410, "CGW.4100", ""),
        ({"ticket": 7}, 400, "CGW.4000", ""),
        ({"mode": "root"}, 400, "CGW.4000", "malformed request"),
        ({"take_over": 1}, 400, "CGW.4000", "malformed request"),
    ],
)
async def test_redemption_of_a_foreign_or_malformed_request_spends_nothing(
    live: Stack,
    client: aiohttp.ClientSession,
    server: str,
    change: dict[str, Any],
    status: int,
    code: str,
    detail: str,
) -> None:
    """Each such request with a genuine ticket is recorded once."""
    before = len(live.gateway.audit("console_ticket_rejected"))
    text = ticket(live.gateway, live.cloud.token("careful"), server)
    body = {"ticket": text, "mode": "control"} | {
        key: value for key, value in change.items() if key in ("ticket", "mode", "take_over")
    }
    page = LivePage(client, live.gateway.url, origin=change.get("origin", ""))
    headers = {"Content-Type": change["type"]} if "type" in change else {}
    for _ in range(2):
        found, data = await page.post("/console/redeem", body, **headers)
        assert (found, data["error_code"]) == (status, code)
    records = live.gateway.audit("console_ticket_rejected")[before:]
    assert len(records) == (1 if detail else 0)
    for one in records:
        assert (one["subject"], one["servers"]) == ("careful", [server])
        assert one["detail"].startswith(detail)
    again = LivePage(client, live.gateway.url)
    assert (await again.post("/console/ticket", {"ticket": text}))[0] == 200


async def test_form_of_another_site_with_a_ticket_is_recorded_once(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    """The Origin is checked before the form's type."""
    before = len(live.gateway.audit("console_ticket_rejected"))
    text = ticket(live.gateway, live.cloud.token("careful"), server)
    form = {"ticket": text, "mode": "control"}
    url, headers = f"{live.gateway.url}/console/redeem", {"Origin": "https://evil.example.net"}
    async with client.post(url, data=form, headers=headers) as refused:
        assert refused.status == 403
    async with client.get(url, params=form, headers=headers) as refused:
        assert refused.status == 405
    details = [one["detail"] for one in live.gateway.audit("console_ticket_rejected")[before:]]
    assert details == ["foreign origin: https://evil.example.net", "in an address"]
    again = LivePage(client, live.gateway.url)
    assert (await again.post("/console/ticket", {"ticket": text}))[0] == 200


async def test_request_without_origin_is_refused(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    before = len(live.gateway.audit("console_ticket_rejected"))
    text = ticket(live.gateway, live.cloud.token("careful"), server)
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"ticket": text})
    for path in ("/console/ticket", "/console/redeem"):
        refused = await asyncio.to_thread(fetch, live.gateway.url, "POST", path, headers, body)
        assert (refused.status, refused.error_code) == (403, "CGW.4033")
    (record,) = live.gateway.audit("console_ticket_rejected")[before:]
    assert (record["subject"], record["detail"]) == ("careful", "without Origin")
    again = LivePage(client, live.gateway.url)
    assert (await again.post("/console/ticket", {"ticket": text}))[0] == 200


async def test_ticket_in_the_path_opens_nothing(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    before = len(live.gateway.audit("console_ticket_rejected"))
    text = ticket(live.gateway, live.cloud.token("careful"), server)
    for path in (f"/console/{text}", f"/console/redeem/{text}", f"/console/s/{text}/socket"):
        found = await asyncio.to_thread(fetch, live.gateway.url, "GET", path)
        assert (found.status, found.error_code) == (404, "CGW.4040")
    (record,) = live.gateway.audit("console_ticket_rejected")[before:]
    assert (record["subject"], record["detail"]) == ("careful", "in an address")
    again = LivePage(client, live.gateway.url)
    assert (await again.post("/console/ticket", {"ticket": text}))[0] == 200


@pytest.mark.parametrize(
    "first", [b"RFB 003.008\n", "{}", "[]", '{"type":"end"}', "x" * 2_000_000], ids=lambda f: f[:9]
)
async def test_first_frame_must_attach(
    live: Stack, client: aiohttp.ClientSession, server: str, first: bytes | str
) -> None:
    """Any other first frame ends the connection; the session can still be attached."""
    page = LivePage(client, live.gateway.url)
    await page.redeem(ticket(live.gateway, live.cloud.token("odd"), server))
    socket = await client.ws_connect(
        live.gateway.url + page._path,
        protocols=("console-gateway.v1",),
        origin=live.gateway.url,
        headers={"Cookie": page.cookie},
    )
    await (socket.send_bytes(first) if isinstance(first, bytes) else socket.send_str(first))
    async with asyncio.timeout(60):
        while (await socket.receive()).type not in (
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.ERROR,
        ):
            pass
    # A frame that is too large is refused by the WebSocket itself.
    assert socket.close_code in ((1006, 1009, 4012) if len(first) > 1_000_000 else (4012,))
    await socket.close()
    await page.connect()
    await page.until_live()
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000


async def test_cookie_of_another_session_takes_nothing_over(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    page = await open_console(live, client, server, "victim")
    others = live.cloud.servers[:-1]
    other_server = others[(others.index(server) + 3) % len(others)]  # not that of the test before
    thief = LivePage(client, live.gateway.url)
    status, data = await thief.redeem(ticket(live.gateway, live.cloud.token("thief"), other_server))
    assert status == 200, data
    name = page.cookie.partition("=")[0]
    own_path, thief._path = thief._path, page._path
    await thief.connect(cookie=f"{name}={thief.cookie.partition('=')[2]}", key=page.key)
    assert await thief.until_closed() == 4009
    assert page.close_code is None
    thief._path = own_path
    await thief.connect()
    await thief.until_live()
    for one in (page, thief):
        await one.send({"type": "end"})
        assert await one.until_closed() == 4000


@pytest.mark.parametrize("what", ["cookie", "foreign_cookie", "origin", "other_port"])
async def test_socket_without_cookie_or_own_origin_is_refused_before_the_upgrade(
    live: Stack, client: aiohttp.ClientSession, server: str, what: str
) -> None:
    """A foreign page with the genuine cookie is recorded once."""
    page = LivePage(client, live.gateway.url)
    await page.redeem(ticket(live.gateway, live.cloud.token("guard"), server))
    other = {"cookie": "", "foreign_cookie": f"console-{'0' * 32}=abc"}.get(what)
    origin = {"origin": "https://evil.example.net", "other_port": "http://127.0.0.1:1"}.get(what)
    for _ in range(2):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await page.connect(cookie=other, origin=origin or "")
        assert refused.value.status == 403
    records = rejected_requests(live, page.session_id)
    assert len(records) == (0 if origin is None else 1)
    for record in records:
        assert (record["subject"], record["servers"]) == ("guard", [server])
        assert record["detail"] == f"foreign origin: {origin}"
    await page.connect()
    await page.until_live()
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000


def rejected_requests(live: Stack, session: str) -> list[dict[str, Any]]:
    records = live.gateway.audit("console_request_rejected")
    return [record for record in records if record["session"] == session]


async def test_cookie_of_another_console_is_recorded(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    page = LivePage(client, live.gateway.url)
    await page.redeem(ticket(live.gateway, live.cloud.token("mixed"), server))
    own_path, page._path = page._path, f"/console/s/{'0' * 32}/socket"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await page.connect()
    assert refused.value.status == 403
    url = f"{live.gateway.url}/console/sessions/{'0' * 32}"
    async with client.delete(url, headers=browser_headers(live, page)) as response:
        assert response.status == 403
    (record,) = rejected_requests(live, page.session_id)
    assert (record["subject"], record["detail"]) == ("mixed", "cookie of another console")
    page._path = own_path
    await page.connect()
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000


def browser_headers(live: Stack, page: LivePage, origin: str = "") -> dict[str, str]:
    return {"Cookie": page.cookie, "Origin": origin or live.gateway.url}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_foreign_page_with_a_genuine_cookie_reads_and_ends_nothing(
    live: Stack, client: aiohttp.ClientSession, server: str, method: str
) -> None:
    page = await open_console(live, client, server, f"foreign-{method.lower()}")
    url = f"{live.gateway.url}/console/sessions"
    if method == "DELETE":
        url += f"/{page.session_id}"
    for origin in ("http://127.0.0.1:1", "http://127.0.0.1:1", "https://evil.example.net"):
        headers = browser_headers(live, page, origin)
        async with client.request(method, url, headers=headers) as refused:
            assert (refused.status, (await refused.json())["error_code"]) == (403, "CGW.4033")
    (record,) = rejected_requests(live, page.session_id)
    assert record["detail"] == "foreign origin: http://127.0.0.1:1"
    assert page.close_code is None
    # The page's own GET has no Origin.
    headers = browser_headers(live, page)
    if method == "GET":
        del headers["Origin"]
    async with client.request(method, url, headers=headers) as allowed:
        assert allowed.status == (200 if method == "GET" else 204)
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000


async def test_sockets_of_an_address_are_limited(live: Stack, server: str) -> None:
    """Only a wrong cookie or key counts: pages that come back at once are not limited."""
    limited = live.replica(start=False, admin_api=ADMIN_API)
    limited.config["caller_limits"] = {"requests": 1, "per_s": 3_600, "burst": 4}
    deliver_live(limited, public_url=live.gateway.url)
    # Replicas share the counts: the other tests need another address.
    limited.config["listen"]["trusted_proxies"] = ["127.0.0.1"]
    limited.write_config()
    limited.start()
    headers = {"X-Forwarded-For": "192.0.2.66"}
    try:
        async with aiohttp.ClientSession(headers=headers) as client:
            page = LivePage(client, live.gateway.url)
            await page.redeem(ticket(live.gateway, live.cloud.token("crowd"), server))
            for _ in range(6):
                await page.connect(limited.url)
                await page.until("attached")
                await page.lose()
            codes = []
            for _ in range(5):
                await page.connect(limited.url, cookie=f"console-{page.session_id}=wrong")
                codes.append(await page.until_closed())
            assert codes == [4009, 4009, 4009, 4009, 1013]
            await page.connect(limited.url)
            assert await page.until_closed() == 1013
            await page.connect()
            await page.until("attached")
            await page.send({"type": "end"})
            assert await page.until_closed() == 4000
    finally:
        limited.stop()


async def test_console_in_use_is_taken_over_by_the_person_only(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    first = await open_console(live, client, server, "holder")
    text = ticket(live.gateway, live.cloud.token("rival"), server)
    rival = LivePage(client, live.gateway.url)
    status, data = await rival.redeem(text)
    assert (status, data["error_code"]) == (409, "CGW.4090")
    assert data["in_use"]["by"] is None
    assert not data["in_use"]["may_take_over"]
    status, data = await rival.redeem(text, take_over=True)
    assert status == 403
    # Another tab of the same person may.
    own = LivePage(client, live.gateway.url)
    own_ticket = ticket(live.gateway, live.cloud.token("holder"), server)
    assert (await own.redeem(own_ticket, take_over=True))[0] == 200
    assert await first.until_closed() == 4006
    await own.connect()
    await own.until_live()
    await own.send({"type": "end"})
    assert await own.until_closed() == 4000


async def test_cloud_that_refuses_is_named_in_the_page(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    live.cloud.fail(live.cloud.console_control, "wrong_token", times=8)
    try:
        page = LivePage(client, live.gateway.url)
        await page.redeem(ticket(live.gateway, live.cloud.token("unlucky"), server))
        await page.connect()
        assert await page.until_closed() == 4010
        assert page.messages[-1]["error_code"] == "CGW.5021"
    finally:
        live.cloud.heal()


async def test_power_through_the_console_is_recorded_while_the_right_lasts(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    gateway, policy = live.gateway, json.loads(live.gateway.policy_file.read_text())
    grant = {"role": "switch", "to": {"users": ["switcher"]}, "on": {"servers": [server]}}
    loaded = len(gateway.audit("policy_loaded"))
    gateway.write_policy(
        {
            **policy,
            "roles": {**policy["roles"], "switch": ["server:power"]},
            "grants": [*policy["grants"], grant],
        }
    )
    live.cloud.console_settings(xvp=True)
    try:
        await asyncio.to_thread(eventually, lambda: len(gateway.audit("policy_loaded")) > loaded)
        page = await open_console(live, client, server, "switcher")
        assert page.messages[0]["power"]
        await page.initialise()
        await page.send_rfb(rfb.set_encodings(0, Encoding.XVP) + rfb.xvp(3))
        await asyncio.to_thread(
            eventually, lambda: live.cloud.screen(server)["power_actions"] == ["reboot"]
        )
        (record,) = gateway.audit("console_power_permitted")
        assert (record["subject"], record["servers"]) == ("switcher", [server])
        assert (record["detail"], record["session"]) == ("reboot", page.session_id)
        gateway.write_policy(policy)
        await page.until("power_ended")
        await page.send_rfb(rfb.xvp(2))
        rejected = await page.until("power_rejected")
        assert rejected["error_code"] == "CGW.4030"
        assert live.cloud.screen(server)["power_actions"] == ["reboot"]
        (record,) = gateway.audit("console_power_rejected")
        assert record["session"] == page.session_id
        await page.send({"type": "end"})
        assert await page.until_closed() == 4000
    finally:
        live.cloud.console_settings(xvp=False)
        gateway.write_policy(policy)


async def test_own_sessions_are_listed_and_ended_by_jwt(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    page = await open_console(live, client, server, "lister")
    gateway = live._gateways[1]
    own = {"Authorization": f"Bearer {live.cloud.token('lister')}"}
    listed = await asyncio.to_thread(fetch, gateway.url, "GET", "/console/sessions", own)
    (session,) = listed.json["sessions"]
    assert (session["id"], session["server_id"], session["connected"]) == (
        page.session_id,
        server,
        True,
    )
    path = f"/console/sessions/{page.session_id}"
    other = {"Authorization": f"Bearer {live.cloud.token('stranger')}"}
    refused = await asyncio.to_thread(fetch, gateway.url, "DELETE", path, other)
    assert refused.status == 403
    anonymous = await asyncio.to_thread(fetch, gateway.url, "GET", "/console/sessions")
    assert (anonymous.status, anonymous.error_code) == (403, "CGW.4035")
    environ = {"CONSOLE_GATEWAY_URL": gateway.url}
    environ["CONSOLE_GATEWAY_TOKEN"] = live.cloud.token("lister")
    code, output = await asyncio.to_thread(run, "sessions", environ=environ)
    assert (code, f"{page.session_id}  {PROJECT}/{server}  control" in output) == (0, True), output
    code, _ = await asyncio.to_thread(run, "sessions", "end", "0" * 32, environ=environ)
    assert code == 3
    code, output = await asyncio.to_thread(run, "sessions", "end", page.session_id, environ=environ)
    assert (code, output) == (0, f"Ended: {page.session_id}\n")
    assert await page.until_closed() == 4000
    code, output = await asyncio.to_thread(run, "sessions", environ=environ)
    assert (code, "You have no live console." in output) == (0, True)


async def test_console_command_renews_a_session_with_a_newer_token(
    live: Stack, client: aiohttp.ClientSession, server: str
) -> None:
    """The newer token's groups decide from then on."""
    page = await open_console(live, client, server, "renewer", live._gateways[1])
    environ = {"CONSOLE_GATEWAY_URL": live.gateway.url}
    words = ("console", f"{PROJECT}/{server}", "--renew")
    same = {**environ, "CONSOLE_GATEWAY_TOKEN": live.cloud.token("renewer", life_s=7_200)}
    code, output = await asyncio.to_thread(run, *words, environ=same)
    assert (code, page.session_id in output) == (0, True), output
    other = {**environ, "CONSOLE_GATEWAY_TOKEN": live.cloud.token("somebody")}
    code, output = await asyncio.to_thread(run, *words, environ=other)
    assert (code, "You have no live console on this server." in output) == (1, True)
    assert page.close_code is None
    fewer = live.cloud.token("renewer", life_s=9_000, groups=["viewers"])
    code, _ = await asyncio.to_thread(
        run, *words, environ={**environ, "CONSOLE_GATEWAY_TOKEN": fewer}
    )
    assert code == 0
    assert await page.until_closed() == 4002


def test_check_console_says_which_shape_reaches_the_greeting(live: Stack) -> None:
    target = f"{PROJECT}/{live.cloud.servers[0]}"
    options = ("check", "--config", str(live.gateway.config_file), "--console", target)
    live.cloud.console_settings(shapes="root")
    try:
        code, output = run(*options)
    finally:
        live.cloud.console_settings(shapes="both")
    assert code == 0, output
    assert "console by root binary: ok, RFB 003.008" in output
    assert "console by root without subprotocol: ok, RFB 003.008" in output
    assert "console by directory binary: " in output
    assert not any(one["token"] in output for one in live.cloud.console_tokens())


def test_check_console_names_a_wrong_target(live: Stack) -> None:
    config = str(live.gateway.config_file)
    code, output = run("check", "--config", config, "--console", "nothing/here")
    assert (code, "no account has the project" in output) == (2, True)
    code, output = run("check", "--config", config, "--console", f"{PROJECT}/web-01")
    assert (code, "must be PROJECT/SERVER" in output) == (2, True)


def test_switch_to_live_consoles_drops_the_cached_urls() -> None:
    """Each time, also within the lifetime of links, and where overrides are off."""
    links = {"console_hosts": ["127.0.0.1"]}
    cloud = CloudProcess("--live-project", PROJECT)
    stack = Stack(cloud, account={"links": links})
    gateway, token = stack.gateway, cloud.token("olga")
    assert gateway.config["overrides"] == {"enabled": False}
    direct, seen = dict(gateway.config["accounts"][0]), list[str]()

    try:
        for _ in range(2):
            seen.append(gateway.console(token).json["url"])
            assert gateway.console(token).json["url"] == seen[-1]
            before = gateway.workers()
            deliver_live(gateway)
            gateway.wait_for_new_workers(before)
            eventually(lambda: f"{gateway.url}/console#" in gateway.console(token).json["url"])
            fresh = gateway.console(token, Cache_Control="no-cache")
            assert f"{gateway.url}/console#" in fresh.json["url"]
            gateway.config["accounts"][0] = dict(direct)
            gateway.reload()
            eventually(lambda: f"{gateway.url}/console#" not in gateway.console(token).json["url"])
            assert gateway.console(token).json["url"] not in seen
    finally:
        stack.close()
