"""Which server an instance is on, before anything is decided."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.domain.errors import NotPermitted, UpstreamRefused
from gateway.domain.model import (
    InstanceId,
    Operation,
    ProjectId,
    QueueRequest,
    ResolvedCall,
    UpstreamRequest,
)
from gateway.flow.instances import Instances
from tests.support.clock import FakeClock
from tests.support.exchange import FakeExchange, as_exchange

SERVER = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"
PLACED = {
    "i-1": SERVER,
    "i-2": OTHER,
    "i-3": SERVER,
    "i-homeless": None,
    "i-hidden": "33333333-2222-4333-8444-555555555555",
}
OPERATION = Operation("Reinstall", "PUT", "/x", "instance:reinstall", writes=True)
DEMAND = QueueRequest("corp:olga")
HIDDEN = "33333333-2222-4333-8444-555555555555"


def cloud(request: UpstreamRequest) -> bytes:
    """Answer as the cloud does, which refuses all when one is not there."""
    (asked,) = parse_qs(urlsplit(request.path).query)["instance_id"]
    if any(one not in PLACED for one in asked.split(",")):
        raise UpstreamRefused(404, "iMetal.0200", "not found")
    found = [{"id": one, "server_id": PLACED[one]} for one in asked.split(",")]
    return json.dumps({"instances": found}).encode()


def a_call(*instances: str, project: str = "p") -> ResolvedCall:
    ids = tuple(InstanceId(one) for one in instances)
    return ResolvedCall(OPERATION, ProjectId(project), (), f"/v1/{project}/x", instances=ids)


def made(clock: FakeClock) -> tuple[Instances, FakeExchange]:
    exchange = FakeExchange(cloud)
    return Instances({"p": as_exchange(exchange)}, clock), exchange


async def place(some: Instances, call: ResolvedCall, clock: FakeClock) -> ResolvedCall:
    return await some.resolve_servers(
        call, DEMAND, deadline=clock.monotonic() + 5, allows=lambda server: server != HIDDEN
    )


async def test_instances_are_decided_on_by_their_servers(clock: FakeClock) -> None:
    some, exchange = made(clock)
    call = await place(some, a_call("i-1", "i-2", "i-3"), clock)
    assert (call.servers, call.touches_unnamed) == ((SERVER, OTHER), False)
    assert len(exchange.asked) == 1
    assert exchange.queue_requests == [DEMAND]


async def test_what_was_looked_up_is_remembered_for_a_while(clock: FakeClock) -> None:
    some, exchange = made(clock)
    await place(some, a_call("i-1"), clock)
    await place(some, a_call("i-1"), clock)
    assert len(exchange.asked) == 1
    await clock.advance(301)
    await place(some, a_call("i-1"), clock)
    assert len(exchange.asked) == 2


async def test_a_hidden_one_is_looked_up_each_time_like_one_that_is_not_there(
    clock: FakeClock,
) -> None:
    some, exchange = made(clock)
    for count in (1, 2):
        assert (await place(some, a_call("i-hidden"), clock)).servers == (HIDDEN,)
        assert len(exchange.asked) == count


@pytest.mark.parametrize("unknown", ["i-homeless", "i-nowhere"])
async def test_an_instance_on_no_server_takes_the_right_to_everything(
    unknown: str, clock: FakeClock
) -> None:
    some, _ = made(clock)
    call = await place(some, a_call("i-1", unknown), clock)
    assert (call.servers, call.touches_unnamed) == ((SERVER,), True)


async def test_an_answer_about_others_places_nothing(clock: FakeClock) -> None:
    body = json.dumps({"instances": [{"id": "i-2", "server_id": SERVER}]}).encode()
    some = Instances({"p": as_exchange(FakeExchange(lambda _: body))}, clock)
    assert (await place(some, a_call("i-1"), clock)).servers == ()


async def test_another_refusal_of_the_cloud_is_the_answer(clock: FakeClock) -> None:
    def refuse(_: UpstreamRequest) -> bytes:
        raise UpstreamRefused(400, "iMetal.0001", "invalid")

    some = Instances({"p": as_exchange(FakeExchange(refuse))}, clock)
    with pytest.raises(UpstreamRefused):
        await place(some, a_call("i-1"), clock)


async def test_a_project_of_nobody_is_forbidden(clock: FakeClock) -> None:
    some, _ = made(clock)
    with pytest.raises(NotPermitted):
        await place(some, a_call("i-1", project="other"), clock)
