"""The server of an instance."""

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
SERVERS = {
    "i-1": SERVER,
    "i-2": OTHER,
    "i-3": SERVER,
    "i-homeless": None,
    "i-hidden": "33333333-2222-4333-8444-555555555555",
}
OPERATION = Operation("Reinstall", "PUT", "/x", "instance:reinstall", writes=True)
QUEUE_REQUEST = QueueRequest("corp:olga")
HIDDEN = "33333333-2222-4333-8444-555555555555"


def cloud(request: UpstreamRequest) -> bytes:
    """Respond as the cloud does: one unknown instance fails the request."""
    (requested,) = parse_qs(urlsplit(request.path).query)["instance_id"]
    if any(one not in SERVERS for one in requested.split(",")):
        raise UpstreamRefused(404, "iMetal.0200", "not found")
    found = [{"id": one, "server_id": SERVERS[one]} for one in requested.split(",")]
    return json.dumps({"instances": found}).encode()


def a_call(*instances: str, project: str = "p") -> ResolvedCall:
    ids = tuple(InstanceId(one) for one in instances)
    return ResolvedCall(OPERATION, ProjectId(project), (), f"/v1/{project}/x", instances=ids)


def made(clock: FakeClock) -> tuple[Instances, FakeExchange]:
    exchange = FakeExchange(cloud)
    return Instances({"p": as_exchange(exchange)}, clock), exchange


async def resolve(some: Instances, call: ResolvedCall, clock: FakeClock) -> ResolvedCall:
    return await some.resolve_servers(
        call, QUEUE_REQUEST, deadline=clock.monotonic() + 5, allows=lambda server: server != HIDDEN
    )


async def test_instances_resolve_to_their_servers(clock: FakeClock) -> None:
    some, exchange = made(clock)
    call = await resolve(some, a_call("i-1", "i-2", "i-3"), clock)
    assert (call.servers, call.touches_unnamed) == ((SERVER, OTHER), False)
    assert len(exchange.requested) == 1
    assert exchange.queue_requests == [QUEUE_REQUEST]


async def test_looked_up_server_is_cached_for_a_time(clock: FakeClock) -> None:
    some, exchange = made(clock)
    await resolve(some, a_call("i-1"), clock)
    await resolve(some, a_call("i-1"), clock)
    assert len(exchange.requested) == 1
    await clock.advance(301)
    await resolve(some, a_call("i-1"), clock)
    assert len(exchange.requested) == 2


async def test_hidden_instance_is_looked_up_each_time(
    clock: FakeClock,
) -> None:
    some, exchange = made(clock)
    for count in (1, 2):
        assert (await resolve(some, a_call("i-hidden"), clock)).servers == (HIDDEN,)
        assert len(exchange.requested) == count


@pytest.mark.parametrize("unknown", ["i-homeless", "i-nowhere"])
async def test_instance_without_server_touches_unnamed(unknown: str, clock: FakeClock) -> None:
    some, _ = made(clock)
    call = await resolve(some, a_call("i-1", unknown), clock)
    assert (call.servers, call.touches_unnamed) == ((SERVER,), True)


async def test_response_about_other_instances_is_ignored(clock: FakeClock) -> None:
    body = json.dumps({"instances": [{"id": "i-2", "server_id": SERVER}]}).encode()
    some = Instances({"p": as_exchange(FakeExchange(lambda _: body))}, clock)
    assert (await resolve(some, a_call("i-1"), clock)).servers == ()


async def test_other_rejection_of_the_cloud_is_raised(clock: FakeClock) -> None:
    def refuse(_: UpstreamRequest) -> bytes:
        raise UpstreamRefused(400, "iMetal.0001", "invalid")

    some = Instances({"p": as_exchange(FakeExchange(refuse))}, clock)
    with pytest.raises(UpstreamRefused):
        await resolve(some, a_call("i-1"), clock)


async def test_project_without_account_is_forbidden(clock: FakeClock) -> None:
    some, _ = made(clock)
    with pytest.raises(NotPermitted):
        await resolve(some, a_call("i-1", project="other"), clock)
