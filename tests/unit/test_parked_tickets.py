"""Parked tickets: spent for everyone else, they wait for the login of their person."""

import asyncio

import pytest

from gateway.domain.consoles.model import BrowserLogin, SessionMode
from gateway.domain.errors import (
    ConsoleStoreUnavailable,
    FreshLoginRequired,
    LoginRequired,
    NotPermitted,
    TicketOfAnotherPerson,
    TicketRejected,
)
from gateway.flow.consoles.session_opening import NewSession
from gateway.flow.consoles.ticket_binding import parked_text
from tests.support.live_consoles import Replica
from tests.unit.test_console_tickets import policy, run

CONTROL = SessionMode.CONTROL


def login(replica: Replica, subject: str = "ada", *, is_fresh: bool = True) -> BrowserLogin:
    return BrowserLogin(replica.world.person(subject), "lineage", is_fresh)


async def park(replica: Replica, ticket: str) -> str:
    return parked_text((await replica.redemption.park(ticket, replica.context())).reveal())


async def redeem(replica: Replica, text: str, browser: BrowserLogin | None = None) -> NewSession:
    return await replica.redemption.redeem(
        text, replica.context(), mode=CONTROL, take_over=False, login=browser
    )


def test_parked_ticket_opens_for_ten_minutes() -> None:
    async def scenario(replica: Replica) -> None:
        texts = [await park(replica, await replica.ticket()) for _ in range(2)]
        await asyncio.sleep(590)
        new = await redeem(replica, texts[0], login(replica))
        assert new.session.login == "lineage"
        await asyncio.sleep(11)
        with pytest.raises(TicketRejected):
            await redeem(replica, texts[1], login(replica))

    run(scenario)


def test_ticket_older_than_a_minute_cannot_be_parked() -> None:
    async def scenario(replica: Replica) -> None:
        ticket = await replica.ticket()
        await asyncio.sleep(61)
        with pytest.raises(TicketRejected):
            await park(replica, ticket)

    run(scenario)


def test_ticket_is_either_parked_or_redeemed() -> None:
    async def scenario(replica: Replica) -> None:
        for _ in range(5):
            ticket = await replica.ticket()
            results = await asyncio.gather(
                park(replica, ticket),
                redeem(replica, ticket),
                park(replica, ticket),
                return_exceptions=True,
            )
            won = [one for one in results if not isinstance(one, Exception)]
            assert len(won) == 1, results
            if isinstance(won[0], NewSession):
                break

    run(scenario)


@pytest.mark.parametrize("without_redis", [False, True])
@pytest.mark.parametrize("after_ms", [0.9, 1.8, 2.7, 4.5])
def test_failed_parking_keeps_the_ticket(after_ms: float, *, without_redis: bool) -> None:
    """Redis fails during a step or between two; the person tries again when it has recovered."""

    async def scenario(replica: Replica) -> None:
        replica.outage.is_down = without_redis
        ticket = await replica.ticket()
        replica.outage.is_down = False
        failing = asyncio.create_task(park(replica, ticket))
        await asyncio.sleep(after_ms / 1000)
        replica.outage.is_down = True
        await asyncio.sleep(0.1)
        replica.outage.is_down = False
        if isinstance(failing.exception(), ConsoleStoreUnavailable):
            await redeem(replica, await park(replica, ticket), login(replica))
        else:
            await redeem(replica, failing.result(), login(replica))

    run(scenario)


def test_parked_ticket_cannot_be_parked_again() -> None:
    async def scenario(replica: Replica) -> None:
        text = await park(replica, await replica.ticket())
        with pytest.raises(TicketRejected):
            await park(replica, text)
        await redeem(replica, text, login(replica))

    run(scenario)


def test_parked_ticket_needs_the_fresh_login_of_its_person() -> None:
    async def scenario(replica: Replica) -> None:
        text = await park(replica, await replica.ticket())
        with pytest.raises(LoginRequired):
            await redeem(replica, text)
        with pytest.raises(TicketOfAnotherPerson):
            await redeem(replica, text, login(replica, "ben"))
        with pytest.raises(FreshLoginRequired):
            await redeem(replica, text, login(replica, is_fresh=False))
        await redeem(replica, text, login(replica))

    run(scenario)


def test_policy_is_checked_again_after_the_login() -> None:
    async def scenario(replica: Replica) -> None:
        text = await park(replica, await replica.ticket())
        replica.world.policy = policy()
        with pytest.raises(NotPermitted):
            await redeem(replica, text, login(replica))

    run(scenario)


def test_guessed_parked_text_makes_no_record() -> None:
    async def scenario(replica: Replica) -> None:
        for i in range(3):
            with pytest.raises(TicketRejected):
                await redeem(replica, parked_text(str(i)), login(replica))
        assert replica.world.events("console_ticket_rejected") == []

    run(scenario)
