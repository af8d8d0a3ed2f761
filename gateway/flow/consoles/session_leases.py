"""Keeps this process's sessions in the store, and executes what others command."""

from contextlib import suppress
from typing import Final

from gateway.domain.consoles import ends
from gateway.domain.errors import StoreUnavailable
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_store import (
    COMMANDS_EVERY_S,
    LEASE_S,
    RENEW_EVERY_S,
    ConsoleStore,
)
from gateway.flow.consoles.live_sessions import LiveSessions

_CLAIM_EVERY_S: Final = 5.0
_INPUT_EVERY_S: Final = 60.0
"""How old a stored time of input becomes while a person types: what a killed process loses."""


class SessionLeases:
    def __init__(self, sessions: LiveSessions, store: ConsoleStore, clock: Clock) -> None:
        self._sessions = sessions
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        """Take commands, renew leases and claim dead sessions, until cancelled."""
        renew_at = claim_at = self._clock.monotonic()
        while True:
            with suppress(StoreUnavailable):
                if self._sessions.connections:
                    await self.take_commands()
                if self._clock.monotonic() >= renew_at:
                    renew_at = self._clock.monotonic() + RENEW_EVERY_S
                    await self.renew()
                if self._clock.monotonic() >= claim_at:
                    claim_at = self._clock.monotonic() + _CLAIM_EVERY_S
                    await self.claim_dead()
            await self._clock.sleep(COMMANDS_EVERY_S)

    async def take_commands(self) -> None:
        for command in await self._store.take_commands(self._sessions.owner):
            await self._sessions.apply(command)

    async def renew(self) -> None:
        connections = dict(self._sessions.connections)
        renewed = await self._store.renew(
            self._sessions.owner, frozenset(connections), lease_s=LEASE_S
        )
        for session_id in renewed.lost:
            # Not a connection that was made while the store answered.
            if self._sessions.connections.get(session_id) is connections[session_id]:
                connections[session_id].end(ends.REPLACED)
        for command in renewed.commands:
            await self._sessions.apply(command)
        for connection in connections.values():
            if connection.note_input(older_s=_INPUT_EVERY_S):
                await self._sessions.save(connection)

    async def claim_dead(self) -> None:
        """Record the sessions that no process can go on with, each once over all replicas."""
        for dead in await self._store.claim_dead():
            await self._sessions.record_end(dead.session, ends.ENDS_BY_NAME[dead.end])
