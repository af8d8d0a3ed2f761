"""Access requests over two gateways in real processes: API, commands, live consoles, admin API."""

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import pytest

from tests.support import programs
from tests.support.live_delivery import (
    ADMIN_API,
    PROJECT,
    admin_headers,
    admin_post,
    admin_token,
    deliver_live,
    ticket,
)
from tests.support.live_page import LivePage
from tests.support.round_trips import RoundTrips
from tests.support.stack import (
    CloudProcess,
    Response,
    RunningGateway,
    Stack,
    eventually,
    fetch,
    make_policy,
)

WITHIN_S = 1.0
SECRET = "whsec_" + base64.b64encode(b"w" * 32).decode()
REASON = 'replace a disk <script>alert("x")</script>'


def with_requests(cloud: CloudProcess, **rule: Any) -> dict[str, Any]:
    """Return a policy in which `staff` may request the console of the last server."""
    return {
        **make_policy(cloud),
        "requests": [
            {
                "role": "operator",
                "to": {"groups": ["staff"]},
                "on": {"projects": [cloud.project]},
                "for_max": "4h",
                "approvers": {"groups": ["leads"]},
                "break_glass": {"per_day": 2},
                **rule,
            }
        ],
    }


class Receiver:
    """A receiver of webhooks on loopback."""

    def __init__(self) -> None:
        self.found: list[tuple[Message, bytes]] = []
        self.is_gone = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not receiver.is_gone:
                    receiver.found.append((self.headers, body))
                self.send_response(410 if receiver.is_gone else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def events(self, request_id: str) -> list[str]:
        """Return the events about a request, each with a valid signature."""
        events = []
        for headers, body in list(self.found):
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            expected = hmac.digest(base64.b64decode(SECRET[6:]), signed, "sha256")
            assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
            found = json.loads(body)
            if found["data"]["id"] == request_id:
                events.append(found["type"].removeprefix("access_request."))
        return events

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def stack(receiver: Receiver) -> Iterator[Stack]:
    stack = Stack(CloudProcess("--live-project", PROJECT), start=False, admin_api=ADMIN_API)
    second = stack.replica(start=False, admin_api=ADMIN_API)
    for gateway in (stack.gateway, second):
        deliver_live(gateway)
        (gateway.directory / "webhook-url").write_text(receiver.url)
        (gateway.directory / "webhook-secret").write_text(SECRET)
        gateway.config["contact"] = {"text": "Platform on-call", "url": "https://help.example"}
        gateway.config["requests"] = {
            "file": "requests.json",
            "webhooks": [
                {
                    "name": "security",
                    "url": {"file": "webhook-url"},
                    "secrets": [{"file": "webhook-secret"}],
                }
            ],
        }
        gateway.write_config()
        gateway.write_policy(with_requests(stack.cloud))
        gateway.start().wait_for_access_requests()
    yield stack
    stack.close()


@pytest.fixture
def gateways(stack: Stack) -> tuple[RunningGateway, RunningGateway]:
    first, second = stack._gateways
    return first, second


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


def token(stack: Stack, subject: str, *groups: str) -> str:
    return stack.cloud.token(subject, groups=list(groups))


def call(
    gateway: RunningGateway, person: str, path: str = "", body: object = None, method: str = ""
) -> Response:
    headers = {"Authorization": f"Bearer {person}", "Content-Type": "application/json"}
    text = "" if body is None else json.dumps(body)
    method = method or ("GET" if body is None else "POST")
    return fetch(gateway.url, method, f"/requests{path}", headers, text)


def command(gateway: RunningGateway, person: str, *words: str) -> dict[str, Any]:
    environ = {"CONSOLE_GATEWAY_URL": gateway.url, "CONSOLE_GATEWAY_TOKEN": person}
    ran = programs.run("gateway", "requests", *words, "--json", environ=environ)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def explained(gateway: RunningGateway, server: str, *, by_gateway: bool = False) -> str:
    person = ("--user", "ann", "--group", "staff")
    config = ("--config", str(gateway.config_file))
    target = f"{gateway.cloud.project}/{server}"
    environ = {"CONSOLE_GATEWAY_ADMIN_TOKEN": admin_token(gateway.cloud)}
    options = ("--gateway", gateway.admin) if by_gateway else ()
    return programs.run(
        "gateway", "explain", *config, *person, *options, target, environ=environ
    ).stdout


def wanted(stack: Stack, **more: Any) -> dict[str, Any]:
    return {
        "role": "operator",
        "project_id": stack.cloud.project,
        "server_ids": [stack.cloud.servers[-1]],
        "duration_s": 3_600,
        "reason": REASON,
        **more,
    }


def test_commands_request_approve_and_end_access(
    stack: Stack, gateways: tuple[RunningGateway, RunningGateway], receiver: Receiver
) -> None:
    here, there = gateways
    server, ann, lea = (
        stack.cloud.servers[-1],
        token(stack, "ann", "staff"),
        token(stack, "lea", "leads"),
    )
    refused = here.console(ann, server)
    assert (refused.status, refused.error_code) == (403, "CGW.4030")
    assert "gateway requests rules" in refused.json["error_msg"]
    assert "gateway requests" not in here.console(lea, server).json["error_msg"]
    for person, can_request in ((ann, True), (lea, False)):
        environ = {"CONSOLE_GATEWAY_URL": here.url, "CONSOLE_GATEWAY_TOKEN": person}
        shown = programs.run(
            "gateway", "console", f"{stack.cloud.project}/{server}", environ=environ
        )
        assert shown.returncode == 3
        assert "Contact: Platform on-call https://help.example" in shown.stderr
        assert ("requests create PROJECT/SERVER --role operator" in shown.stderr) is can_request
    (rule,) = command(here, ann, "rules")["rules"]
    assert (rule["rule"], rule["duration_max_s"]) == ("operator", 14_400.0)
    assert command(here, lea, "rules")["rules"] == []

    target = f"{stack.cloud.project}/{server}"
    made = command(
        here, ann, "create", target, "--role", "operator", "--for", "2h", "--reason", REASON
    )
    assert (made["state"], made["reason"], made["may"]) == ("pending", REASON, ["withdraw"])
    assert here.console(ann, server).status == 403
    (waiting,) = command(there, lea, "list", "--to-approve")["requests"]
    assert (waiting["id"], waiting["may"]) == (made["id"], ["approve", "deny"])
    with RoundTrips(here, there, valkey=stack.valkey) as trips:
        approved = command(there, lea, "approve", made["id"], "--hash", made["hash"])
        approved_at = time.monotonic()
        assert (approved["state"], approved["in_force"]) == ("active", True)
        eventually(lambda: here.console(ann, server).status == 200)
        took_s = time.monotonic() - approved_at
    assert took_s < trips.limit_s(WITHIN_S)
    assert there.console(ann, server).status == 200
    issued = there.audit("console_ticket_issued")[-1]
    assert issued["rule"] == f"request:{made['id']}"
    record = there.audit("access_request_approved")[-1]
    assert (record["subject"], record["target"]) == ("lea", "corp:ann")
    assert json.loads(record["detail"])["hash"] == made["hash"]

    eventually(lambda: explained(there, server).startswith("ALLOWED by request:"))
    said = explained(there, server)
    assert f"access request {made['id']} approved by corp:lea" in said
    assert "may request it" not in said
    said = explained(there, server, by_gateway=True)
    assert said.startswith(f"ALLOWED by request:{made['id']}")
    assert f" in force at {there.admin}" in said
    with RoundTrips(here, there, valkey=stack.valkey) as trips:
        ended = command(here, ann, "end", made["id"], "--reason", "done")
        ended_at = time.monotonic()
        assert ended["state"] == "revoked"
        eventually(lambda: there.console(ann, server).status == 403)
        took_s = time.monotonic() - ended_at
    assert took_s < trips.limit_s(WITHIN_S)
    assert here.console(ann, server).status == 403
    # A gateway saves the requests after the change is in force.
    eventually(lambda: explained(there, server).startswith("DENIED"))
    said = explained(there, server)
    assert "  may request it: " in said
    assert "for at most 4 h; approvals: 1 by group leads; or break-glass" in said
    eventually(lambda: made["id"] in (here.directory / "requests.json").read_text())
    assert REASON not in (here.directory / "requests.json").read_text()
    eventually(lambda: sorted(receiver.events(made["id"])) == ["approved", "ended", "requested"])
    assert receiver.url not in here.log_text() + there.log_text()


@pytest.mark.parametrize("how", ["approver", "administrator", "policy"])
async def test_live_console_ends_with_its_request(
    stack: Stack,
    gateways: tuple[RunningGateway, RunningGateway],
    client: aiohttp.ClientSession,
    how: str,
) -> None:
    here, there = gateways
    server = stack.cloud.servers[-1]
    person = token(stack, f"ben-{how}", "staff")
    lea = token(stack, "lea", "leads")
    made = await asyncio.to_thread(call, here, person, "", wanted(stack, break_glass=True))
    assert made.status == 201, made.body
    assert (made.json["state"], made.json["break_glass"]) == ("active", True)
    assert here.audit("access_request_break_glass")[-1]["subject"] == f"ben-{how}"
    text = await asyncio.to_thread(ticket, here, person, server)
    page = LivePage(client, here.url)
    status, data = await page.redeem(text)
    assert status == 200, data
    await page.connect()
    await page.until_live()

    request_id = made.json["id"]
    with RoundTrips(here, there, valkey=stack.valkey) as trips:
        if how == "approver":
            reply = await asyncio.to_thread(
                call, there, lea, f"/{request_id}/end", {"reason": "no"}
            )
            assert reply.json["state"] == "revoked"
        elif how == "administrator":
            headers = admin_headers(stack.cloud)
            listed = await asyncio.to_thread(
                fetch, there.admin, "GET", "/admin/requests?subject=ben-administrator", headers
            )
            assert [one["id"] for one in listed.json["requests"]] == [request_id]
            body = {"id": request_id, "reason": "incident 7"}
            await asyncio.to_thread(admin_post, there, "/admin/requests/end", headers, body)
            assert there.audit("access_request_ended")[-1]["subject"] == "ada"
        else:
            here.write_policy(make_policy(stack.cloud))
        began = time.monotonic()
        code = await page.until_closed()
        took_s = time.monotonic() - began
    assert code == 4002, code
    assert took_s < trips.limit_s(2 * WITHIN_S)
    if how == "policy":
        here.write_policy(with_requests(stack.cloud))
        await asyncio.to_thread(
            eventually, lambda: call(here, person, "/rules").json["rules"] != []
        )


async def test_live_console_shows_the_end_of_its_access_and_more_time(
    stack: Stack, gateways: tuple[RunningGateway, RunningGateway], client: aiohttp.ClientSession
) -> None:
    here, there = gateways
    person, lea = token(stack, "eve", "staff"), token(stack, "lea", "leads")
    body = wanted(stack, duration_s=240, break_glass=True)
    first = await asyncio.to_thread(call, here, person, "", body)
    assert first.status == 201, first.body
    text = await asyncio.to_thread(ticket, here, person, stack.cloud.servers[-1])
    page = LivePage(client, here.url)
    status, data = await page.redeem(text)
    assert status == 200, data
    await page.connect()
    attached = await page.until("attached")
    assert (attached["ends_at"], attached["ends_by"]) == (first.json["ends_at"], "right_ended")
    warning = await page.until("warning", reason="right_ended")
    assert (warning["may_request"], warning["request"]) == (True, first.json["id"])

    # More time is another request, approved at the other gateway while the console is live.
    more = await asyncio.to_thread(call, there, person, "", wanted(stack, duration_s=7_200))
    path, body = f"/{more.json['id']}/approve", {"hash": more.json["hash"]}
    approved = await asyncio.to_thread(call, there, lea, path, body)
    assert approved.json["in_force"] is True
    expected = await page.until("expected_end")
    assert expected["ends_at"] == approved.json["ends_at"]
    await page.until("warning_over", reason="right_ended")
    await page.send({"type": "end"})
    assert await page.until_closed() == 4000
    for one in (first, more):
        await asyncio.to_thread(call, here, person, f"/{one.json['id']}/end", {})


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"reason": "x" * 10_240}, 400, "at most 2000 characters"),
        ({"reason": None}, 400, "`reason` must be text"),
        ({"server_ids": ["not a server"]}, 400, ""),
        ({"server_ids": "x"}, 400, "list of server IDs"),
        ({"duration_s": True}, 400, "number of seconds"),
        ({"duration_s": 1e300}, 400, "number of seconds"),
        (
            {"duration_s": 14_401},
            400,
            "The rule allows at most 4 h: `duration_s` must be at most 14400",
        ),
        ({"project_id": "a/b"}, 400, "ID of a project"),
        ({"role": "root"}, 403, "No rule of the policy"),
        ({"break_glass": True, "reason": "short"}, 400, "at least 10 characters"),
        ({"unknown": 1}, 400, "these members"),
    ],
)
def test_bad_request_says_what_to_do(
    stack: Stack, body: dict[str, Any], status: int, text: str
) -> None:
    reply = call(stack.gateway, token(stack, "bad", "staff"), "", wanted(stack, **body))
    assert reply.status == status, reply.body
    assert text in reply.json["error_msg"]


