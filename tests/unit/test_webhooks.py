"""Webhooks about access requests: signed, at least once, late after an outage, and harmless."""

import asyncio
import base64
import hmac
import json
from contextlib import suppress
from typing import Any
from unicodedata import category

import pytest

from gateway.domain.model import Headers, Secret
from gateway.domain.requests import steps
from gateway.domain.requests.model import AccessRequest, RequestPerson
from gateway.domain.requests.notices import (
    RETRY_DELAYS_S,
    Notice,
    NoticeFormat,
    notice_body,
    notice_id,
    secret_bytes,
    sign,
)
from gateway.flow.requests.webhooks import Delivery, Webhook, Webhooks
from tests.support.access_requests import (
    ANN,
    HOUR_S,
    LEA,
    NOW,
    a_request_rule,
    an_access_request,
    changed,
)
from tests.support.clock import FakeClock
from tests.support.notice_outbox import FakeNoticeOutbox
from tests.support.request_world import RequestWorld

SECRETS = [Secret("whsec_" + base64.b64encode(bytes([i]) * 32).decode()) for i in (1, 2)]
HOSTILE = '<!channel> <script>alert("x")</script> [click](https://evil.example) @here & *bold*'


class Receiver:
    """A WebhookSender with a receiver that is up or down; verifies like Standard Webhooks."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.answers: list[Delivery] = []
        self.down_until = 0.0
        self.status = 200
        self.attempts: list[tuple[float, str]] = []
        self.accepted: list[dict[str, Any]] = []
        self.seen: set[str] = set()

    async def send(self, url: Secret, headers: Headers, body: bytes) -> Delivery:
        sent = dict(headers)
        self.attempts.append((self._clock.now(), sent["webhook-id"]))
        if self._clock.now() < self.down_until:
            return Delivery(0, error="connection refused")
        if self.status != 200:
            return Delivery(self.status)
        self.receive(sent, body)
        return Delivery(200)

    def receive(self, sent: dict[str, str], body: bytes) -> None:
        """Verify a delivery; take it once."""
        assert abs(int(sent["webhook-timestamp"]) - self._clock.now()) < 300, "replayed"
        signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + body
        expected = hmac.digest(secret_bytes(SECRETS[0]), signed, "sha256")
        assert f"v1,{base64.b64encode(expected).decode()}" in sent["webhook-signature"].split()
        if sent["webhook-id"] not in self.seen:
            self.seen.add(sent["webhook-id"])
            self.accepted.append(json.loads(body))


class Setup:
    def __init__(self, form: NoticeFormat = "json") -> None:
        self.clock = FakeClock(NOW)
        self.outbox = FakeNoticeOutbox()
        self.receiver = Receiver(self.clock)
        self.outcomes: list[str] = []
        self.is_ready = True
        self.known: dict[str, AccessRequest] = {}
        """The requests that are known and were not ended, by ID."""
        self.webhooks = self.replica(form)

    def replica(self, form: NoticeFormat = "json") -> Webhooks:
        return Webhooks(
            [Webhook("security", Secret("https://hooks.example/x"), SECRETS, form)],
            outbox=self.outbox,
            sender=self.receiver,
            find_open=self.known.get,
            is_ready=lambda: self.is_ready,
            clock=self.clock,
            telemetry=self,
        )

    def webhook_sent(self, webhook: str, outcome: str, error: str) -> None:
        self.outcomes.append(outcome)

    async def run_for(self, seconds: float) -> None:
        running = asyncio.create_task(self.webhooks.run())
        await self.clock.advance(seconds)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    def notify(self, event: str = "requested", request: AccessRequest | None = None) -> None:
        step, *_ = self.webhooks.notices_of(event, request or an_access_request())
        self.outbox.add([step])

    def approve(self, **more: Any) -> AccessRequest:
        """Approve a request now, and store what the step stores."""
        request = an_access_request(**more)
        active = steps.approve(
            request, a_request_rule(), LEA, content_hash=request.content_hash, now=self.clock.now()
        )
        self.known[active.id] = active
        self.outbox.add(self.webhooks.notices_of("approved", active))
        return active

    @property
    def accepted(self) -> list[str]:
        """The events that the receiver has, in its order."""
        found = [one["type"] for one in self.receiver.accepted]
        return [one.removeprefix("access_request.") for one in found]


async def test_notice_is_signed_and_delivered_once() -> None:
    setup = Setup()
    setup.notify()
    await setup.run_for(5.0)
    (accepted,) = setup.receiver.accepted
    assert accepted["type"] == "access_request.requested"
    assert accepted["data"]["requester"] == {"issuer": "corp", "subject": "ann"}
    assert setup.outbox.notices == {}
    assert setup.outcomes == ["ok"]


async def test_receiver_down_for_an_hour_gets_it_later() -> None:
    setup = Setup()
    setup.receiver.down_until = NOW + HOUR_S
    setup.notify()
    await setup.run_for(HOUR_S)
    assert setup.receiver.accepted == []
    setup.webhooks = setup.replica()  # the outbox survives a restart
    await setup.run_for(HOUR_S)
    assert len(setup.receiver.accepted) == 1
    assert len({one for _, one in setup.receiver.attempts}) == 1
    assert setup.outcomes == ["retry"] * 6 + ["ok"]


async def test_notice_is_dropped_after_a_day() -> None:
    setup = Setup()
    setup.receiver.status = 500
    setup.notify()
    for _ in range(len(RETRY_DELAYS_S) + 1):
        await setup.webhooks.deliver_due()
        await setup.clock.advance(max(RETRY_DELAYS_S))
    assert setup.outcomes == ["retry"] * len(RETRY_DELAYS_S) + ["dropped"]
    assert setup.outbox.notices == {}
    ((dead, _),) = await setup.outbox.dead()
    assert (dead.attempts, dead.error) == (len(RETRY_DELAYS_S) + 1, "HTTP 500")
    setup.receiver.status = 200
    assert await setup.outbox.replay(dead)
    assert not await setup.outbox.replay(dead)
    await setup.run_for(5.0)
    assert setup.accepted == ["requested"]


@pytest.mark.parametrize(("status", "outcome"), [(410, "gone"), (302, "retry"), (429, "retry")])
async def test_other_answers_are_no_delivery(status: int, outcome: str) -> None:
    setup = Setup()
    setup.receiver.status = status
    setup.notify()
    await setup.webhooks.deliver_due()
    assert setup.outcomes == [outcome]
    assert bool(setup.outbox.notices) is (outcome == "retry")


async def test_replayed_delivery_is_recognized() -> None:
    """The same ID again is taken once; an old timestamp or another body does not verify."""
    setup = Setup()
    notice, *_ = setup.webhooks.notices_of("requested", an_access_request())
    body = notice_body(notice, "json")
    headers = dict(sign(SECRETS, notice.id, int(NOW), body))
    setup.receiver.receive(headers, body)
    setup.receiver.receive(headers, body)
    assert len(setup.receiver.accepted) == 1
    with pytest.raises(AssertionError):
        setup.receiver.receive(headers, body.replace(b"ann", b"eve"))
    with pytest.raises(AssertionError):
        setup.receiver.receive({**headers, "webhook-id": "msg_other"}, body)
    await setup.clock.advance(HOUR_S)
    with pytest.raises(AssertionError, match="replayed"):
        setup.receiver.receive(headers, body)


def test_rotation_signs_with_both_secrets() -> None:
    one = dict(sign(SECRETS[:1], "msg_1", 1, b"{}"))["webhook-signature"]
    both = dict(sign(SECRETS, "msg_1", 1, b"{}"))["webhook-signature"]
    assert both.split()[0] == one
    assert len(both.split()) == 2


async def test_lease_keeps_two_replicas_from_one_notice() -> None:
    setup = Setup()
    setup.notify()
    other = setup.replica()
    await asyncio.gather(setup.webhooks.deliver_due(), other.deliver_due())
    assert len(setup.receiver.attempts) == 1


async def test_unavailable_redis_delays_only() -> None:
    setup = Setup()
    setup.notify()
    setup.outbox.is_unavailable = True
    await setup.run_for(10.0)
    setup.outbox.is_unavailable = False
    await setup.run_for(10.0)
    assert len(setup.receiver.accepted) == 1


async def test_removed_webhook_loses_its_notices() -> None:
    setup = Setup()
    notice, *_ = setup.webhooks.notices_of("requested", an_access_request())
    setup.outbox.add([changed(notice, webhook="removed")])
    await setup.webhooks.deliver_due()
    assert (setup.outbox.notices, setup.receiver.attempts) == ({}, [])


@pytest.mark.parametrize(("duration_s", "soon_s"), [(4 * HOUR_S, 600.0), (60.0, 30.0)])
async def test_requester_is_warned_before_the_end_and_notified_of_it(
    duration_s: float, soon_s: float
) -> None:
    """Once each, over two replicas and a restart."""
    setup = Setup()
    setup.approve(duration_s=duration_s)
    other = setup.replica()
    await setup.run_for(duration_s - soon_s - 2.0)
    assert setup.accepted == ["approved"]
    await asyncio.gather(setup.webhooks.deliver_due(), other.deliver_due())
    setup.webhooks = setup.replica()
    await setup.run_for(4.0)
    assert setup.accepted == ["approved", "expires_soon"]
    assert setup.receiver.accepted[-1]["data"]["state"] == "active"
    await setup.run_for(soon_s + 2.0)
    assert setup.accepted == ["approved", "expires_soon", "ended"]
    assert setup.receiver.accepted[-1]["data"]["state"] == "ended"
    assert setup.outbox.notices == {}


async def test_early_end_takes_the_scheduled_notices_back() -> None:
    setup = Setup()
    active = setup.approve()
    await setup.run_for(2.0)
    ended = steps.end(active, a_request_rule(), ANN, setup.clock.now(), "done")
    setup.known.pop(active.id)  # the override ends it, whatever copies say
    setup.outbox.add(setup.webhooks.notices_of("ended", ended))
    await setup.run_for(2 * HOUR_S)
    assert setup.accepted == ["approved", "ended"]
    assert setup.receiver.accepted[-1]["data"]["state"] == "revoked"
    assert setup.outcomes == ["ok", "ok", "outdated", "outdated"]
    assert setup.outbox.notices == {}


@pytest.mark.parametrize(
    ("started_at", "accepted"), [(None, ["requested", "expired"]), (NOW, ["requested"])]
)
async def test_request_without_a_decision_is_reported_once(
    started_at: float | None, accepted: list[str]
) -> None:
    setup = Setup()
    request = an_access_request()
    setup.known[request.id] = changed(request, started_at=started_at)
    setup.outbox.add(setup.webhooks.notices_of("requested", request))
    await setup.run_for(25 * HOUR_S)
    assert setup.accepted == accepted


async def test_nothing_is_sent_before_requests_are_loaded() -> None:
    """A process that has just started does not know yet which requests were ended."""
    setup = Setup()
    active = setup.approve()
    setup.known.clear()
    setup.is_ready = False
    await setup.run_for(HOUR_S - 300.0)
    assert (setup.accepted, setup.outcomes) == ([], [])
    setup.known[active.id] = active
    setup.is_ready = True
    await setup.run_for(2.0)
    assert setup.accepted == ["approved", "expires_soon"]


async def test_warning_that_comes_too_late_is_not_sent() -> None:
    setup = Setup()
    setup.approve()
    await setup.run_for(2.0)
    setup.receiver.down_until = NOW + 2 * HOUR_S
    await setup.run_for(4 * HOUR_S)
    assert setup.accepted == ["approved", "ended"]


async def test_notices_of_one_request_arrive_in_order() -> None:
    """The approval waits for the request's notice, which failed; another request does not."""
    setup = Setup()
    setup.receiver.down_until = NOW + 1.0
    setup.notify()
    await setup.run_for(2.0)
    setup.approve()
    setup.notify("requested", an_access_request(id="1" * 32))
    await setup.run_for(10.0)
    found = [(one["data"]["id"][0], one["type"]) for one in setup.receiver.accepted]
    first = [event for request, event in found if request == "0"]
    assert first == ["access_request.requested", "access_request.approved"]
    assert found[0][0] == "1"


