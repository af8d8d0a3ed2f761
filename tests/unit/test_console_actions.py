"""The admin API on live consoles of several replicas, also without Redis. Virtual time."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from gateway.domain.consoles.model import SessionMode
from gateway.domain.errors import BadRequest, ConsoleStoreUnavailable
from gateway.domain.model import CONSOLE_OPEN, CONSOLE_VIEW, Principal
from gateway.domain.policy.policy import Policy
from gateway.flow.admin.administration import Administrator
from gateway.flow.admin.console_actions import ConsoleActions
from gateway.flow.admin.messages import ConsolesRequest, EndConsolesRequest
from tests.support.console_world import ConsoleWorld, a_rule
from tests.support.consoles import OTHER_TARGET
from tests.support.live_consoles import Page, Replica
from tests.support.virtual_time import run_virtually

_ADA = Administrator(
    Principal("corp", "ada", frozenset({"admins"}), 0.0, 0.0, None),
    by_certificate=False,
    check=lambda: None,
    request_id="r1",
    client_address="192.0.2.1",
)
_OPERATOR = (4001, "operator")


class Consoles:
    """Two replicas: mallory has a console on each, ben one on the first."""

    def __init__(self, first: Replica, second: Replica) -> None:
        self.first, self.second = first, second
        self.here: Page
        self.elsewhere: Page
        self.of_ben: Page

    async def open(self) -> "Consoles":
        self.here = await self.first.live("mallory")
        self.elsewhere = await self.second.live("mallory", OTHER_TARGET)
        self.of_ben = await self.first.live("ben", OTHER_TARGET, mode=SessionMode.VIEW)
        return self

    async def end(self, **fields: Any) -> list[str]:
        """End consoles through the first replica; return their IDs."""
        request = msgspec.convert(fields, EndConsolesRequest)
        response = await ConsoleActions(self.first.sessions).end(request, _ADA).perform()
        return [one["id"] for one in msgspec.to_builtins(response)["ended"]]

    async def list(self, **fields: Any) -> tuple[list[str], bool]:
        request = msgspec.convert(fields, ConsolesRequest)
        response = await ConsoleActions(self.first.sessions).list(request, _ADA).perform()
        listed = msgspec.to_builtins(response)
        return [one["id"] for one in listed["consoles"]], listed["complete"]


def with_consoles(scenario: Callable[[Consoles], Awaitable[None]]) -> Callable[[], None]:
    """Return a test that runs the scenario in virtual time."""

    async def main() -> None:
        world = ConsoleWorld()
        world.policy = Policy([a_rule(CONSOLE_OPEN), a_rule(CONSOLE_VIEW)], version="v1")
        first, second = Replica(world, "p1").start(), Replica(world, "p2").start()
        await scenario(await Consoles(first, second).open())
        await first.stop()
        await second.stop()
        assert world.failures == []

    def test() -> None:
        run_virtually(main())

    # Not functools.wraps: pytest would take the parameter for a fixture.
    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


@with_consoles
async def test_consoles_of_a_person_end_on_all_replicas(consoles: Consoles) -> None:
    ended = await consoles.end(subject="mallory", issuer="corp")
    assert ended == [consoles.here.id, consoles.elsewhere.id]
    assert await consoles.here.until_closed(within_s=1) == _OPERATOR
    assert await consoles.elsewhere.until_closed(within_s=1) == _OPERATOR
    assert consoles.of_ben.is_live


@with_consoles
async def test_consoles_on_a_server_end_on_all_replicas(consoles: Consoles) -> None:
    ended = await consoles.end(server=OTHER_TARGET.server)
    assert ended == [consoles.elsewhere.id, consoles.of_ben.id]
    assert await consoles.elsewhere.until_closed(within_s=1) == _OPERATOR
    assert await consoles.of_ben.until_closed(within_s=1) == _OPERATOR
    assert consoles.here.is_live


@with_consoles
async def test_end_without_redis_reports_that_others_may_go_on(consoles: Consoles) -> None:
    consoles.first.outage.is_down = True
    with pytest.raises(ConsoleStoreUnavailable):
        await consoles.end(subject="mallory")
    assert await consoles.here.until_closed(within_s=1) == _OPERATOR
    assert consoles.elsewhere.is_live
    with pytest.raises(ConsoleStoreUnavailable):
        await consoles.end(id=consoles.elsewhere.id)
    assert await consoles.end(id=consoles.of_ben.id) == [consoles.of_ben.id]
    consoles.first.outage.is_down = False
    assert consoles.elsewhere.id in await consoles.end(subject="mallory")
    assert await consoles.elsewhere.until_closed(within_s=1) == _OPERATOR


@with_consoles
async def test_redis_lost_after_the_list_ends_what_is_local(consoles: Consoles) -> None:
    sessions = consoles.first.sessions

    class LosesRedis:
        end = sessions.end

        async def listed(self) -> Any:
            listing = await sessions.listed()
            consoles.first.outage.is_down = True
            return listing

    request = EndConsolesRequest(server=OTHER_TARGET.server)
    with pytest.raises(ConsoleStoreUnavailable):
        await ConsoleActions(LosesRedis()).end(request, _ADA).perform()
    assert await consoles.of_ben.until_closed(within_s=1) == _OPERATOR


@with_consoles
async def test_list_without_redis_says_that_it_is_not_complete(consoles: Consoles) -> None:
    both = [consoles.here.id, consoles.elsewhere.id]
    assert await consoles.list(subject="mallory") == (both, True)
    consoles.first.outage.is_down = True
    assert await consoles.list(subject="mallory") == ([consoles.here.id], False)


@with_consoles
async def test_unknown_id_is_rejected_with_redis(consoles: Consoles) -> None:
    with pytest.raises(BadRequest, match="No live console has this ID"):
        await consoles.end(id="0" * 32)
