"""Moves the sessions of a stopping process to others, which their pages find by themselves."""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.domain.consoles import ends
from gateway.flow.clock import Clock
from gateway.flow.consoles.live_session import LiveSession
from gateway.flow.consoles.live_sessions import LiveSessions

_LOOK_AGAIN_S: Final = 0.25
_FINISHED_WITHIN_S: Final = 5.0


class SessionDrain:
    def __init__(
        self,
        sessions: LiveSessions,
        spare_interval_s: Callable[[str], float | None],
        clock: Clock,
    ) -> None:
        """`spare_interval_s`: the time between two links of an account; None: calls wait for it."""
        self._sessions = sessions
        self._spare_interval_s = spare_interval_s
        self._clock = clock

    async def keep(self, *, for_s: float, unless: asyncio.Event) -> None:
        """Wait for the end of the sessions, for `for_s` at most; return once `unless` is set."""
        until = self._clock.monotonic() + for_s
        while self._sessions.connections and self._clock.monotonic() < until:
            if unless.is_set():
                return
            await self._clock.sleep(_LOOK_AGAIN_S)

    async def run(self, *, within_s: float) -> None:
        """Move all sessions, no faster than there are links that no call waits for.

        After `within_s` the rest is moved at once.
        """
        self._sessions.is_draining = True
        deadline = self._clock.monotonic() + within_s
        connections = self._sessions.connections.values()
        accounts = {one.session.target.account for one in connections}
        async with asyncio.TaskGroup() as group:
            for account in accounts:
                _ = group.create_task(self._move_all(account, deadline))
        for connection in list(self._sessions.connections.values()):
            connection.end(ends.MOVE)
        until = self._clock.monotonic() + _FINISHED_WITHIN_S
        while self._sessions.connections and self._clock.monotonic() < until:
            await self._clock.sleep(_LOOK_AGAIN_S)

    async def _move_all(self, account: str, deadline: float) -> None:
        moved: set[int] = set()
        while self._clock.monotonic() < deadline:
            left = [one for one in self._of(account) if id(one) not in moved]
            if not left:
                return
            interval_s = self._spare_interval_s(account)
            if interval_s is not None:
                moved.add(id(left[0]))
                left[0].end(ends.MOVE)
            left_s = deadline - self._clock.monotonic()
            await self._clock.sleep(min(interval_s or _LOOK_AGAIN_S, left_s))

    def _of(self, account: str) -> list[LiveSession]:
        connections = self._sessions.connections.values()
        return [one for one in connections if one.session.target.account == account]
