"""Re-evaluates the sessions of a process whenever a decision may have changed (invariant 11)."""

import asyncio
from typing import Final

from gateway.domain.model import ProjectId
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_rights import ConsoleRights
from gateway.flow.consoles.live_session import LiveSession
from gateway.flow.consoles.live_sessions import LiveSessions

_TICK_S: Final = 0.2
"""Short of the second that invariant 11 allows; also finds a clock that was stepped."""
_SLICE_S: Final = 0.002
"""How long decisions may hold the event loop. Two thousand take 0.1 s together."""


class SessionWatch:
    def __init__(self, sessions: LiveSessions, rights: ConsoleRights, clock: Clock) -> None:
        self._sessions = sessions
        self._rights = rights
        self._clock = clock
        self._version: object = None
        self._inventories: dict[ProjectId, object] = {}
        self._changed: asyncio.Queue[LiveSession] = asyncio.Queue()
        """Sessions whose mode has changed, to be stored and recorded."""
        self._woken = asyncio.Event()
        self._checking = asyncio.Lock()

    @property
    def on_old_inventory(self) -> int:
        """How many sessions run on an inventory that is too old to open a new one."""
        connections = self._sessions.connections.values()
        return sum(one.needs_old_inventory for one in connections)

    async def run(self) -> None:
        """Check the sessions, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._check_at_intervals())
            loops.create_task(self._check_when_woken())
            loops.create_task(self._save_modes())

    def wake(self) -> None:
        """Check soon: call it after a change of overrides."""
        self._woken.set()

    async def _check_at_intervals(self) -> None:
        while True:
            await self._check()
            await self._clock.sleep(_TICK_S)

    async def _check_when_woken(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self._check()

    async def _save_modes(self) -> None:
        while True:
            await self._sessions.mode_changed(await self._changed.get())

    async def _check(self) -> None:
        """Re-evaluate if anything changed; end sessions whose time is over."""
        async with self._checking:
            if self._is_changed():
                await self._reevaluate()
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for connection in list(self._sessions.connections.values()):
            connection.tick(now, monotonic)

    async def _reevaluate(self) -> None:
        """Decide on every session again, with a turn of the event loop after each slice.

        A change meanwhile leaves another version, so the next check decides on all of them again.
        A session that is attached meanwhile was decided on by its attach.
        """
        self._version = self._rights.version
        current = self._sessions.connections
        connections = list(current.values())
        projects = {one.session.target.project for one in connections}
        self._inventories = {one: self._rights.inventory_state(one) for one in projects}
        slice_ends_at = self._clock.monotonic() + _SLICE_S
        for connection in connections:
            if current.get(connection.session.id) is not connection:
                continue  # it has ended, or a newer connection of the page has replaced it
            if self._sessions.judge(connection):
                self._changed.put_nowait(connection)
            if self._clock.monotonic() >= slice_ends_at:
                await asyncio.sleep(0)
                slice_ends_at = self._clock.monotonic() + _SLICE_S

    def _is_changed(self) -> bool:
        if self._rights.version != self._version:
            return True
        return self._rights.uses_inventories and any(
            self._inventories.get(project) != self._rights.inventory_state(project)
            for project in {
                one.session.target.project for one in self._sessions.connections.values()
            }
        )
