"""The power state of single servers, read soon after a person changed it through the gateway.

The list of all servers is read every minute or more seldom. A server whose power a person has
changed is therefore read by itself a few times, from spare budget. Replicas share the readings.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.domain.errors import GatewayError, StoreUnavailable
from gateway.domain.model import (
    BudgetClass,
    Priority,
    ProjectId,
    QueueRequest,
    ServerId,
    UpstreamRequest,
)
from gateway.domain.policy.inventory import parse_servers
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange

READ_AFTER_S: Final = (3.0, 15.0, 60.0)
"""When a server is read: the cloud changes the power asynchronously."""
READINGS_AGE_MAX_S: Final = 3_600.0
"""By then a list has been read, or the account has a problem that its age shows."""
_SPARE: Final = QueueRequest("", priority=Priority.SPARE)
_CHECK_EVERY_S: Final = 0.5
_TIMEOUT_S: Final = 10.0
_SHARED_EVERY_S: Final = 2.0
_WAITING_MAX: Final = 500
"""Servers that wait for a reading; above this number, the next list has to do."""


PowerChanged = Callable[[ProjectId, Sequence[ServerId]], None]
"""Notes that a person has changed the power of servers, or has tried to."""


def no_power_readings(project: ProjectId, servers: Sequence[ServerId]) -> None:
    """Ignore the change (a `PowerChanged`), where people do not list their servers."""


@dataclass(frozen=True, slots=True)
class PowerReading:
    project: ProjectId
    server: ServerId
    power: str
    """`power_state` of the cloud; "" is unknown."""
    health: str
    """`health_state` of the cloud."""
    read_at: float
    """Seconds since the epoch, before the call."""


class ReadingStore(Protocol):
    """Readings shared by all replicas. Every method raises StoreUnavailable."""

    async def add(self, reading: PowerReading) -> None:
        """Replace the reading of a server."""

    async def readings(self) -> tuple[PowerReading, ...]:
        """Return the readings of at least READINGS_AGE_MAX_S, and perhaps older ones."""


Readings = Mapping[ProjectId, tuple[PowerReading, ...]]


class PowerReadings:
    def __init__(
        self, exchanges: Mapping[ProjectId, Exchange], store: ReadingStore, clock: Clock
    ) -> None:
        self._exchanges = exchanges
        self._store = store
        self._clock = clock
        self._due: dict[tuple[ProjectId, ServerId], list[float]] = {}
        """When each server is read, in monotonic seconds."""
        self._own: dict[tuple[ProjectId, ServerId], PowerReading] = {}
        self._shared: tuple[PowerReading, ...] = ()
        self._shared_at = -math.inf
        self._reading = asyncio.Lock()
        self._readings: Readings = {}

    def power_changed(self, project: ProjectId, servers: Sequence[ServerId]) -> None:
        """Read these servers soon (a `PowerChanged`)."""
        now = self._clock.monotonic()
        for server in servers:
            if (project, server) in self._due or len(self._due) < _WAITING_MAX:
                self._due[project, server] = [now + after for after in READ_AFTER_S]

    async def run(self) -> None:
        """Read the servers that are due, until cancelled."""
        while True:
            await self._clock.sleep(_CHECK_EVERY_S)
            async with asyncio.TaskGroup() as reading:
                for key in self._take_due():
                    reading.create_task(self._read(*key))

    async def current(self) -> Readings:
        """Return the newest reading of each server: the same object while it is equal."""
        async with self._reading:
            if self._clock.monotonic() - self._shared_at >= _SHARED_EVERY_S:
                with suppress(StoreUnavailable):  # this process's own, and what it knew
                    self._shared = await self._store.readings()
                self._shared_at = self._clock.monotonic()
                found = self._newest()
                if found != self._readings:
                    self._readings = found
            return self._readings

    def _newest(self) -> Readings:
        too_old = self._clock.now() - READINGS_AGE_MAX_S
        newest: dict[tuple[ProjectId, ServerId], PowerReading] = {}
        for one in sorted((*self._shared, *self._own.values()), key=lambda one: one.read_at):
            if one.read_at > too_old:
                newest[one.project, one.server] = one
        self._own = {key: one for key, one in self._own.items() if one.read_at > too_old}
        found: dict[ProjectId, tuple[PowerReading, ...]] = {}
        for project, server in sorted(newest):
            found[project] = (*found.get(project, ()), newest[project, server])
        return found

    def _take_due(self) -> Sequence[tuple[ProjectId, ServerId]]:
        now, due = self._clock.monotonic(), []
        for key, times in list(self._due.items()):
            if times[0] <= now:
                due.append(key)
                self._due[key] = [one for one in times if one > now]
                if not self._due[key]:
                    del self._due[key]
        return due

    async def _read(self, project: ProjectId, server: ServerId) -> None:
        with suppress(GatewayError):  # a later reading, or the next list, has it
            await self._read_now(project, server)

    async def _read_now(self, project: ProjectId, server: ServerId) -> None:
        read_at = self._clock.now()
        response = await self._exchanges[project].call(
            UpstreamRequest("GET", f"/v1/{project}/physicalservers/{server}"),
            project=project,
            queue_request=_SPARE,
            budget=BudgetClass.CONSOLE,
            deadline=self._clock.monotonic() + _TIMEOUT_S,
        )
        known = parse_servers([response.body]).get(server)
        if known is None:
            return
        reading = PowerReading(project, server, known.power, known.health, read_at)
        self._own[project, server] = reading
        self._shared_at = -math.inf
        await self._store.add(reading)