def a_notice(event: str, request: AccessRequest) -> Notice:
    return Notice(
        id=notice_id("w", event, request), webhook="w", event=event, request=request, at=NOW
    )


def test_chat_text_is_escaped_and_mentions_none() -> None:
    notice = a_notice("requested", an_access_request(reason=HOSTILE, ticket="OPS-1"))
    slack = json.loads(notice_body(notice, "slack"))
    assert "<" not in slack["text"]
    assert "&lt;!channel&gt;" in slack["text"]
    assert slack["mrkdwn"] is False
    (card,) = json.loads(notice_body(notice, "teams"))["attachments"]
    kinds = {block["type"] for block in card["content"]["body"]}
    assert kinds == {"RichTextBlock"}  # no Markdown, so no link
    runs = [run for block in card["content"]["body"] for run in block["inlines"]]
    assert {run["type"] for run in runs} == {"TextRun"}
    assert any(HOSTILE in run["text"] for run in runs)
    data = json.loads(notice_body(notice, "json"))["data"]
    assert data["reason"] == HOSTILE


NAMES = [
    "Zoë Žižek 王小明 🙂",
    "<script>alert(1)</script>",
    "x" * 255,
    "\u202egro.live\u202c \u2066x\u2069 \u200f\u05d0\u05d1",
    "ann\nApproved by corp:boss\r\nUntil 2099",
]


