"""The call of a Permit, and the part of its response that is returned."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest

from gateway.domain.errors import BudgetExhausted, NotPermitted, UpstreamUnreachable
from gateway.domain.model import (
    Listing,
    Operation,
    Paging,
    Principal,
    ProjectId,
    QueueRequest,
    ResolvedCall,
    ResponseKind,
    RuleKind,
    RuleRef,
    ServerId,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.policy.rules import Scope
from gateway.flow.attempts import Attempts
from gateway.flow.forwarding import ForwardedResponse, Forwarding, OutgoingCall
from gateway.flow.listings import ListBounds, Listings
from tests.support.clock import FakeClock
from tests.support.exchange import FakeExchange, as_exchange

SERVER = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"
RULE = RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant")


def a_scope(*granted: str, everywhere: bool = False) -> Scope:
    some = frozenset(map(ServerId, granted))
    none: frozenset[ServerId] = frozenset()
    return Scope(ProjectId("p"), RULE, everywhere, some, (), False, none, (), lambda _: None)


@dataclass
class FakeBody:
    closed: int = field(default=0)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"log"

    async def close(self) -> None:
        self.closed += 1


def a_permit(
    answer: ResponseKind = ResponseKind.WHOLE, subject: str = "olga", **row: object
) -> Permit:
    listing = Listing("servers", "id", Paging.MARKER) if answer is ResponseKind.LISTED else None
    operation = Operation(
        "Op",
        "GET",
        "/x",
        "server:read",
        response=answer,
        listing=listing,
        **row,  # type: ignore[arg-type]
    )
    person = Principal("corp", subject, frozenset(), 0.0, 9e9, None)
    return Permit(
        person, ResolvedCall(operation, ProjectId("p"), (), "/v1/p/x?limit=10", body=b"{}"), RULE
    )


def made(exchange: FakeExchange, clock: FakeClock) -> Forwarding:
    exchanges = {"p": as_exchange(exchange)}
    return Forwarding(exchanges, Listings(exchanges, ListBounds(5.0, 10, 1_000_000), clock))


async def forward(
    some: Forwarding,
    permit: Permit,
    scope: Scope | None = None,
    scope_now: Callable[[], Scope] | None = None,
) -> ForwardedResponse:
    def permitted(what: Scope | None) -> Permit:
        return replace(permit, scope=what)

    outgoing = OutgoingCall(
        permitted(scope),
        QueueRequest(permit.principal.key),
        Attempts(lambda: permitted(scope_now() if scope_now else scope)),
        deadline=5.0,
        fresh=False,
        headers=(("X-Request-Id", "r"),),
    )
    return await some.forward(outgoing)


async def test_permitted_call_is_sent_and_answered(clock: FakeClock) -> None:
    answer = UpstreamResponse(202, {"content-type": "a/b", "set-cookie": "c"}, b"yes")
    exchange = FakeExchange(lambda _: answer)
    response = await forward(made(exchange, clock), a_permit(writes=True))
    assert exchange.requested == [
        UpstreamRequest(
            "GET", "/v1/p/x?limit=10", (("X-Request-Id", "r"),), b"{}", repeatable=False,
            encoded=True,
        )
    ]  # fmt: skip
    assert response == ForwardedResponse(202, (("Content-Type", "a/b"),), b"yes")


@pytest.mark.parametrize(
    ("row", "repeatable"),
    [({}, True), ({"writes": True}, False), ({"writes": True, "repeatable": True}, True)],
)
async def test_reads_and_repeatable_writes_may_be_retried(
    row: dict[str, bool], *, repeatable: bool, clock: FakeClock
) -> None:
    exchange = FakeExchange(lambda _: b"{}")
    await forward(made(exchange, clock), a_permit(**row))
    assert [request.repeatable for request in exchange.requested] == [repeatable]


async def test_project_without_account_is_forbidden(clock: FakeClock) -> None:
    some = Forwarding({}, Listings({}, ListBounds(5.0, 10, 1_000), clock))
    with pytest.raises(NotPermitted):
        await forward(some, a_permit())


async def test_caller_of_all_servers_gets_the_cloud_page(clock: FakeClock) -> None:
    exchange = FakeExchange(lambda _: b'{"servers": [], "more": 1}')
    response = await forward(
        made(exchange, clock), a_permit(ResponseKind.LISTED), a_scope(everywhere=True)
    )
    assert response.body == b'{"servers": [], "more": 1}'
    assert [request.path for request in exchange.requested] == ["/v1/p/x?limit=10"]


async def test_list_is_filtered_to_the_caller(clock: FakeClock) -> None:
    body = json.dumps({"servers": [{"id": SERVER}, {"id": OTHER}], "count": 2}).encode()
    scope = a_scope(OTHER)
    some = made(FakeExchange(lambda _: body), clock)
    response = await forward(some, a_permit(ResponseKind.LISTED), scope)
    assert json.loads(response.body) == {"servers": [{"id": OTHER}], "count": 1}


@pytest.mark.parametrize("before", [a_scope(everywhere=True), a_scope(SERVER)])
async def test_list_is_filtered_by_the_current_policy(before: Scope, clock: FakeClock) -> None:
    body = json.dumps({"servers": [{"id": SERVER}, {"id": OTHER}], "count": 2}).encode()
    exchange = FakeExchange(lambda _: body)
    after = a_scope(OTHER)
    response = await forward(
        made(exchange, clock),
        a_permit(ResponseKind.LISTED),
        before,
        lambda: after if exchange.requested else before,
    )
    assert json.loads(response.body) == {"servers": [{"id": OTHER}], "count": 1}


async def test_list_is_rejected_if_permission_ended(clock: FakeClock) -> None:
    def nothing() -> Scope:
        raise NotPermitted("no grant applies")

    exchange = FakeExchange(lambda _: b'{"servers": []}')
    for before in (a_scope(everywhere=True), a_scope()):
        with pytest.raises(NotPermitted):
            await forward(made(exchange, clock), a_permit(ResponseKind.LISTED), before, nothing)


async def test_download_is_streamed_and_closed_once(clock: FakeClock) -> None:
    body = FakeBody()
    exchange = FakeExchange(lambda _: UpstreamResponse(206, {"content-range": "x"}, b"", body))
    response = await forward(made(exchange, clock), a_permit(ResponseKind.STREAMED))
    assert (response.status, response.headers) == (206, (("Content-Range", "x"),))
    assert exchange.requested[0].streamed
    assert response.stream is not None
    assert [chunk async for chunk in response.stream] == [b"log"]
    await response.stream.close()
    assert body.closed == 1


async def test_downloads_are_limited_per_account_and_caller(clock: FakeClock) -> None:
    some = made(FakeExchange(lambda _: UpstreamResponse(200, {}, b"", FakeBody())), clock)
    cached_value = [await forward(some, a_permit(ResponseKind.STREAMED)) for _ in range(2)]
    with pytest.raises(BudgetExhausted):
        await forward(some, a_permit(ResponseKind.STREAMED))
    for i in range(6):
        await forward(some, a_permit(ResponseKind.STREAMED, subject=f"other-{i}"))
    with pytest.raises(BudgetExhausted):
        await forward(some, a_permit(ResponseKind.STREAMED, subject="one-more"))
    for one in cached_value:
        assert one.stream is not None
        await one.stream.close()
        await one.stream.close()
    await forward(some, a_permit(ResponseKind.STREAMED))


async def test_downloads_are_limited_per_account(clock: FakeClock) -> None:
    exchanges = {
        name: FakeExchange(lambda _: UpstreamResponse(200, {}, b"", FakeBody())) for name in "pq"
    }
    exchanges["p"].streams_max = 1
    both = {name: as_exchange(one) for name, one in exchanges.items()}
    some = Forwarding(both, Listings(both, ListBounds(5.0, 10, 1_000), clock))
    cached_value = await forward(some, a_permit(ResponseKind.STREAMED, subject="ann"))
    with pytest.raises(BudgetExhausted):
        await forward(some, a_permit(ResponseKind.STREAMED, subject="bob"))
    elsewhere = a_permit(ResponseKind.STREAMED, subject="bob")
    await forward(some, replace(elsewhere, call=replace(elsewhere.call, project=ProjectId("q"))))
    assert cached_value.stream is not None
    await cached_value.stream.close()
    await forward(some, a_permit(ResponseKind.STREAMED, subject="bob"))


async def test_download_without_stream_is_not_counted(clock: FakeClock) -> None:
    def gone(_: UpstreamRequest) -> bytes:
        raise UpstreamUnreachable("gone", retry_after_s=1.0)

    some = made(FakeExchange(gone), clock)
    for _ in range(12):
        with pytest.raises(UpstreamUnreachable):
            await forward(some, a_permit(ResponseKind.STREAMED))
    some = made(FakeExchange(lambda _: UpstreamResponse(304, {}, b"")), clock)
    for _ in range(12):
        assert (await forward(some, a_permit(ResponseKind.STREAMED))).status == 304
