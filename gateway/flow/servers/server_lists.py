"""The lists of visible servers, each encoded once for all people with the same rights.

A list is built again when the policy, a lock, an access request or the content of an inventory
changes, or when a rule begins or ends. Until then, a request costs a comparison.
"""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from gateway.domain.errors import DeadlineExceeded
from gateway.domain.model import CONSOLE_VIEW, SERVER_READ, Principal, ProjectId
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.servers.encoded_body import EncodedBody, encode_body
from gateway.flow.servers.visible_servers import (
    ListedProject,
    ListVersion,
    Moment,
    ProjectRights,
    VisibleServers,
    encoded_list,
    rights_at,
)

_BYTES_MAX: Final = 32 * 1024 * 1024
_LISTS_MAX: Final = 1_000
_PEOPLE_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class ServerList:
    """The visible servers of people with the same rights."""

    body: EncodedBody
    projects: tuple[ListedProject, ...]
    viewable: frozenset[ProjectId]
    """Projects in which a grant of `console:view` applies."""
    readable: frozenset[ProjectId]
    """The same of `server:read`."""


class ServerLists:
    def __init__(self, servers: VisibleServers, identify: Identify, clock: Clock) -> None:
        self._servers = servers
        self._identify = identify
        self._clock = clock
        self._turn = asyncio.Lock()
        """One list at a time is built."""
        self._version: ListVersion | None = None
        self._people: OrderedDict[Hashable, weakref.ref[ServerList]] = OrderedDict()
        """The list of each person at this version. An old policy stays in memory no longer."""
        self._by_rights: weakref.WeakValueDictionary[Hashable, ServerList] = (
            weakref.WeakValueDictionary()
        )
        self._recent: OrderedDict[int, ServerList] = OrderedDict()
        """By `id`, the one used last at the end. Only these references keep a list."""
        self._bytes = 0

    async def of(self, person: Principal, *, deadline: float) -> ServerList:
        """Return what the person may see at the end of this call.

        Raises NotAuthenticated if the token ends during the call, and DeadlineExceeded.
        """
        found = self.current(person)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(deadline - self._clock.monotonic()), self._turn:
                while True:
                    moment = self._servers.moment()
                    found = self._find(person, moment.version)
                    if found is None:
                        found = await self._build(moment, person)
                    self._identify.check(person)
                    if self._servers.moment().version == moment.version:
                        self._remember(person, found)
                        return found
        except TimeoutError:
            raise DeadlineExceeded("listing the visible servers") from None

    def current(self, person: Principal) -> ServerList | None:
        """Return what the person may see now; None if that is not known yet."""
        return self._find(person, self._servers.moment().version)

    def _find(self, person: Principal, version: ListVersion) -> ServerList | None:
        if version != self._version:
            self._version = version
            self._people.clear()
        known = self._people.get(_key_of(person))
        found = None if known is None else known()
        if found is not None and id(found) in self._recent:
            self._recent.move_to_end(id(found))
        return found

    async def _build(self, moment: Moment, person: Principal) -> ServerList:
        rights = await rights_at(moment, person)
        key = tuple(one.key for one in rights)
        found = self._by_rights.get(key)
        if found is None:
            found = ServerList(
                await encode_body(encoded_list(moment, rights)),
                tuple(one.project for one in rights),
                _with_permission(rights, CONSOLE_VIEW),
                _with_permission(rights, SERVER_READ),
            )
            self._by_rights[key] = found
        return found

    def _remember(self, person: Principal, found: ServerList) -> None:
        self._people[_key_of(person)] = weakref.ref(found)
        self._people.move_to_end(_key_of(person))
        if len(self._people) > _PEOPLE_MAX:
            self._people.popitem(last=False)
        if id(found) not in self._recent:
            self._recent[id(found)] = found
            self._bytes += len(found.body.data)
        self._recent.move_to_end(id(found))
        while self._bytes > _BYTES_MAX or len(self._recent) > _LISTS_MAX:
            _, oldest = self._recent.popitem(last=False)
            self._bytes -= len(oldest.body.data)


def _key_of(person: Principal) -> Hashable:
    """Return what rules depend on."""
    return person.issuer, person.subject, person.groups


def _with_permission(rights: list[ProjectRights], permission: str) -> frozenset[ProjectId]:
    return frozenset(one.project.id for one in rights if permission in one.scopes)
