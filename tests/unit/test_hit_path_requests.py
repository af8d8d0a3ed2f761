"""The hit path decides on each request by the access requests that are grants at that moment."""

from collections.abc import Callable

import pytest

from gateway.domain.overrides import EndedRequest, Lock
from tests.support.access_requests import a_request_rule, a_scope, an_access_request, changed
from tests.support.clock import settle
from tests.support.hit_world import ISSUER, PROJECT, SERVERS, HitWorld, request_bytes

DATA = request_bytes("ann.staff.1")
RULE = a_request_rule(approvals=0, scope=a_scope(projects=frozenset({PROJECT})))
GRANT_LIFE_S = 100.0


async def world() -> HitWorld:
    """Return a world in which ann's access request is her only grant."""
    made = await HitWorld(has_hit_path=True).start()
    made.set_request_rules(RULE, version="v1")
    requester = changed(an_access_request().requester, issuer=ISSUER)
    made.started = (
        an_access_request(
            requester=requester,
            project=PROJECT,
            servers=(SERVERS[0],),
            duration_s=GRANT_LIFE_S,
            started_at=made.clock.now(),
        ),
    )
    return made


async def warm(made: HitWorld) -> int:
    number = await made.connect()
    for _ in range(4):
        await made.send(number, DATA)
        assert status_of(made.received(number)) == 200
    assert made.hits == 1
    return number


def status_of(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def end(made: HitWorld) -> None:
    made.override(EndedRequest(made.started[0].id, "revoked", ISSUER, "lea"))


CHANGES = pytest.mark.parametrize(
    "change",
    [
        end,
        lambda made: setattr(made, "started", ()),
        lambda made: made.clock.step_wall(GRANT_LIFE_S),
        lambda made: made.set_request_rules(version="v2"),
        lambda made: made.set_request_rules(changed(RULE, approvals=1), version="v2"),
        lambda made: made.override(Lock(server=SERVERS[0])),
    ],
    ids=["ended", "gone", "its end", "no rule", "another rule", "lock"],
)


@CHANGES
async def test_end_of_a_grant_ends_hits(change: Callable[[HitWorld], object]) -> None:
    made = await world()
    number = await warm(made)
    change(made)
    await made.send(number, DATA)
    assert (status_of(made.received(number)), made.hits) == (403, 1)


@CHANGES
async def test_grant_that_ends_during_record_issues_no_link(
    change: Callable[[HitWorld], object],
) -> None:
    made = await world()
    number = await warm(made)
    made.store.may_commit.clear()
    await made.send(number, DATA)
    assert (made.received(number), made.hits) == (b"", 2)
    change(made)
    made.store.may_commit.set()
    await settle()
    await settle()
    assert status_of(made.received(number)) == 403


async def test_beginning_of_a_grant_is_seen_at_once() -> None:
    made = await world()
    request, made.started = made.started[0], ()
    number = await made.connect()
    await made.send(number, DATA)
    assert status_of(made.received(number)) == 403
    made.started = (request,)
    await made.send(number, DATA)
    assert status_of(made.received(number)) == 200
