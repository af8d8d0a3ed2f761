"""Re-evaluates the sessions of a process whenever a decision may have changed (invariant 11)."""

import math
from typing import Final

from gateway.domain.model import ProjectId
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_rights import ConsoleRights
from gateway.flow.consoles.live_session import LiveSession
from gateway.flow.consoles.live_sessions import LiveSessions

_TICK_S: Final = 0.2
"""Short of the second that invariant 11 allows; also finds a clock that was stepped."""


class SessionWatch:
    def __init__(self, sessions: LiveSessions, rights: ConsoleRights, clock: Clock) -> None:
        self._sessions = sessions
        self._rights = rights
        self._clock = clock
        self._version: object = None
        self._unchanged = (math.inf, math.inf)
        """The time in which no rule begins or ends."""
        self._inventories: dict[ProjectId, object] = {}
        self._changed: list[LiveSession] = []

    @property
    def on_old_inventory(self) -> int:
        """How many sessions run on an inventory that is too old to open a new one."""
        connections = self._sessions.connections.values()
        return sum(one.needs_old_inventory for one in connections)

    async def run(self) -> None:
        """Check the sessions, forever."""
        while True:
            await self.check()
            await self._clock.sleep(_TICK_S)

    async def check(self) -> None:
        """Re-evaluate if anything changed; end sessions whose time is over."""
        if self._is_changed():
            self.reevaluate()
        now, monotonic = self._clock.now(), self._clock.monotonic()
        for connection in list(self._sessions.connections.values()):
            connection.tick(now, monotonic)
        changed, self._changed = self._changed, []
        for connection in changed:
            await self._sessions.mode_changed(connection)

    def reevaluate(self) -> None:
        """Decide on every session again, at once: call it after a change of policy or overrides."""
        self._version = self._rights.version
        self._unchanged = self._rights.unchanged_between()
        connections = list(self._sessions.connections.values())
        projects = {one.session.target.project for one in connections}
        self._inventories = {one: self._rights.inventory_state(one) for one in projects}
        self._changed += [one for one in connections if self._sessions.judge(one)]

    def _is_changed(self) -> bool:
        begins, ends = self._unchanged
        if not begins <= self._clock.now() < ends or self._rights.version != self._version:
            return True
        return self._rights.uses_inventories and any(
            self._inventories.get(project) != self._rights.inventory_state(project)
            for project in {
                one.session.target.project for one in self._sessions.connections.values()
            }
        )