def test_unknown_server_is_requested_like_any_other(stack: Stack) -> None:
    server = "00000000-1111-4222-8333-444444444444"
    dan, lea = token(stack, "dan", "staff"), token(stack, "lea", "leads")
    made = call(stack.gateway, dan, "", wanted(stack, server_ids=[server]))
    assert made.status == 201
    path = f"/{made.json['id']}"
    for person in (dan, token(stack, "eve", "staff")):
        forbidden = call(stack.gateway, person, f"{path}/approve", {"hash": made.json["hash"]})
        assert forbidden.status in (403, 404)
    stale = call(stack.gateway, lea, f"{path}/approve", {"hash": "0" * 64})
    assert (stale.status, stale.error_code) == (409, "CGW.4093")
    assert call(stack.gateway, lea, f"{path}/approve", {"hash": made.json["hash"]}).status == 200
    again = call(stack.gateway, lea, f"{path}/approve", {"hash": made.json["hash"]})
    assert again.status == 409
    assert call(stack.gateway, token(stack, "eve", "staff"), path).status == 404
    assert call(stack.gateway, lea, "/" + "0" * 32).status == 404
    refused = stack.gateway.audit("access_request_refused")[-1]
    assert (refused["subject"], refused["decision"]) == ("dan", "denied")


def dead_notices(gateway: RunningGateway, person: str) -> list[dict[str, Any]]:
    """Return the dead notices about a person's requests, as the command prints them."""
    found = admin_command(gateway, "webhooks", group="readers")["notices"]
    made = call(gateway, person, "?filter=mine").json["requests"]
    return [one for one in found if one["request"] in {it["id"] for it in made}]


