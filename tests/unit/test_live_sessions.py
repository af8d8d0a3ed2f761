"""Live sessions of one process: attach, resume, ends. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from gateway.domain.audit.record import AuditRecord
from gateway.domain.consoles import ends
from gateway.domain.consoles.model import PersonRef, SessionMode
from gateway.domain.consoles.session_times import RIGHT_WARNED_BEFORE_S
from gateway.domain.errors import CallerLimited, ConsoleUnavailable, Rejection, UpstreamRefused
from gateway.domain.model import (
    CONSOLE_OPEN,
    CONSOLE_VIEW,
    SERVER_POWER,
    Principal,
    RuleKind,
    RuleRef,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.rfb.violation import ViolationKind
from gateway.domain.timestamps import rfc3339
from gateway.flow.consoles.frame_channel import ChannelClosed
from gateway.flow.consoles.live_session import LiveSession
from tests.support import rfb
from tests.support.audit import assert_documented, fields_of
from tests.support.console_world import ConsoleWorld, a_rule
from tests.support.consoles import OTHER_TARGET, PROJECT, SERVER
from tests.support.frame_channel import MemoryChannel
from tests.support.live_consoles import Page, Replica
from tests.support.virtual_time import run_virtually


def run(scenario: Callable[[Replica], Awaitable[None]]) -> None:
    """Run a scenario with one replica, and check that no defect was reported."""

    async def main() -> None:
        replica = Replica(ConsoleWorld()).start()
        await scenario(replica)
        await replica.stop()
        assert replica.world.failures == []

    run_virtually(main())


def test_page_sees_each_state_and_then_the_screen() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.cloud.queue_s, replica.world.expected_wait_s = 2.5, 2.4
        page = await replica.live()
        kinds = [one.get("state", one["type"]) for one in page.frames]
        assert kinds == ["attached", "waiting", "waiting", "waiting", "connecting", "live"]
        assert page.of_type("state")[0]["expected_wait_s"] == 2.4
        await asyncio.sleep(0.01)
        assert page.channel.sent[-1] == rfb.GREETING
        assert [one.event for one in replica.world.records] == [
            "console_ticket_issued",
            "console_session_started",
        ]
        assert "secret" not in str(page.channel.sent)

    run(scenario)


def test_attached_frame_describes_the_session() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        attached = page.frames[0]
        assert attached["mode"] == "control"
        assert attached["person"] == {"subject": "ada", "issuer": "corp"}
        assert (attached["idle_s"], attached["recorded"], attached["power"]) == (1800, False, False)
        assert attached["resume_key"] != page.new.resume_key.reveal()

    run(scenario)


def test_person_ends_the_session() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        page.send(type="end")
        assert await page.until_closed() == (4000, "person")
        assert page.frames[-1]["type"] == "ended"
        assert replica.world.ends() == [("ada", "person")]
        assert replica.world.cloud.channels[0].closed is not None
        assert await replica.store.sessions() == ()

    run(scenario)


def test_lost_connection_is_resumed_with_a_fresh_link() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        page.lose()
        await page.task
        assert replica.world.ends() == []
        again = page.resume()
        await again.until("live")
        callers = [caller for _, caller in replica.world.cloud.calls]
        assert callers == [page.new.session.person.key] * 2
        assert replica.world.metrics.resumed == {"ok": 1}
        again.send(type="end")
        await again.until_closed()
        assert replica.world.ends() == [("ada", "person")]
        assert len(replica.world.events("console_session_started")) == 1

    run(scenario)


def test_each_further_resume_waits_longer() -> None:
    async def scenario(replica: Replica) -> None:
        loop, page = asyncio.get_running_loop(), await replica.live()
        waits = []
        for _ in range(4):
            page.lose()
            await page.task
            began, page = loop.time(), page.resume()
            await page.until("live")
            waits.append(round(loop.time() - began))
        assert waits == [1, 2, 4, 8]

    run(scenario)


def test_newer_connection_replaces_one_that_seems_alive() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        again = page.resume()
        assert await page.until_closed() == (4008, "replaced")
        await again.until("live")
        assert replica.world.ends() == []
        (listed,) = await replica.store.sessions()
        assert listed.owner == "p1"

    run(scenario)


def test_stale_key_closes_and_changes_nothing() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        for key in (page.new.resume_key.reveal(), "invented", ""):
            second = replica.open_page(page.new, key)
            assert await second.until_closed() == (4009, "stale_page")
        assert page.is_live
        assert len(replica.world.cloud.calls) == 1
        assert replica.world.metrics.resumed == {"stale": 3}
        assert len(replica.world.events("console_resume_rejected")) == 1

    run(scenario)


def test_connection_from_another_address_is_recorded() -> None:
    """Both with the current key and without it: a copied cookie is used elsewhere."""

    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        stale = replica.open_page(page.new, "invented", address="198.51.100.9")
        assert await stale.until_closed() == (4009, "stale_page")
        (rejected,) = replica.world.events("console_resume_rejected")
        assert rejected.client_address == "198.51.100.9"
        assert replica.world.events("console_address_changed") == []
        again = page.resume(address="198.51.100.9")
        await again.until("live")
        (changed,) = replica.world.events("console_address_changed")
        assert (changed.client_address, changed.subject) == ("198.51.100.9", "ada")
        assert changed.detail == "redeemed from 192.0.2.7"
        again.lose()
        await again.task
        await again.resume().until("live")
        assert len(replica.world.events("console_address_changed")) == 1

    run(scenario)


def test_page_that_never_received_its_next_key_resumes_with_the_one_before() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        page.lose()
        await page.task
        lost = Page(replica, page.new, page.key)
        lost.channel.send_text = _drop  # type: ignore[method-assign]
        await asyncio.sleep(0.1)
        again = page.resume()  # the gateway has not noticed the loss
        await again.until("live")
        assert await lost.until_closed() == (4008, "replaced")
        stale = replica.open_page(page.new, page.key)
        assert await stale.until_closed() == (4009, "stale_page")
        assert again.is_live

    async def _drop(_: str) -> None:
        pass

    run(scenario)


def test_page_that_learns_of_its_end_cannot_attach_again() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        close = page.channel.close

        async def slow(code: int, reason: str) -> None:
            again.append(page.resume())
            await asyncio.sleep(1)  # the page does not answer the close frame
            await close(code, reason)

        again: list[Page] = []
        page.channel.close = slow  # type: ignore[method-assign]
        await replica.sessions.end(page.id, ends.OPERATOR)
        assert await page.until_closed(within_s=3) == (4001, "operator")
        assert await again[0].until_closed() == (4009, "stale_page")
        assert replica.world.ends() == [("ada", "operator")]

    run(scenario)


def test_first_message_must_attach() -> None:
    async def scenario(replica: Replica) -> None:
        new = await replica.redeem(await replica.ticket())
        for first in (b"RFB 003.008\n", "{}", "[", '{"type":"end"}', "x" * 99_999):
            page = Page(replica, new, "key")
            page.channel._incoming.get_nowait()
            page.channel.put(first)
            assert await page.until_closed() == (4012, "protocol_error")
        page = Page(replica, new, "key")
        page.channel._incoming.get_nowait()
        assert await page.until_closed(within_s=11) == (4012, "protocol_error")

    run(scenario)


def test_session_is_resumable_for_30_seconds_only() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        page.lose()
        await asyncio.sleep(29)
        page = page.resume()
        await page.until("live")
        page.lose()
        await asyncio.sleep(31)
        assert await page.resume().until_closed() == (4009, "stale_page")
        await asyncio.sleep(50)
        assert replica.world.ends() == [("ada", "abandoned")]

    run(scenario)


def test_time_in_the_queue_does_not_count() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.cloud.queue_s = 55
        page = await replica.live()
        assert page.is_live

    run(scenario)


def test_revocation_ends_the_session_within_a_second() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        replica.world.tokens.refuse("ada")
        assert await page.until_closed() == (4002, "right_ended")
        assert replica.world.ends() == [("ada", "right_ended")]

    run(scenario)


def test_lock_ends_the_session_and_its_resume() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        page.lose()
        await page.task
        replica.world.tokens.refuse("ada", Rejection.LOCKED)
        assert await page.resume().until_closed() == (4002, "right_ended")
        assert replica.world.ends() == [("ada", "right_ended")]

    run(scenario)


def test_policy_change_ends_or_keeps_sessions() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        replica.world.policy = Policy([a_rule(CONSOLE_OPEN, "ada")], version="v2")
        await asyncio.sleep(1)
        assert page.is_live
        replica.world.policy = Policy([a_rule(CONSOLE_OPEN, "ben")], version="v3")
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_end_of_a_grant_ends_the_session_unless_another_carries_it() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        until = world.clock.now() + 100
        rules = [
            a_rule(valid_until=until),
            a_rule(CONSOLE_OPEN, "ada", valid_until=until + 50),
        ]
        world.policy = Policy(rules, version="v2")
        page = await replica.live()
        await asyncio.sleep(until + 1 - world.clock.now())
        assert page.is_live
        await asyncio.sleep(until + 49.9 - world.clock.now())
        assert page.is_live
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_clock_step_past_the_end_of_a_grant_ends_the_session() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = Policy([a_rule(valid_until=world.clock.now() + 5_000)], version="v2")
        page = await replica.live()
        world.clock.stepped_s = 6_000
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_session_becomes_view_only_when_view_is_left() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        page = await replica.live()
        world.policy = Policy([a_rule(CONSOLE_VIEW)], version="v2")
        await asyncio.sleep(1)
        assert page.is_live
        assert page.of_type("mode") == [{"type": "mode", "mode": "view"}]
        (listed,) = await replica.store.sessions()
        assert listed.session.mode is SessionMode.VIEW
        assert len(world.events("console_mode_changed")) == 1
        cloud = await page.shake_hands()
        page.channel.put(rfb.key(65))
        await asyncio.sleep(1)
        assert rfb.key(65) not in cloud.sent
        world.policy = Policy([], version="v3")
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_mode_that_is_lower_at_the_resume_is_stored_and_recorded() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        page = await replica.live()
        page.lose()
        await page.task
        world.policy = Policy([a_rule(CONSOLE_VIEW)], version="v2")
        again = page.resume()
        await again.until("live")
        assert again.of_type("attached")[0]["mode"] == "view"
        (listed,) = await replica.store.sessions()
        assert listed.session.mode is SessionMode.VIEW
        assert len(world.events("console_mode_changed")) == 1

    run(scenario)


def test_right_that_ends_while_a_lower_mode_is_stored_ends_the_session() -> None:
    """The watch does not know the connection yet, and looks at nothing until the next change."""

    async def scenario(replica: Replica) -> None:
        world = replica.world
        page = await replica.live()
        page.lose()
        await page.task
        update = world.redis.update

        async def loses_the_right(*arguments: Any, **options: Any) -> bool:
            world.policy = Policy([], version="v3")
            await asyncio.sleep(0.5)
            return await update(*arguments, **options)

        world.policy = Policy([a_rule(CONSOLE_VIEW)], version="v2")
        world.redis.update = loses_the_right  # type: ignore[method-assign]
        assert await page.resume().until_closed() == (4002, "right_ended")

    run(scenario)


def test_change_during_a_reevaluation_is_seen() -> None:
    """It comes after the decision on the first session, and before the one on the second."""

    async def scenario(replica: Replica) -> None:
        world = replica.world
        pages = [await replica.live("ada"), await replica.live("ben", OTHER_TARGET)]
        judge = replica.sessions.judge

        def judge_and_change(connection: LiveSession) -> bool:
            replica.sessions.judge = judge  # type: ignore[method-assign]
            is_lowered = judge(connection)
            world.policy = Policy([], version="v3")
            return is_lowered

        replica.sessions.judge = judge_and_change  # type: ignore[method-assign]
        world.policy = Policy([a_rule()], version="v2")
        for page in pages:
            assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_right_that_ends_in_the_queue_costs_no_link() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.cloud.queue_s = 0.1
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        await page.until("waiting")
        world.policy = Policy([], version="v2")
        assert await page.until_closed() == (4002, "right_ended")
        assert world.cloud.calls == []

    run(scenario)


def test_power_ends_with_its_permission() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = Policy([a_rule(), a_rule(SERVER_POWER)], version="v2")
        page = await replica.live()
        cloud = await page.shake_hands()
        page.channel.put(rfb.xvp(3))
        await asyncio.sleep(1)
        assert cloud.sent[-1] == rfb.xvp(3)
        (permitted,) = world.events("console_power_permitted")
        assert_documented(fields_of(permitted))
        assert (permitted.subject, permitted.servers) == ("ada", (SERVER,))
        assert (permitted.permission, permitted.detail) == (SERVER_POWER, "reboot")
        assert (permitted.decision, permitted.policy_version) == ("allowed", "v2")
        assert world.power_changes == [(PROJECT, [SERVER])]
        world.policy = Policy([a_rule()], version="v3")
        await asyncio.sleep(1)
        page.channel.put(rfb.xvp(4), rfb.key(65))
        await asyncio.sleep(1)
        assert cloud.sent[-2:] == [rfb.xvp(3), rfb.key(65)]
        assert page.of_type("power_ended") == [{"type": "power_ended"}]
        assert page.is_live
        page.channel.put(rfb.xvp(2))
        await asyncio.sleep(1)
        (rejected,) = world.events("console_power_rejected")
        assert_documented(fields_of(rejected))
        assert (rejected.decision, rejected.permission) == ("denied", SERVER_POWER)
        assert rejected.detail == "reset: the session has no power operations"
        assert len(page.of_type("power_rejected")) == 2

    run(scenario)


@pytest.mark.parametrize("cause", ["audit log", "rate limit"])
def test_power_is_dropped_without_record_or_above_the_limit(cause: str) -> None:
    """The session goes on, and the page says why."""

    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = Policy([a_rule(), a_rule(SERVER_POWER)], version="v2")
        page = await replica.live()
        cloud = await page.shake_hands()
        if cause == "audit log":
            world.is_audit_down = True
        else:
            for _ in range(1_000):
                with suppress(CallerLimited):
                    replica.limits.admit(page.new.session.person.key)
        page.channel.put(rfb.xvp(4), rfb.key(65))
        await asyncio.sleep(0.1)
        assert cloud.sent == [rfb.key(65)]
        (rejected,) = page.of_type("power_rejected")
        expected = "AuditLogUnavailable" if cause == "audit log" else "CallerLimited"
        assert rejected["error_code"] == expected
        assert world.events("console_power_permitted") == []
        details = [one.detail for one in world.events("console_power_rejected")]
        limited = [] if cause == "audit log" else ["reset: above the person's rate limit"]
        assert details == limited
        page.channel.put(rfb.xvp(4))
        await asyncio.sleep(0.1)
        assert len(world.events("console_power_rejected")) == len(limited)
        assert page.is_live

    run(scenario)


@pytest.mark.parametrize("cause", ["right", "mode", "session"])
def test_power_that_ends_during_its_record_is_recorded_as_not_sent(cause: str) -> None:
    async def scenario(replica: Replica) -> None:
        world, record = replica.world, replica.record
        rules = [a_rule(), a_rule(CONSOLE_VIEW), a_rule(SERVER_POWER)]
        world.policy = Policy(rules, version="v2")
        page = await replica.live()
        cloud = await page.shake_hands()

        async def record_slowly(one: AuditRecord) -> None:
            await record(one)
            await asyncio.sleep(5)

        replica.record = record_slowly  # type: ignore[method-assign]
        page.channel.put(rfb.xvp(4))
        await asyncio.sleep(1)
        assert len(world.events("console_power_permitted")) == 1
        if cause == "session":
            await replica.sessions.end(page.id, ends.OPERATOR)
        else:
            left = {"right": rules[:2], "mode": rules[1:]}[cause]
            world.policy = Policy(left, version="v3")
        await asyncio.sleep(10)
        assert rfb.xvp(4) not in cloud.sent
        (corrected,) = world.events("console_power_not_sent")
        assert_documented(fields_of(corrected))
        assert (corrected.subject, corrected.detail) == ("ada", "reset")

    run(scenario)


def test_viewer_that_sends_power_is_recorded_once() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        rules = [a_rule(), a_rule(CONSOLE_VIEW), a_rule(SERVER_POWER)]
        world.policy = Policy(rules, version="v2")
        page = await replica.live(mode=SessionMode.VIEW)
        cloud = await page.shake_hands()
        page.channel.put(rfb.xvp(2), rfb.xvp(3))
        await asyncio.sleep(1)
        assert cloud.sent == []
        assert len(world.events("console_power_rejected")) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("first", "detail"),
    [
        (b"RFB 003.008\n", "first message: not `attach`"),
        ('{"type":"end"}', "first message: not `attach`"),
        ("x", "first message: not JSON"),
        (ChannelClosed(1009, violation="a WebSocket message is too long"), "too long"),
        (None, "first message: none within 10 s"),
    ],
    ids=["RFB", "end", "text", "huge", "silence"],
)
def test_wrong_first_message_with_a_genuine_cookie_is_recorded_once(
    first: bytes | str | ChannelClosed | None, detail: str
) -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        world, cookie = replica.world, page.new.cookie.reveal()
        for value in (cookie, cookie, "garbage"):
            channel = MemoryChannel()
            if first is not None:
                channel.put(first)
            serving = replica.sessions.serve(page.id, value, channel, client_address="192.0.2.9")
            await serving
            assert channel.closed == (4012, "protocol_error")
        (rejected,) = world.events("console_request_rejected")
        assert_documented(fields_of(rejected))
        assert (rejected.subject, rejected.client_address) == ("ada", "192.0.2.9")
        assert detail in rejected.detail
        assert world.metrics.requests == {"first_message": 3}
        assert page.is_live

    run(scenario)


def test_page_that_closes_before_its_first_message_is_no_bad_input() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        channel = MemoryChannel()
        channel.put(ChannelClosed(1001))
        cookie = page.new.cookie.reveal()
        await replica.sessions.serve(page.id, cookie, channel, client_address="192.0.2.9")
        assert replica.world.events("console_request_rejected") == []
        assert replica.world.metrics.requests == {}

    run(scenario)


def test_power_is_dropped_if_its_permission_ends_in_the_queue() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = Policy([a_rule(), a_rule(SERVER_POWER)], version="v2")
        world.cloud.queue_s = 5
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        await page.until("waiting")
        world.policy = Policy([a_rule()], version="v3")
        await page.until("live")
        cloud = await page.shake_hands()
        page.channel.put(rfb.xvp(3), rfb.key(65))
        await asyncio.sleep(1)
        assert cloud.sent[-1] == rfb.key(65)
        assert rfb.xvp(3) not in cloud.sent

    run(scenario)


def test_session_outlives_its_token_and_a_newer_one_renews_it() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        person = world.person(life_s=60)
        page = replica.open_page(await replica.redeem(await replica.ticket(person)))
        await page.until("live")
        await asyncio.sleep(100)
        world.tokens.tokens["newer"] = world.person(life_s=120)
        world.tokens.tokens["foreign"] = world.person("ben", life_s=9_999)
        for token in ("newer", "foreign", "forged"):
            page.send(type="token", token=token)
        await asyncio.sleep(1)
        (listed,) = await replica.store.sessions()
        assert listed.session.person == world.tokens.tokens["newer"]

    run(scenario)


def test_session_ends_after_its_token_with_a_warning() -> None:
    async def scenario(replica: Replica) -> None:
        person = replica.world.person(life_s=60)
        rules = replica.world.rules
        assert rules.idle_s < 3_660
        page = replica.open_page(await replica.redeem(await replica.ticket(person)))
        await page.until("live")
        page.replica.sessions.connections[page.id]._timer._times.idle_s = None
        await asyncio.sleep(3_595)
        assert [one["reason"] for one in page.of_type("warning")] == []
        await asyncio.sleep(10)
        assert [one["reason"] for one in page.of_type("warning")] == ["token"]
        assert await page.until_closed(within_s=60) == (4003, "token")

    run(scenario)


def test_newer_token_replaces_the_groups() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        world.policy = Policy([a_rule(groups=frozenset({"ops"}))], version="v2")
        page = await replica.live()
        person = world.person(life_s=99_999)
        world.tokens.tokens["newer"] = type(person)(
            person.issuer, "ada", frozenset(), person.issued_at, person.expires_at, None
        )
        page.send(type="token", token="newer")
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_flood_of_tokens_is_verified_one_at_a_time() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        running = most = 0
        identify = replica.world.tokens.identify

        async def slow(token: str, deadline: float) -> Principal:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(1)
            running -= 1
            return await identify(token, deadline)

        object.__setattr__(replica.sessions._services, "identify", slow)
        for _ in range(50):
            page.send(type="token", token="unknown")
        await asyncio.sleep(5)
        assert most == 1
        assert page.is_live
        page.send(type="token", token="unknown")
        await asyncio.sleep(0.5)
        assert running == 1

    run(scenario)


def test_idle_session_ends_after_a_warning_and_input_keeps_it() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        await page.shake_hands()
        await asyncio.sleep(1_750)
        assert [one["reason"] for one in page.of_type("warning")] == ["idle"]
        page.channel.put(rfb.key(65))
        await asyncio.sleep(1)
        assert page.of_type("warning_over") == [{"type": "warning_over", "reason": "idle"}]
        for _ in range(100):  # screen updates are no input
            page.channel.put(rfb.update_request())
            await asyncio.sleep(17)
        assert page.is_live
        assert await page.until_closed(within_s=120) == (4004, "idle")

    run(scenario)


def test_idle_time_goes_on_over_a_resume() -> None:
    """Otherwise an unused page could stay open without end on an unstable network."""

    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        await asyncio.sleep(1_000)
        page.lose()
        await page.task
        page = page.resume()
        await page.until("live")
        await asyncio.sleep(760)
        assert [one["reason"] for one in page.of_type("warning")] == ["idle"]
        page.lose()
        await page.task
        await asyncio.sleep(25)
        page = page.resume()  # there is still time for the warning
        await page.until("live")
        await asyncio.sleep(1)
        assert [one["reason"] for one in page.of_type("warning")] == ["idle"]
        assert page.is_live
        assert await page.until_closed(within_s=60) == (4004, "idle")

    run(scenario)


def test_viewer_has_no_idle_time_but_a_limit_of_an_hour() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.policy = Policy([a_rule(CONSOLE_VIEW)], version="v2")
        page = await replica.live(mode=SessionMode.VIEW)
        assert page.frames[0]["idle_s"] is None
        await asyncio.sleep(3_590)
        assert [one["reason"] for one in page.of_type("warning")] == ["time_limit"]
        assert await page.until_closed(within_s=15) == (4005, "time_limit")

    run(scenario)


def timed(replica: Replica, *permissions: str, until_s: float, label: str = "policy") -> list[Rule]:
    """Return grants that end."""
    until = replica.world.clock.now() + until_s
    ref = RuleRef(RuleKind.GRANT, label, 0, "")
    rules = [a_rule(one, valid_until=until) for one in permissions]
    return [msgspec.structs.replace(rule, ref=ref) for rule in rules]


def test_page_learns_of_the_end_of_its_access_and_of_more_time() -> None:
    async def scenario(replica: Replica) -> None:
        world, now = replica.world, replica.world.clock.now
        grants = timed(replica, CONSOLE_OPEN, until_s=600, label="request:ab")
        world.policy = Policy(grants, version="v2")
        page = await replica.live()
        ends_at = rfc3339(grants[0].valid_until)
        assert page.frames[0]["ends_at"] == ends_at
        assert page.frames[0]["ends_by"] == "right_ended"
        await asyncio.sleep(grants[0].valid_until - now() - RIGHT_WARNED_BEFORE_S - 5)
        assert page.of_type("warning") == []
        await asyncio.sleep(10)
        (warning,) = page.of_type("warning")
        assert warning == {
            "type": "warning",
            "reason": "right_ended",
            "ends_at": ends_at,
            "may_request": False,
            "request": "ab",
        }
        # A second request is approved: its time overlaps.
        more = timed(replica, CONSOLE_OPEN, until_s=1_000, label="request:cd")
        world.policy = Policy([*grants, *more], version="v3")
        await asyncio.sleep(1)
        assert page.of_type("warning_over") == [{"type": "warning_over", "reason": "right_ended"}]
        (expected,) = page.of_type("expected_end")
        assert expected["ends_at"] == rfc3339(more[0].valid_until)
        await asyncio.sleep(more[0].valid_until - now() - 60)
        assert [one["request"] for one in page.of_type("warning")] == ["ab", "cd"]
        # It is ended, and the first as well: invariant 11 does not wait for a warning.
        assert page.is_live
        world.policy = Policy([], version="v4")
        assert await page.until_closed(within_s=1.5) == (4002, "right_ended")

    run(scenario)


def test_page_learns_when_only_viewing_is_left() -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        grants = timed(replica, CONSOLE_OPEN, until_s=200)
        world.policy = Policy([*grants, a_rule(CONSOLE_VIEW)], version="v2")
        page = await replica.live()
        assert page.frames[0]["ends_by"] == "time_limit"
        await asyncio.sleep(1)
        (warning,) = page.of_type("warning")
        assert (warning["reason"], warning["request"]) == ("control", None)
        await asyncio.sleep(200)
        assert [one["mode"] for one in page.of_type("mode")] == ["view"]
        assert page.of_type("warning_over") == [{"type": "warning_over", "reason": "control"}]
        (expected,) = page.of_type("expected_end")  # a viewer's limit is shorter
        limit_s = world.rules.view_time_limit_s
        assert expected["ends_by"] == "time_limit"
        assert expected["ends_at"] < rfc3339(world.clock.now() + limit_s)
        assert page.is_live

    run(scenario)


def test_cloud_errors_reach_the_page_with_their_code() -> None:
    async def scenario(replica: Replica) -> None:
        cloud = replica.world.cloud
        cloud.error = UpstreamRefused(404, "PS.0404", "no such server")
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        assert await page.until_closed() == (4010, "cloud_unavailable")
        assert page.frames[-1]["error_code"] == "UpstreamRefused"
        cloud.error, cloud.refuses = None, ConsoleUnavailable("refused")
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        assert await page.until_closed() == (4010, "cloud_unavailable")
        assert page.frames[-1]["error_msg"] == "refused"
        assert replica.world.ends() == [("ada", "cloud_unavailable")] * 2

    run(scenario)


def test_page_may_end_or_leave_while_it_waits() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.cloud.queue_s = 50
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        await page.until("waiting")
        page.send(type="end")
        assert await page.until_closed() == (4000, "person")
        page = replica.open_page(await replica.redeem(await replica.ticket()))
        await page.until("waiting")
        page.lose()
        await page.task
        (listed,) = await replica.store.sessions()
        assert listed.owner == ""
        assert replica.world.cloud.calls == []

    run(scenario)


def test_rfb_before_live_and_unknown_texts_end_the_session() -> None:
    async def scenario(replica: Replica) -> None:
        replica.world.cloud.queue_s = 5
        for message in (b"x", "{}", '{"type":"attach","resume_key":"k"}'):
            page = replica.open_page(await replica.redeem(await replica.ticket()))
            await page.until("waiting")
            page.channel.put(message)
            assert await page.until_closed() == (4012, "protocol_error")

    run(scenario)


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        ((b"\x01\x13",), ViolationKind.SECURITY_TYPES),
        ((rfb.NONE_OFFERED, bytes(4), rfb.server_init(65_535, 65_535)), ViolationKind.SCREEN_SIZE),
    ],
    ids=["VeNCrypt", "screen"],
)
def test_page_shows_the_broken_rule_of_the_console(
    answers: tuple[bytes, ...], rule: ViolationKind
) -> None:
    """VeNCrypt only, and a screen of 65535 x 65535; the page never shows a peer's text."""

    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        cloud = replica.world.cloud.channels[-1]
        page.channel.put(rfb.GREETING)
        await asyncio.sleep(0.01)
        for answer in answers:
            cloud.put(answer)
            await asyncio.sleep(0.01)
            page.channel.put(b"\x01")
            await asyncio.sleep(0.01)
        assert await page.until_closed() == (4012, "protocol_error")
        (ended,) = page.of_type("ended")
        shown = (ended["error_code"], ended["error_msg"])
        assert shown == (rule.name.lower(), rule.value)

    run(scenario)


def test_removed_account_ends_its_sessions() -> None:
    async def scenario(replica: Replica) -> None:
        page = await replica.live()
        replica.sessions.end_other_accounts(frozenset({"other"}))
        assert await page.until_closed() == (4002, "right_ended")

    run(scenario)


def test_operator_ends_live_and_waiting_sessions() -> None:
    async def scenario(replica: Replica) -> None:
        page, by = await replica.live(), PersonRef("olga", "")
        assert await replica.sessions.end(page.id, ends.OPERATOR, by=by)
        assert await page.until_closed() == (4001, "operator")
        assert page.frames[-1]["by"] == {"subject": "olga", "issuer": ""}
        new = await replica.redeem(await replica.ticket())
        assert await replica.sessions.end(new.session.id, ends.OPERATOR, by=by)
        assert not await replica.sessions.end(new.session.id, ends.OPERATOR, by=by)
        assert replica.world.ends() == [("ada", "operator")] * 2
        assert replica.world.events("console_session_ended")[0].target == ":olga"

    run(scenario)