@pytest.mark.parametrize("name", NAMES, ids=["unicode", "html", "long", "direction", "lines"])
@pytest.mark.parametrize("form", ["slack", "teams"])
def test_name_and_reason_cannot_pass_for_other_lines(name: str, form: NoticeFormat) -> None:
    request = an_access_request(requester=RequestPerson("corp", name), reason=name)
    body = json.loads(notice_body(a_notice("requested", request), form))
    if form == "slack":
        lines = body["text"].split("\n")
    else:
        (card,) = body["attachments"]
        lines = [block["inlines"][0]["text"] for block in card["content"]["body"]]
    assert len(lines) == 3
    assert lines[0].endswith(f" requests op on {request.servers[0]} for 1 h")
    assert lines[1].startswith("Reason: ")
    assert lines[2] == f"gateway requests show {request.id}"
    assert not any(category(one).startswith("C") for line in lines for one in line)
    data = json.loads(notice_body(a_notice("requested", request), "json"))["data"]
    assert (data["requester"]["subject"], data["reason"]) == (name, name)


def test_text_names_the_approver_and_the_end() -> None:
    request = an_access_request()
    active = steps.approve(
        request, a_request_rule(), LEA, content_hash=request.content_hash, now=NOW
    )
    text = json.loads(notice_body(a_notice("approved", active), "slack"))["text"]
    assert "Approved by corp:lea" in text
    assert "Until 1970-01-12" in text
    ended = steps.end(active, a_request_rule(), ANN, NOW, "done")
    text = json.loads(notice_body(a_notice("ended", ended), "slack"))["text"]
    assert "By corp:ann done" in text


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_x", "whsec_" + "A" * 20, "c2VjcmV0" * 6])
def test_unusable_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        secret_bytes(Secret(text))


async def test_each_step_stores_its_notices_with_the_request() -> None:
    setup = Setup()
    world = RequestWorld(setup.clock)
    here = world.replica()
    here.requests._notices_of = setup.webhooks.notices_of
    made = await here.make()
    await here.approve(made, LEA)
    world.store.is_unavailable = True
    await here.requests.end(made.id, LEA, here.context(), "")
    stored = ["requested", "expired", "approved", "expires_soon", "ended"]
    assert [one.event for one in world.store.notices] == stored
    world.store.is_unavailable = False
    await here.active.sync()
    await here.active.sync()
    assert [one.event for one in world.store.notices] == [*stored, "ended"]
    world.store.lose_data()
    await here.active.sync()
    assert len(world.store.notices) == 6  # a restored request is no step