def admin_command(gateway: RunningGateway, *words: str, group: str = "admins") -> dict[str, Any]:
    environ = {
        "CONSOLE_GATEWAY_ADMIN_URL": gateway.admin,
        "CONSOLE_GATEWAY_ADMIN_TOKEN": admin_token(gateway.cloud, "ada", group),
    }
    ran = programs.run("gateway", "admin", *words, "--json", environ=environ)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_notice_that_was_given_up_is_listed_and_replayed(
    stack: Stack, gateways: tuple[RunningGateway, RunningGateway], receiver: Receiver
) -> None:
    here, there = gateways
    gus = token(stack, "gus", "staff")
    receiver.is_gone = True
    made = call(here, gus, "", wanted(stack)).json
    eventually(lambda: dead_notices(there, gus) != [])
    receiver.is_gone = False
    (dead,) = dead_notices(there, gus)
    assert (dead["event"], dead["attempts"], dead["error"]) == ("requested", 1, "HTTP 410")
    assert receiver.events(made["id"]) == []
    assert admin_command(there, "webhooks", "replay", dead["id"]) == {"replayed": [dead["id"]]}
    eventually(lambda: receiver.events(made["id"]) == ["requested"])
    record = there.audit("admin_action")[-1]
    assert (record["operation"], record["subject"]) == ("ReplayNotices", "ada")
    assert dead_notices(here, gus) == []
    assert call(here, gus, f"/{made['id']}/withdraw", {"reason": ""}).status == 200


