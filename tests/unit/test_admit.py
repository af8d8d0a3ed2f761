"""Stage admit: rate limit, queue request, single use of a signature."""

from typing import Any

import pytest

from gateway.domain.errors import CallerLimited
from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Operation, Priority, QueueRequest
from gateway.domain.queue.pacing import Pace
from gateway.flow.admit import Admit
from gateway.flow.caller_limits import CallerLimits
from tests.support.clock import FakeClock
from tests.support.stages import ANN, READ, a_request

NOTHING: Any = None


class FakeCredentials:
    def __init__(self) -> None:
        self.used: list[IncomingRequest] = []

    async def mark_used(self, incoming: IncomingRequest) -> None:
        self.used.append(incoming)

    async def unmark_used(self, incoming: IncomingRequest) -> None:
        self.used.remove(incoming)


def an_admit(clock: FakeClock, credentials: Any = None, burst: int = 1, **weights: float) -> Admit:
    limits = CallerLimits(Pace(1, 60, burst), NOTHING, clock)
    return Admit(limits, credentials, group_weights=weights)


def test_request_is_counted_once(clock: FakeClock) -> None:
    admit, request = an_admit(clock), a_request()
    request.principal = ANN
    admit(request)
    admit(request)
    assert request.is_admitted


def test_request_above_the_limit_is_rejected(clock: FakeClock) -> None:
    admit, requests = an_admit(clock), [a_request(), a_request()]
    for request in requests:
        request.principal = ANN
    admit(requests[0])
    with pytest.raises(CallerLimited):
        admit(requests[1])
    assert not requests[1].is_admitted


def test_queue_request_has_weight_and_priority(clock: FakeClock) -> None:
    bulk = Operation("List", "GET", "/x", "server:read", priority=Priority.BULK)
    assert an_admit(clock, ops=4.0).queue_request(ANN, bulk) == QueueRequest(
        ANN.key, 4.0, Priority.BULK
    )
    assert an_admit(clock).queue_request(ANN, READ).weight == 1.0


async def test_signature_is_used_and_released(clock: FakeClock) -> None:
    credentials = FakeCredentials()
    admit, request = an_admit(clock, credentials), a_request("PUT")
    request.signed = IncomingRequest("PUT", "/", ())
    await admit.use_signature(request)
    assert credentials.used == [request.signed]
    await admit.undo_signature(request)
    assert credentials.used == []


async def test_unsigned_request_uses_no_signature(clock: FakeClock) -> None:
    credentials = FakeCredentials()
    admit, request = an_admit(clock, credentials), a_request()
    await admit.use_signature(request)
    await admit.undo_signature(request)
    assert credentials.used == []
