"""Audit records of a redemption that does not run to its end. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.domain.audit.record import AuditRecord, ConsoleSessionFields
from gateway.domain.consoles import ends
from gateway.domain.consoles.model import RESUME_WITHIN_S
from gateway.domain.errors import AuditLogUnavailable, ConsoleStoreUnavailable, TicketRejected
from gateway.domain.model import CONSOLE_TAKEOVER
from gateway.domain.policy.policy import Policy
from tests.support.console_world import ConsoleWorld, a_rule
from tests.support.live_consoles import Replica
from tests.support.virtual_time import run_virtually

AWAITS = 20
"""More than a redemption has."""


def run(scenario: Callable[[Replica], Awaitable[None]]) -> None:
    async def main() -> None:
        replica = Replica(ConsoleWorld()).start()
        replica.world.policy = Policy([a_rule(), a_rule(CONSOLE_TAKEOVER)], version="v2")
        await scenario(replica)
        await replica.stop()
        assert replica.world.failures == []

    run_virtually(main())


def ids(world: ConsoleWorld, event: str) -> list[str]:
    found = []
    for one in world.events(event):
        assert isinstance(one.extra, ConsoleSessionFields)
        found.append(one.extra.session)
    return found


def fail_at(world: ConsoleWorld, event: str) -> Callable[[AuditRecord], Awaitable[None]]:
    """Return a durable audit log that is unavailable from the first record of an event on."""
    record = world.record

    async def failing(one: AuditRecord) -> None:
        world.is_audit_down |= one.event == event
        await record(one)

    return failing


@pytest.mark.parametrize("event", ["console_session_started", "console_taken_over"])
def test_take_over_without_audit_log_ends_no_session(
    event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        first = await replica.live("ada")
        ticket = await replica.ticket(world.person("ben"))
        monkeypatch.setattr(world, "record", fail_at(world, event))
        with pytest.raises(AuditLogUnavailable):
            await replica.redeem(ticket, take_over=True)
        await asyncio.sleep(2 * RESUME_WITHIN_S)
        assert first.is_live
        # A session that is recorded has an end.
        assert ids(world, "console_session_started")[1:] == ids(world, "console_session_ended")
        assert world.metrics.rejected["audit"] == (event == "console_session_started")
        monkeypatch.undo()
        world.is_audit_down = False
        second = await replica.live("ben", take_over=True)  # the gateway is as before
        assert second.is_live
        assert await first.until_closed() == (4006, "taken_over")

    run(scenario)


@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_take_over_that_the_store_fails_is_corrected(
    *, answer_is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        await replica.live("ada")
        ticket = await replica.ticket(world.person("ben"))
        record = world.record

        async def then_fail(one: AuditRecord) -> None:
            await record(one)
            if one.event == "console_taken_over":
                replica.outage.loses_answers = answer_is_lost
                replica.outage.is_down = not answer_is_lost

        monkeypatch.setattr(world, "record", then_fail)
        with pytest.raises(ConsoleStoreUnavailable):
            await replica.redeem(ticket, take_over=True)
        (_, session) = ids(world, "console_session_started")
        assert ids(world, "console_session_ended").count(session) == 1

    run(scenario)


def test_take_over_that_comes_too_late_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        first = await replica.live("ada")
        ticket = await replica.ticket(world.person("ben"))
        record = world.record

        async def then_spend(one: AuditRecord) -> None:
            await record(one)
            if one.event == "console_taken_over":
                spent = replica.redemption._name_of(ticket)
                assert spent is not None
                world.redis.take_ticket(spent)

        monkeypatch.setattr(world, "record", then_spend)
        with pytest.raises(TicketRejected):
            await replica.redeem(ticket, take_over=True)
        assert first.is_live
        (_, session) = ids(world, "console_session_started")
        assert ids(world, "console_session_ended") == [session]

    run(scenario)


class _Cancelling:
    """Cancels a task at its awaits: before or after the effect of the call with this number."""

    def __init__(self, number: int) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._left = number

    async def step(self) -> None:
        self._left -= 1
        if self._left == 0 and self.task is not None:
            self.task.cancel()
        await asyncio.sleep(0.001)

    def around(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def method(*arguments: Any, **options: Any) -> Any:
            if self.task is None:
                return await call(*arguments, **options)
            await self.step()
            result = await call(*arguments, **options)
            await self.step()
            return result

        return method


@pytest.mark.parametrize("number", range(1, AWAITS + 1))
@pytest.mark.parametrize("takes_over", [False, True])
def test_hang_up_leaves_complete_records(
    *, takes_over: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client hangs up at one await of the store or the audit log."""

    async def scenario(replica: Replica) -> None:
        world = replica.world
        if takes_over:
            first = await replica.live("ada")
        ticket = await replica.ticket(world.person("ben"))
        cancelling = _Cancelling(number)
        monkeypatch.setattr(world, "record", cancelling.around(world.record))
        monkeypatch.setattr(world.redis, "redeem", cancelling.around(world.redis.redeem))
        monkeypatch.setattr(world.redis, "find_ticket", cancelling.around(world.redis.find_ticket))
        cancelling.task = asyncio.create_task(replica.redeem(ticket, take_over=takes_over))
        await asyncio.wait([cancelling.task])
        is_cancelled = cancelling.task.cancelled()
        assert is_cancelled or number > 4
        await asyncio.sleep(1.0)  # far below RESUME_WITHIN_S
        started = ids(world, "console_session_started")[takes_over:]
        ended = ids(world, "console_session_ended")
        taken_over = world.events("console_taken_over")
        left = [one.session.id for one in await world.redis.sessions()]
        if takes_over:
            assert len(taken_over) == len(started)
            assert (first.id in ended) == bool(started)
            assert first.is_live != bool(started)
            ended, left = (
                [one for one in ended if one != first.id],
                [one for one in left if one != first.id],
            )
        assert ended == (started if is_cancelled else [])
        assert left == ([] if is_cancelled else started)
        spent = replica.redemption._name_of(ticket)
        assert spent is not None
        assert (await world.redis.find_ticket(spent) is None) == bool(started)

    run(scenario)


@pytest.mark.parametrize("number", range(1, 5))
def test_hang_up_while_parking_leaves_a_record(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        ticket = await replica.ticket()
        cancelling = _Cancelling(number)
        for name in ("find_ticket", "replace_ticket"):
            call = getattr(world.redis, name)
            monkeypatch.setattr(world.redis, name, cancelling.around(call))
        cancelling.task = asyncio.create_task(replica.redemption.park(ticket, replica.context()))
        await asyncio.wait([cancelling.task])
        assert cancelling.task.cancelled()
        await asyncio.sleep(1.0)
        spent = replica.redemption._name_of(ticket)
        assert spent is not None
        is_spent = await world.redis.find_ticket(spent) is None
        assert len(world.events("console_ticket_parked")) == is_spent

    run(scenario)


@pytest.mark.parametrize("number", [1, 2])
def test_hang_up_while_ending_a_session_leaves_a_record(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(replica: Replica) -> None:
        world = replica.world
        new = await replica.redeem(await replica.ticket())
        cancelling = _Cancelling(number)
        monkeypatch.setattr(world.redis, "command", cancelling.around(world.redis.command))
        cancelling.task = asyncio.create_task(replica.sessions.end(new.session.id, ends.OPERATOR))
        await asyncio.wait([cancelling.task])
        assert cancelling.task.cancelled()
        await asyncio.sleep(1.0)
        assert await world.redis.sessions() == ()
        assert world.ends() == [("ada", "operator")]

    run(scenario)
