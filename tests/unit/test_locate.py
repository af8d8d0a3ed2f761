"""Stage locate: only calls that name instances are looked up, and decided again."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.errors import NotPermitted
from gateway.domain.model import InstanceId, Principal, QueueRequest, ResolvedCall, ServerId
from gateway.domain.policy.policy import Permit, Policy
from gateway.flow.decide import Lookup
from gateway.flow.locate import Locate
from tests.support.stages import ANN, OTHER, PROJECT, READ, SERVER, a_call, a_grant, a_request

POLICY: Policy = a_grant(SERVER)
QUEUE_REQUEST = QueueRequest("ann")


class FakeInstances:
    def __init__(self, server: ServerId) -> None:
        self.server = server
        self.lookups = 0

    async def resolve_servers(self, call: ResolvedCall, *_: object, **__: object) -> ResolvedCall:
        self.lookups += 1
        return replace(call, servers=(self.server,))


def decide(principal: Principal, call: ResolvedCall) -> Permit:
    return POLICY.permit(principal, call, 0.0)


def a_lookup() -> Lookup:
    call = ResolvedCall(READ, PROJECT, (), instances=(InstanceId("i-1"),))
    return Lookup(ANN, call, lambda _: True)


def a_stage(server: ServerId) -> tuple[Locate, FakeInstances]:
    instances: Any = FakeInstances(server)
    stage: Any = decide
    return Locate(instances, stage), instances


async def test_permit_passes_without_a_lookup() -> None:
    locate, instances = a_stage(SERVER)
    permit = decide(ANN, a_call())
    assert await locate(permit, QUEUE_REQUEST, a_request()) is permit
    assert instances.lookups == 0


async def test_located_call_is_decided_by_its_server() -> None:
    locate, _ = a_stage(SERVER)
    request = a_request()
    permit = await locate(a_lookup(), QUEUE_REQUEST, request)
    assert permit.call.servers == (SERVER,)
    assert request.call is permit.call


async def test_instance_on_another_server_is_rejected() -> None:
    locate, _ = a_stage(OTHER)
    request = a_request()
    with pytest.raises(NotPermitted):
        await locate(a_lookup(), QUEUE_REQUEST, request)
    assert request.call is not None
    assert request.call.servers == (OTHER,), "for the audit record"
