"""Refresh tokens of sessions that have ended are revoked at the provider (RFC 7009).

In the background: the end of a session does not wait for the provider, and does not fail with it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from gateway.domain.errors import LoginFailed, StoreUnavailable
from gateway.domain.login.model import BrowserSession
from gateway.flow.login.id_tokens import LoginIssuer
from gateway.flow.login.login_store import LoginStore, SessionIndex
from gateway.flow.login.login_telemetry import LoginTelemetry
from gateway.flow.shielded_tasks import ShieldedTasks

REVOKE_S: Final = 2.0
"""How long the gateway waits for a provider that does not answer."""
_AT_ONCE_MAX: Final = 4
"""An operator may end many sessions at once, and the provider has limits."""
_WAITING_MAX: Final = 500


class TokenRevocations:
    def __init__(
        self,
        store: LoginStore,
        issuers: Mapping[str, LoginIssuer],
        telemetry: LoginTelemetry,
        *,
        timeout_s: float = REVOKE_S,
    ) -> None:
        """`issuers`: by name."""
        self._store = store
        self._issuers = issuers
        self._telemetry = telemetry
        self._timeout_s = timeout_s
        self._tasks = ShieldedTasks()
        self._turns = asyncio.Semaphore(_AT_ONCE_MAX)

    def start(self, session: BrowserSession) -> None:
        """Begin to revoke the token of a session that has ended, if it has one."""
        issuer = self._issuers.get(session.person.issuer)
        if issuer is None or not session.refresh_token:
            return
        if len(self._tasks) >= _WAITING_MAX:
            self._telemetry.provider_logout_failed(issuer.name, "too many revocations are waiting")
            return
        _ = self._tasks.start(self._revoke(issuer, session))

    async def close(self) -> None:
        """Give up the revocations that have not ended: those tokens last until they expire."""
        await self._tasks.cancel()

    async def _revoke(self, issuer: LoginIssuer, session: BrowserSession) -> None:
        async with self._turns:
            try:
                if await self._has_sibling(session):
                    return
                async with asyncio.timeout(self._timeout_s):
                    await issuer.provider.revoke(session.refresh_token)
            except (LoginFailed, StoreUnavailable, TimeoutError) as failed:
                reason = str(failed) or f"no answer within {self._timeout_s:g} s"
                self._telemetry.provider_logout_failed(issuer.name, reason)

    async def _has_sibling(self, session: BrowserSession) -> bool:
        """Return whether another session goes on with the same session at the provider.

        Providers may end all tokens that a session of theirs, or a person, has at this client with
        one of them. Without `sid` every session of the person counts.
        """
        index = SessionIndex(
            session.person.issuer, session.provider_session, session.provider_subject
        )
        return bool(await self._store.sessions(index))
