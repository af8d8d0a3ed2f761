"""The refresh of a session's tokens at the provider: once over all replicas.

It asks the provider again whether the person may log in, and for the groups.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from gateway.domain.errors import LoginFailed, LoginRequired, LoginUnavailable
from gateway.domain.login import model
from gateway.domain.login.model import BrowserSession
from gateway.flow.clock import Clock
from gateway.flow.login.id_tokens import IdTokens, LoginIssuer
from gateway.flow.login.login_store import LoginStore
from gateway.flow.login.login_telemetry import LoginTelemetry
from gateway.flow.shielded_tasks import ShieldedTasks

_RETRY_AFTER_S: Final = 2.0
_LEASE_S: Final = 10.0
_TOLERANCE_S: Final = 120.0
"""How long a session goes on while the provider does not answer."""
_WAIT_S: Final = 0.1


class SessionRefresh:
    def __init__(
        self,
        store: LoginStore,
        issuers: Mapping[str, LoginIssuer],
        id_tokens: IdTokens,
        telemetry: LoginTelemetry,
        clock: Clock,
    ) -> None:
        """`issuers`: by name."""
        self._store = store
        self._issuers = issuers
        self._id_tokens = id_tokens
        self._telemetry = telemetry
        self._clock = clock
        self._refreshes = ShieldedTasks()

    async def refreshed(self, session: BrowserSession, deadline: float) -> BrowserSession:
        """Return a session whose refresh is due with new tokens.

        Raises LoginFailed if the provider ends the login, LoginRequired if the session has ended
        meanwhile, LoginUnavailable after the tolerance, and StoreUnavailable. While another replica
        refreshes, and while the provider does not answer, the session goes on as it is.
        """
        limit = session.refresh_at + _TOLERANCE_S
        while True:
            session, is_current = await self._try(session)
            if is_current or self._clock.now() < limit:
                return session
            if self._clock.monotonic() + _WAIT_S >= deadline:
                raise LoginUnavailable(
                    "the session's tokens cannot be refreshed", retry_after_s=_RETRY_AFTER_S
                )
            await self._clock.sleep(_WAIT_S)

    async def _try(self, session: BrowserSession) -> tuple[BrowserSession, bool]:
        """Return the session as it is now, and whether its tokens are current."""
        has_lease = await self._store.lease_refresh(session.id, lease_s=_LEASE_S)
        # Another replica may have refreshed it before the lease.
        found = await self._store.find_session(session.id, is_activity=False)
        if found is None:
            raise LoginRequired("the session has ended")
        if self._clock.now() < found.refresh_at:
            return found, True
        if not has_lease:
            return found, False
        # A browser that disconnects must not lose the new refresh token.
        try:
            return await self._refreshes.run(self._refresh(found)), True
        except LoginFailed as rejected:
            if rejected.problem is not model.PROVIDER_UNAVAILABLE:
                raise
            self._telemetry.refresh_failed(session.person.issuer, str(rejected))
            return found, False

    async def _refresh(self, session: BrowserSession) -> BrowserSession:
        issuer = self._issuers[session.person.issuer]
        tokens = await issuer.provider.refresh(session.refresh_token)
        if not tokens.refresh_token:  # the old one stays good (RFC 6749, 6)
            tokens = replace(tokens, refresh_token=session.refresh_token)
        person = session.person
        if tokens.id_token:
            facts = await self._id_tokens.check(issuer, tokens, nonce=None)
            if (facts.provider_subject, facts.person.key) != (
                session.provider_subject,
                person.key,
            ):
                # OIDC Core 1.0, 12.2: `sub` must stay the same.
                raise LoginFailed(model.TOKEN_REJECTED, "the refreshed token is another person's")
            # The times stay those of the login, which limit the session.
            person = replace(facts.person, issued_at=person.issued_at, expires_at=person.expires_at)
        changed = replace(
            session,
            person=person,
            refresh_token=tokens.refresh_token,
            refresh_at=self._id_tokens.refresh_at(tokens),
        )
        if not await self._store.replace_session(changed):
            # The logout has revoked the token before, if at all.
            with suppress(LoginFailed):
                await issuer.provider.revoke(changed.refresh_token)
            raise LoginRequired("the session has ended")
        return changed
