"""Access requests under seeded schedules and faults, in virtual time; also invariant 11.

`REQUEST_SEEDS=2000 python -m pytest tests/simulation/test_request_replicas.py` runs more. The
checks decide by what the steps returned, not by the code under test. Each check is also broken on
purpose, and must find it.
"""

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from gateway.domain.consoles.model import ConsoleTarget
from gateway.domain.errors import GatewayError
from gateway.domain.model import Principal
from gateway.domain.requests.model import AccessRequest
from gateway.flow.requests import requested_policies
from gateway.flow.requests.active_requests import ActiveRequests
from tests.support.access_requests import (
    BREAK_GLASS,
    PROJECT,
    SERVER,
    a_request_policy,
    a_request_rule,
    person,
)
from tests.support.console_world import ConsoleWorld
from tests.support.consoles import ACCOUNT
from tests.support.live_consoles import Replica
from tests.support.request_world import RequestReplica, RequestWorld
from tests.support.virtual_time import VirtualClock, run_virtually

_SEEDS = int(os.environ.get("REQUEST_SEEDS", "20"))
_RUNS_S = 600.0
_WITHIN_S = 1.0
_PEOPLE = tuple(person(name, "staff") for name in ("ann", "ben", "cyd"))
_LEADS = tuple(person(name, "leads") for name in ("lea", "leo"))
_RULE = a_request_rule(break_glass=BREAK_GLASS)
_RULES = (_RULE, a_request_rule(approvals=2), None)


@dataclass
class Known:
    """What the steps of one request returned."""

    requester: Principal
    approved_by: set[str]
    is_glass: bool
    started_at: float | None = None
    ends_at: float = 0.0
    closed_at: float | None = None


class MemoryFile:
    """A snapshot file without a thread, which virtual time cannot wait for."""

    text: bytes | None = None

    def load(self) -> bytes | None:
        return self.text

    async def save(self, update: Callable[[bytes | None], bytes]) -> None:
        self.text = update(self.text)