def test_reading_role_sees_dead_notices_and_cannot_replay(stack: Stack) -> None:
    body = json.dumps({"webhook": "security"})

    def replay(person: dict[str, str]) -> Response:
        return fetch(stack.gateway.admin, "POST", "/admin/webhooks/replay", person, body)

    # Notices of other tests may have been given up while the receiver was gone.
    ada, reader = admin_headers(stack.cloud), admin_headers(stack.cloud, "rita", "readers")
    eventually(lambda: replay(ada).status == 400)
    listed = fetch(stack.gateway.admin, "GET", "/admin/webhooks/dead", reader)
    assert (listed.status, listed.json) == (200, {"notices": []})
    assert replay(reader).status == 403
    nothing = replay(ada)
    assert (nothing.status, nothing.error_code) == (400, "CGW.4000")


def test_list_needs_a_token_and_valid_filters(stack: Stack) -> None:
    assert fetch(stack.gateway.url, "GET", "/requests", {}).status == 401
    ann = token(stack, "ann", "staff")
    for query in ("?state=x", "?filter=x", "?limit=0", "?limit=1&limit=2", "?x=1"):
        assert call(stack.gateway, ann, query).status == 400
    assert call(stack.gateway, ann, "", method="DELETE").status == 405
    mine = call(stack.gateway, ann, "?filter=mine&state=revoked&limit=1").json
    assert [one["requester"]["subject"] for one in mine["requests"]] in (["ann"], [])
