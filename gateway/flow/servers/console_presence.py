"""The people on the consoles of servers, read from the store of live consoles on demand."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles.model import PersonRef, SessionMode
from gateway.domain.model import ProjectId, ServerId
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_store import SessionListing

PRESENCE_AGE_MAX_S: Final = 5.0
"""All requests within this time share one reading."""


@dataclass(frozen=True, slots=True)
class ConsoleUser:
    """A person with a server's console open."""

    server: ServerId
    person: PersonRef
    mode: SessionMode
    since: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Presence:
    users: Mapping[ProjectId, tuple[ConsoleUser, ...]]
    """By project, the longest session first."""
    is_complete: bool
    """False: without Redis, sessions of other processes are missing."""


_NOT_READ: Final = Presence({}, is_complete=False)


class ConsolePresence:
    def __init__(self, listing: Callable[[], Awaitable[SessionListing]], clock: Clock) -> None:
        self._listing = listing
        self._clock = clock
        self._presence = _NOT_READ
        self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def current(self) -> Presence:
        """Return a reading at most PRESENCE_AGE_MAX_S old: the same object while it is equal."""
        async with self._reading:
            began = self._clock.monotonic()
            if began - self._read_at >= PRESENCE_AGE_MAX_S:
                found = _presence(await self._listing())
                if found != self._presence:
                    self._presence = found
                self._read_at = began
            return self._presence


def _presence(listing: SessionListing) -> Presence:
    users: dict[ProjectId, list[ConsoleUser]] = {}
    for one in listing.sessions:
        session = one.session
        user = ConsoleUser(
            session.target.server,
            PersonRef.of(session.person),
            session.mode,
            session.started_at,
        )
        users.setdefault(session.target.project, []).append(user)
    found = {project: tuple(some) for project, some in users.items()}
    return Presence(found, is_complete=listing.is_complete)