class Requests:
    """Replicas, people, faults, and the checks."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"requests {seed}")
        self.clock = VirtualClock()
        self.world = RequestWorld(self.clock)
        self.world.policy = a_request_policy(_RULE)
        self.files = [MemoryFile(), None]
        self.replicas = [self.world.replica(file) for file in self.files]
        self.tasks = [asyncio.create_task(one.active.run()) for one in self.replicas]
        self.known: dict[str, Known] = {}
        self.older: dict[str, bytes] = {}
        self.policy_changed_at = self.clock.monotonic()
        self.unavailable_until = 0.0
        self.allowed = 0

    def any_replica(self) -> RequestReplica:
        return self.chance.choice(self.replicas)

    async def run(self) -> None:
        ends_at = self.clock.monotonic() + _RUNS_S
        watching = asyncio.create_task(self.watch())
        while self.clock.monotonic() < ends_at and not watching.done():
            await asyncio.sleep(self.chance.uniform(0.0, 3.0))
            with suppress(GatewayError):
                await self.chance.choice(
                    [self.make, self.make, self.approve, self.approve, self.close, self.fault]
                )()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        for task in self.tasks:
            task.cancel()

    async def make(self) -> None:
        requester, glass = self.chance.choice(_PEOPLE), self.chance.random() < 0.3
        duration_s = self.chance.choice([60.0, 90.0, 300.0])
        made = await self.any_replica().make(requester, duration_s=duration_s, break_glass=glass)
        known = self.known[made.id] = Known(requester, set(), glass)
        self._note(known, made)

    async def approve(self) -> None:
        replica = self.any_replica()
        pending = [one for one in replica.active.all if one.state(self.clock.now()) == "pending"]
        if pending:
            request, lead = self.chance.choice(pending), self.chance.choice(_LEADS)
            approved = await replica.approve(request, lead)
            known = self.known[request.id]
            known.approved_by.add(lead.subject)
            self._note(known, approved)

    def _note(self, known: Known, request: AccessRequest) -> None:
        if request.started_at is not None:
            known.started_at = self.clock.monotonic()
            known.ends_at = known.started_at + request.duration_s

    async def close(self) -> None:
        replica = self.any_replica()
        opened = [one for one in replica.active.all if one.is_open(self.clock.now())]
        if opened:
            request = self.chance.choice(opened)
            is_pending = request.state(self.clock.now()) == "pending"
            step = replica.requests.deny if is_pending else replica.requests.end
            await step(request.id, _LEADS[0], replica.context(), "")
            self.known[request.id].closed_at = self.clock.monotonic()

    async def fault(self) -> None:
        store = self.world.store
        kind = self.chance.choice(["outage", "loss", "older", "policy", "restart", "forged"])
        if kind == "outage" and not store.is_unavailable:
            store.is_unavailable = True
            await asyncio.sleep(self.chance.uniform(0.0, 5.0))
            store.is_unavailable = False
            self.unavailable_until = self.clock.monotonic()
        elif kind == "loss":
            self.older |= store.requests
            store.lose_data()
        elif kind in ("older", "forged") and self.older:
            request_id, text = self.chance.choice(sorted(self.older.items()))
            request = self.any_replica().active.find(request_id)
            if request is not None:
                store.set(request, text if kind == "older" else b"forged")
        elif kind == "policy":
            rule = self.chance.choice(_RULES)
            self.world.policy = a_request_policy(*([rule] if rule else []))
            self.policy_changed_at = self.clock.monotonic()
        elif kind == "restart":
            index = self.chance.randrange(len(self.replicas))
            self.tasks[index].cancel()
            self.replicas[index] = self.world.replica(self.files[index])
            self.tasks[index] = asyncio.create_task(self.replicas[index].active.run())
        self.older |= store.requests

    async def watch(self) -> None:
        while True:
            for replica in self.replicas:
                for one in _PEOPLE:
                    is_allowed = replica.is_allowed(one)
                    assert not is_allowed or self._may(one), f"{one.subject} without a right"
                    self.allowed += is_allowed
            await asyncio.sleep(0.05)

    def _may(self, person: Principal) -> bool:
        """Return whether a request may give the person access, by what its steps returned.

        Within a second after an end, another replica may still allow it.
        """
        now, rule = self.clock.monotonic(), self.world.policy.request_rules.get("op")
        return rule is not None and any(
            one.requester is person
            and one.started_at is not None
            and now < one.ends_at
            and (one.closed_at is None or now - one.closed_at <= _WITHIN_S)
            and (rule.break_glass if one.is_glass else len(one.approved_by) >= rule.approvals)
            for one in self.known.values()
        )


async def run_seed(seed: int) -> int:
    requests = Requests(seed)
    await requests.run()
    return requests.allowed


@pytest.mark.parametrize("first", range(0, _SEEDS, 10))
def test_no_access_without_a_request_in_force(first: int) -> None:
    allowed = sum(run_virtually(run_seed(seed)) for seed in range(first, first + 10))
    assert allowed > 0, "nothing was ever allowed"


def _ignore_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    grants_of = requested_policies.grants_of
    monkeypatch.setattr(
        requested_policies, "grants_of", lambda started, rules, _: grants_of(started, rules, ())
    )
    monkeypatch.setattr(ActiveRequests, "close", lambda *_: asyncio.sleep(0))


def _trust_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.domain.requests.grants.is_allowed", lambda *_: True)


@pytest.mark.parametrize("breaking", [_ignore_ends, _trust_copies])
def test_checks_find_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch, breaking: Callable[[pytest.MonkeyPatch], None]
) -> None:
    breaking(monkeypatch)
    with pytest.raises(AssertionError, match="without a right"):
        _run_seeds(60)


def _run_seeds(count: int) -> None:
    for seed in range(count):
        run_virtually(run_seed(seed))


async def _console_of(replica: Replica, requests: RequestReplica) -> None:
    """Let a replica of live consoles decide by the access requests of another."""
    for part in (replica.rights, replica.rights._decide):
        part._policies = requests.policies  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["time", "end", "rule", "ends unknown"])
def test_live_console_ends_within_a_second_of_its_grant(how: str) -> None:
    async def main() -> None:
        world = ConsoleWorld()
        requests = RequestWorld(world.clock)
        requests.policy = a_request_policy(_RULE)
        here, there = requests.replica(), requests.replica()
        running = [asyncio.create_task(one.active.run()) for one in (here, there)]
        replica = Replica(world)
        await _console_of(replica, here)
        ann = person("ann", "staff")
        made = await there.make(ann, duration_s=60.0)
        await there.approve(made, _LEADS[0])
        await world.clock.sleep(_WITHIN_S)
        replica.start()
        target = ConsoleTarget(ACCOUNT, PROJECT, SERVER)
        permit = replica.rights.greatest(ann, target)
        assert permit.permit.rule.location == f"request:{made.id}"
        if how == "time":
            await world.clock.sleep(60.0 - 1.2)
            assert replica.rights.greatest(ann, target)
        elif how == "end":
            await there.requests.end(made.id, ann, there.context(), "")
        elif how == "rule":
            requests.policy = a_request_policy()
        else:
            requests.ends.is_loaded = False
        await world.clock.sleep(_WITHIN_S)
        with pytest.raises(GatewayError):
            replica.rights.greatest(ann, target)
        for task in running:
            task.cancel()
        await replica.stop()

    run_virtually(main())
