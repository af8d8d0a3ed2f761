"""The servers that a person may see or whose console they may open, over all accounts.

They are those of the newest inventories; the policy in force and the current inventory decide on
each. A long list is built in parts, one list at a time, so that other requests do not wait for it.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.model import (
    CONSOLE_OPEN,
    CONSOLE_VIEW,
    PERMISSIONS,
    SERVER_READ,
    Principal,
    ProjectId,
    ServerId,
)
from gateway.domain.policy.inventory import Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Scope
from gateway.flow.clock import Clock
from gateway.flow.decide import Inventories, Policies
from gateway.flow.identify import Identify

_SHOWING: Final = frozenset({SERVER_READ, CONSOLE_OPEN, CONSOLE_VIEW})
"""Each of these shows a server."""
_PART_SERVERS: Final = 100


@dataclass(frozen=True, slots=True)
class ListedProject:
    id: ProjectId
    name: str
    account: str
    region: str | None
    delivery: str
    """Of consoles: `direct` or `proxied`."""


@dataclass(frozen=True, slots=True)
class VisibleServer:
    id: ServerId
    known: Attributes
    permissions: tuple[str, ...]
    """What the person may do there."""

    @property
    def is_readable(self) -> bool:
        """Whether the person may read more of it than its name."""
        return SERVER_READ in self.permissions


@dataclass(frozen=True, slots=True)
class VisibleProject:
    """A project in which a grant that shows servers applies to the person."""

    project: ListedProject
    listed_at: float | None
    """When the cloud's list was read, in seconds since the epoch; None: not yet."""
    is_current: bool
    """Whether the list is recent enough for rules by attributes."""
    servers: Sequence[VisibleServer]


class VisibleServers:
    def __init__(
        self,
        projects: Iterable[ListedProject],
        *,
        policies: Policies,
        inventories: Inventories,
        identify: Identify,
        clock: Clock,
    ) -> None:
        self._projects = tuple(projects)
        self._policies = policies
        self._inventories = inventories
        self._identify = identify
        self._clock = clock
        self._turn = asyncio.Lock()

    async def of(self, person: Principal, *, deadline: float) -> Sequence[VisibleProject]:
        """Return what the person may see at the end of this call.

        Raises NotAuthenticated if the token ends meanwhile, and DeadlineExceeded.
        """
        try:
            async with asyncio.timeout(deadline - self._clock.monotonic()), self._turn:
                while True:
                    policy, now = self._policies.current(), self._clock.now()
                    found = [one async for one in self._read(person, policy, now)]
                    self._identify.check(person)
                    _, ends = policy.unchanged_between(now)
                    if self._policies.current() is policy and self._clock.now() < ends:
                        return found
        except TimeoutError:
            raise DeadlineExceeded("listing the visible servers") from None

    async def _read(
        self, person: Principal, policy: Policy, now: float
    ) -> AsyncIterator[VisibleProject]:
        for project in self._projects:
            await asyncio.sleep(0)
            deciding = self._inventories.current(project.id)
            newest = self._inventories.last_known(project.id)
            scopes = {
                permission: scope
                for permission in sorted(PERMISSIONS)
                if (scope := policy.scope(person, permission, project.id, now, deciding)).rule
            }
            if _SHOWING.isdisjoint(scopes):
                continue
            yield VisibleProject(
                project,
                newest.taken_at if math.isfinite(newest.taken_at) else None,
                now < deciding.good_until,
                [one async for one in _servers(scopes, newest, now)],
            )


async def _servers(
    scopes: Mapping[str, Scope], inventory: Inventory, now: float
) -> AsyncIterator[VisibleServer]:
    """Yield the servers that one of the scopes shows; give way to other requests at times."""
    showing = [scope for permission, scope in scopes.items() if permission in _SHOWING]
    candidates = _candidates(showing, inventory)
    while part := list(islice(candidates, _PART_SERVERS)):
        for server in part:
            if not any(scope.allows(server) for scope in showing):
                continue
            known = inventory.attributes(server, now)
            if known is not None:
                allowed = tuple(name for name, scope in scopes.items() if scope.allows(server))
                yield VisibleServer(server, known, allowed)
        await asyncio.sleep(0)


def _candidates(showing: Sequence[Scope], inventory: Inventory) -> Iterator[ServerId]:
    found: set[ServerId] = set()
    for scope in showing:
        some = scope.candidates
        if some is None:
            return iter(inventory)
        found |= some
    return iter(sorted(found))
