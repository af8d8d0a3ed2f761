"""The ends of browser sessions by their time limits: recorded once over all replicas."""

from typing import Final

from gateway.domain.errors import StoreUnavailable
from gateway.flow.clock import Clock
from gateway.flow.login.login_audit import LoginAudit
from gateway.flow.login.login_store import LoginStore
from gateway.flow.login.login_telemetry import LoginTelemetry
from gateway.flow.login.token_revocations import TokenRevocations

_INTERVAL_S: Final = 5.0
_BATCH_MAX: Final = 100


class LoginLimits:
    """Takes sessions that have ended by a limit from the store.

    Live consoles go on: they have limits of their own.
    """

    def __init__(
        self,
        store: LoginStore,
        revocations: TokenRevocations,
        audit: LoginAudit,
        telemetry: LoginTelemetry,
        clock: Clock,
    ) -> None:
        self._store = store
        self._revocations = revocations
        self._audit = audit
        self._telemetry = telemetry
        self._clock = clock

    async def run(self) -> None:
        """Record ends until cancelled. While the store is unavailable they wait there."""
        while True:
            if await self._record_batch():
                await self._clock.sleep(_INTERVAL_S)

    async def _record_batch(self) -> bool:
        """Return whether no more sessions are due."""
        try:
            found = await self._store.end_lapsed(limit=_BATCH_MAX)
        except StoreUnavailable:
            return True
        for one in found.logins:
            self._telemetry.session_ended(one.limit)
            self._revocations.start(one.session)
            await self._audit.logged_out(one.session, one.limit, ended_at=one.ended_at)
        return found.is_last
