"""No response about access requests depends on whether a server exists, or who may see it.

The same steps are taken twice, with other servers in the requests. As long as no rule names one of
them, every response must be equal but for the servers' IDs: so nothing about them can show.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.errors import GatewayError
from gateway.domain.model import Principal, ServerId
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests.model import AccessRequest
from gateway.edge.error_response import render_error
from gateway.edge.requests.request_fields import request_fields, rule_fields
from tests.support.access_requests import (
    ANN,
    BREAK_GLASS,
    LEA,
    PROJECT,
    a_request_policy,
    a_request_rule,
    a_scope,
)
from tests.support.clock import FakeClock
from tests.support.request_world import RequestWorld, wanted

OTHER_PROJECT = "ffffffffffffffffffffffffffffffff"
VISIBLE = [ServerId(f"{i:08x}-2222-4333-8444-555555555555") for i in range(3)]
"""Servers that a grant lets ann see."""
ELSEWHERE = [ServerId(f"{i:08x}-9999-4333-8444-555555555555") for i in range(3)]
"""Servers that do not exist, or that are hidden from ann."""
NAMED = [ServerId(f"{i:08x}-7777-4333-8444-555555555555") for i in range(2)]
"""Servers that rules may name. Each run uses the same ones."""


@dataclass(frozen=True)
class Step:
    kind: str
    servers: tuple[int, ...] = ()
    """Indexes of servers that differ between the runs; from 10 on, of NAMED."""
    more: tuple[tuple[str, Any], ...] = ()


_flags = st.fixed_dictionaries(
    {
        "break_glass": st.booleans(),
        "ticket": st.sampled_from(["T-1", "T-1", ""]),
        "duration_s": st.sampled_from([600.0, 600.0, 600.0, 90_000.0]),
        "project": st.sampled_from([PROJECT, PROJECT, PROJECT, OTHER_PROJECT]),
        "role": st.sampled_from(["op", "op", "op", "other"]),
    }
)
_named = st.sampled_from([0, 1, 2, 0, 1, 2, 10, 11])
_steps = st.one_of(
    st.builds(
        Step,
        st.just("create"),
        st.lists(_named, min_size=1, max_size=3, unique=True).map(tuple),
        _flags.map(lambda flags: tuple(flags.items())),
    ),
    st.builds(Step, st.sampled_from(["rules", "list", "approve", "deny", "withdraw", "end"])),
)
_rules = st.builds(
    lambda scope, **more: a_request_rule(scope=a_scope(**scope), **more),
    scope=st.fixed_dictionaries(
        {
            "servers": st.sampled_from([frozenset(), frozenset(), frozenset(NAMED)]),
            "excluded_servers": st.frozensets(st.sampled_from(NAMED), max_size=1),
            "projects": st.sampled_from([frozenset(), frozenset({PROJECT})]),
        }
    ),
    ticket_required=st.booleans(),
    break_glass=st.sampled_from([None, BREAK_GLASS]),
    approvals=st.sampled_from([1, 2]),
)


class Run:
    """The steps of one run, on servers of its own."""

    def __init__(self, rule: RequestRule, servers: Sequence[ServerId]) -> None:
        self.world = RequestWorld(FakeClock())
        grant = a_scope(servers=frozenset(VISIBLE))
        self.world.policy = a_request_policy(rule, rules=(grant,))
        self.replica = self.world.replica()
        self._servers = servers
        self._newest = ""

    async def take(self, step: Step) -> bytes:
        """Return the response, with a stand-in for each server that differs."""
        try:
            value = await self._take(step)
            body = orjson.dumps(value)
        except GatewayError as error:
            rendered = render_error(error)
            body = rendered.body + repr(rendered.headers).encode()
        for index, server in enumerate(self._servers):
            body = body.replace(server.encode(), f"server-{index}".encode())
        return body

    async def _take(self, step: Step) -> Any:
        requests = self.replica.requests
        context = self.replica.context()
        match step.kind:
            case "create":
                servers = tuple(
                    NAMED[one - 10] if one >= 10 else self._servers[one] for one in step.servers
                )
                wish = wanted(servers=servers, **dict(step.more))
                return await self._shown(requests.create(wish, ANN, context), ANN)
            case "rules":
                return [rule_fields(one) for one in requests.rules_for(ANN)]
            case "list":
                found = [one for one in requests.all() if requests.is_visible(one, LEA)]
                return [self._fields(one, LEA) for one in found]
            case "approve":
                shown = await requests.find(self._newest, LEA)
                step_taken = requests.approve(self._newest, LEA, context, shown.content_hash)
                return await self._shown(step_taken, LEA)
            case _:
                person = LEA if step.kind == "deny" else ANN
                close = getattr(requests, step.kind)
                return await self._shown(close(self._newest, person, context, "reason"), person)

    async def _shown(self, taken: Awaitable[AccessRequest], person: Principal) -> Any:
        request = await taken
        self._newest = request.id
        return self._fields(request, person)

    def _fields(self, request: AccessRequest, person: Principal) -> Any:
        requests = self.replica.requests
        known = requests.as_known(request)
        fields = request_fields(
            known,
            requests.rules.get(known.rule),
            self.world.clock.now(),
            may=requests.steps_of(known, person),
            is_own=requests.is_own(known, person),
            in_force=requests.is_in_force(known),
        )
        # The hash covers the servers.
        return {name: value for name, value in fields.items() if name != "hash"}


async def responses(
    rule: RequestRule, servers: Sequence[ServerId], steps: Sequence[Step]
) -> list[bytes]:
    run = Run(rule, servers)
    return [await run.take(step) for step in steps]


@settings(max_examples=150, deadline=None)
@given(_rules, st.lists(_steps, min_size=1, max_size=8))
def test_no_response_about_requests_depends_on_hidden_servers(
    rule: RequestRule, steps: list[Step]
) -> None:
    steps = [Step("create", (0,), (("ticket", "T-1"),)), *steps]
    seen = asyncio.run(responses(rule, VISIBLE, steps))
    assert seen == asyncio.run(responses(rule, ELSEWHERE, steps))
