"""The servers that a person may see or whose console they may open, over all accounts.

They are those of the newest inventories; the policy in force and the current inventory decide on
each. A long list is encoded in parts: other requests do not wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from gateway.domain.model import (
    CONSOLE_OPEN,
    CONSOLE_VIEW,
    PERMISSIONS,
    SERVER_READ,
    Principal,
    ProjectId,
    ServerId,
)
from gateway.domain.policy.inventory import Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Scope
from gateway.flow.clock import Clock
from gateway.flow.decide import Inventories, Policies
from gateway.flow.servers.server_entries import (
    ProjectEntry,
    encode_project,
    encode_servers,
    server_entry,
)

_SHOWING: Final = frozenset({SERVER_READ, CONSOLE_OPEN, CONSOLE_VIEW})
"""Each of these shows a server."""
_PERMISSIONS: Final = sorted(PERMISSIONS)
_PART_SERVERS: Final = 100


@dataclass(frozen=True, slots=True)
class ListedProject:
    id: ProjectId
    name: str
    account: str
    region: str | None
    delivery: str
    """Of consoles: `direct` or `proxied`."""


class ListVersion(NamedTuple):
    """While it stays the same, so does every list."""

    policy: Policy
    unchanged: tuple[float, float]
    """The time in which no rule begins or ends."""
    contents: tuple[tuple[object, object], ...]
    """The content of each project's current and newest inventory; None: the current one expired."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The inputs of every list at one instant."""

    now: float
    version: ListVersion
    inventories: Sequence[tuple[ListedProject, Inventory, Inventory]]
    """Of each project: the inventory that decides, and the newest one."""


@dataclass(frozen=True, slots=True)
class ProjectRights:
    """A person's scopes in a project in which a grant shows them servers."""

    project: ListedProject
    scopes: Mapping[str, Scope]
    """By permission; only those that a grant gives."""
    newest: Inventory
    contents: tuple[object, object]
    """As in `ListVersion`."""

    @property
    def key(self) -> Hashable:
        """Equal where the same list results."""
        scopes = tuple((name, one.key) for name, one in self.scopes.items())
        return self.project.id, self.contents, scopes


class VisibleServers:
    def __init__(
        self,
        projects: Iterable[ListedProject],
        *,
        policies: Policies,
        inventories: Inventories,
        clock: Clock,
    ) -> None:
        self._projects = tuple(projects)
        self._policies = policies
        self._inventories = inventories
        self._clock = clock

    def moment(self) -> Moment:
        policy, now = self._policies.current(), self._clock.now()
        current, newest = self._inventories.current, self._inventories.last_known
        found = [(one, current(one.id), newest(one.id)) for one in self._projects]
        contents = tuple(
            (deciding.content if now < deciding.good_until else None, known.content)
            for _, deciding, known in found
        )
        version = ListVersion(policy, policy.unchanged_between(now), contents)
        return Moment(now, version, found)


async def rights_at(moment: Moment, person: Principal) -> list[ProjectRights]:
    """Return the projects of which the person may see servers."""
    policy, found = moment.version.policy, []
    for (project, deciding, newest), contents in zip(
        moment.inventories, moment.version.contents, strict=True
    ):
        scopes: dict[str, Scope] = {}
        for permission in _PERMISSIONS:
            scope = policy.scope(person, permission, project.id, moment.now, deciding)
            if scope.rule is not None:
                scopes[permission] = scope
            if len(scope.granted) + len(scope.denied) > _PART_SERVERS:
                await asyncio.sleep(0)
        if not _SHOWING.isdisjoint(scopes):
            found.append(ProjectRights(project, scopes, newest, contents))
        await asyncio.sleep(0)
    return found


async def encoded_list(moment: Moment, rights: Sequence[ProjectRights]) -> AsyncIterator[bytes]:
    """Yield the JSON of the visible servers; give way to other requests at times."""
    yield b'{"projects":['
    for number, one in enumerate(rights):
        project = one.project
        before, after = encode_project(
            ProjectEntry(
                project.id, project.name, project.account, project.region, project.delivery
            )
        )
        yield b"," + before if number else before
        separator = b""
        async for part in _encoded_servers(one, moment.now):
            yield separator + part
            separator = b","
        yield after
    yield b"]}"


async def _encoded_servers(rights: ProjectRights, now: float) -> AsyncIterator[bytes]:
    scopes, inventory = rights.scopes, rights.newest
    showing = [scope for permission, scope in scopes.items() if permission in _SHOWING]
    candidates = _candidates(showing, inventory)
    while part := list(islice(candidates, _PART_SERVERS)):
        entries = []
        for server in part:
            if not any(scope.allows(server) for scope in showing):
                continue
            known = inventory.attributes(server, now)
            if known is not None:
                allowed = [name for name, scope in scopes.items() if scope.allows(server)]
                entries.append(server_entry(server, known, allowed))
        if entries:
            yield encode_servers(entries)
        await asyncio.sleep(0)


def _candidates(showing: Sequence[Scope], inventory: Inventory) -> Iterator[ServerId]:
    found: set[ServerId] = set()
    for scope in showing:
        some = scope.candidates
        if some is None:
            return iter(inventory)
        found |= some
    return iter(sorted(found))
