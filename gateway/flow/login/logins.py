"""Logins of browsers: the way to the provider, the way back, and logouts.

begin -> the provider -> complete -> a session
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.domain.consoles.ticket_text import secret_hash
from gateway.domain.errors import (
    LoginFailed,
    LoginUnavailable,
    NotAuthenticated,
    OperationUnknown,
    RevocationsUnavailable,
    StoreUnavailable,
)
from gateway.domain.login import model
from gateway.domain.login.model import ATTEMPT_LIFETIME_S, BrowserSession, LoginAttempt
from gateway.domain.login.tokens import LOGOUT_AGE_MAX_S, IdTokenFacts, login_problem
from gateway.domain.model import Secret
from gateway.flow.caller_credentials import ReplayCache
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.login.browser_sessions import BrowserSessions
from gateway.flow.login.id_tokens import IdTokens, LoginIssuer
from gateway.flow.login.login_audit import LoginAudit
from gateway.flow.login.login_store import LoginStore, SessionIndex
from gateway.flow.login.login_telemetry import LoginTelemetry
from gateway.flow.login.openid_provider import AuthorizationRequest, ProviderTokens
from gateway.flow.login.token_revocations import REVOKE_S
from gateway.flow.request import RequestContext
from gateway.flow.shielded_tasks import ShieldedTasks

_RETRY_AFTER_S: Final = 2.0
_RETRYABLE: Final = ("temporarily_unavailable", "server_error")


@dataclass(frozen=True, slots=True)
class LoginTimes:
    """`login` or `admin.login` of the config."""

    idle_s: float
    absolute_s: float
    fresh_s: float | None


@dataclass(frozen=True, slots=True)
class BegunLogin:
    url: str = field(repr=False)
    """Where the browser goes: an address of the provider."""
    attempt_id: str
    """Part of the name of the cookie."""
    cookie: Secret


@dataclass(frozen=True, slots=True)
class AuthorizationAnswer:
    """The query with which the provider sent the browser back; each member occurred once."""

    state: str = field(default="", repr=False)
    code: str = field(default="", repr=False)
    error: str = ""
    iss: str | None = None

    @property
    def attempt_id(self) -> str:
        return self.state.partition(".")[0]


@dataclass(frozen=True, slots=True)
class CompletedLogin:
    session: BrowserSession
    cookie: Secret
    return_path: str


class BrowserLogins:
    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        *,
        issuers: Mapping[str, LoginIssuer],
        times: LoginTimes,
        store: LoginStore,
        sessions: BrowserSessions,
        id_tokens: IdTokens,
        identify: Identify,
        replays: ReplayCache,
        audit: LoginAudit,
        telemetry: LoginTelemetry,
        new_token: Callable[[], str],
        new_attempt_id: Callable[[], str],
        clock: Clock,
    ) -> None:
        """`issuers`: by name. `new_token` returns 32 random bytes as text."""
        self.issuers = issuers
        self.times = times
        self._store = store
        self._sessions = sessions
        self._id_tokens = id_tokens
        self._identify = identify
        self._replays = replays
        self._audit = audit
        self._telemetry = telemetry
        self._new_token = new_token
        self._new_attempt_id = new_attempt_id
        self._clock = clock
        self._shielded = ShieldedTasks()

    async def begin(
        self, issuer: str, *, return_path: str, previous_cookie: str | None, fresh: bool
    ) -> BegunLogin:
        """Send a browser to the provider; raise LoginFailed, OperationUnknown.

        `fresh`: the person must authenticate now, if `login.fresh_s` is set.
        """
        provider = self._issuer(issuer).provider
        attempt_id, cookie = self._new_attempt_id(), self._new_token()
        state = f"{attempt_id}.{self._new_token()}"
        fresh_s = self.times.fresh_s if fresh else None
        attempt = LoginAttempt(
            issuer,
            nonce=self._new_token(),
            verifier=self._new_token(),
            return_path=return_path,
            previous="" if previous_cookie is None else secret_hash(previous_cookie).hex(),
            needs_fresh=fresh_s is not None,
        )
        try:
            max_age_s = None if fresh_s is None else int(fresh_s)
            url = await provider.authorization_url(
                AuthorizationRequest(state, attempt.nonce, attempt.verifier, max_age_s)
            )
            await self._add_attempt(_attempt_key(state, cookie), attempt)
        except LoginFailed as rejected:
            self._count(issuer, rejected)
            raise
        return BegunLogin(url, attempt_id, Secret(cookie))

    async def complete(
        self,
        issuer: str,
        answer: AuthorizationAnswer,
        *,
        cookie: str | None,
        context: RequestContext,
    ) -> CompletedLogin:
        """Return a new session for a browser that comes back from the provider.

        `cookie` is the one of the attempt. Raises LoginFailed, AuditLogUnavailable.
        """
        self._issuer(issuer)
        attempt = None
        try:
            attempt = await self._take_attempt(answer, cookie)
            return await self._complete(self._issuer(issuer), answer, attempt, context)
        except LoginFailed as rejected:
            self._count(issuer, rejected)
            if attempt is not None:  # otherwise anyone could fill the audit log
                reason, person = rejected.problem.name, context.principal
                await self._audit.login_rejected(issuer, reason, context, person)
            raise

    async def log_out(self, session: BrowserSession) -> str | None:
        """End a session, and revoke its refresh token if the provider answers.

        Returns the address that ends the session at the provider. Raises LoginUnavailable. A
        browser that leaves at once does not stop it.
        """
        return await self._shielded.run(self._log_out(session))

    async def log_out_by_provider(self, issuer: str, token: str) -> None:
        """End the sessions that a logout token names; raise LoginFailed, LoginUnavailable.

        A provider that does not wait for the answer does not stop it: the token is good once.
        """
        await self._shielded.run(self._log_out_by_provider(issuer, token))

    async def _log_out(self, session: BrowserSession) -> str | None:
        ended = await self._sessions.end(session.id, by="person")
        issuer = self.issuers.get(session.person.issuer)
        if issuer is None:
            return None
        url = None
        try:
            url = await issuer.provider.logout_url(session.id_token)
            if ended is not None and ended.refresh_token:
                async with asyncio.timeout(REVOKE_S):
                    await issuer.provider.revoke(ended.refresh_token)
        except (LoginFailed, TimeoutError) as failed:  # the session here has ended in any case
            reason = str(failed) or f"no answer within {REVOKE_S:g} s"
            self._telemetry.provider_logout_failed(issuer.name, reason)
        return url

    async def _log_out_by_provider(self, issuer: str, token: str) -> None:
        known = self._issuer(issuer)
        try:
            facts = await self._id_tokens.check_logout(known, token)
            key = f"logout token {issuer} {known.rules.client_id} {facts.token_id}"
            await self._use_once(key, known)
        except LoginFailed as rejected:
            self._telemetry.logout_token_rejected(issuer, str(rejected))
            raise
        index = SessionIndex(issuer, facts.provider_session, facts.provider_subject)
        try:
            await self._sessions.end_all(index, by="provider")
        except LoginUnavailable:
            await self._forget(key)  # the provider may send it again
            raise

    async def _complete(
        self,
        issuer: LoginIssuer,
        answer: AuthorizationAnswer,
        attempt: LoginAttempt,
        context: RequestContext,
    ) -> CompletedLogin:
        if attempt.issuer != issuer.name:
            raise LoginFailed(model.MIXED_UP, "the login was begun at another issuer")
        await issuer.provider.check_issuer(answer.iss)  # also in error responses
        if answer.error or not answer.code:
            is_fault = answer.error in _RETRYABLE
            problem = model.PROVIDER_UNAVAILABLE if is_fault else model.REFUSED
            raise LoginFailed(problem, "the provider answered with an error")
        tokens = await issuer.provider.redeem(answer.code, attempt.verifier)
        facts = await self._id_tokens.check(issuer, tokens, nonce=attempt.nonce)
        context.principal = facts.person
        self._check_fresh(facts, attempt, issuer)
        self._check_person(facts)
        cookie = self._new_token()
        session = self._new_session(cookie, facts, tokens, context.client_address)
        await self._audit.logged_in(session, context)
        session = await self._replace_previous(session, attempt.previous)
        await self._add_session(session)
        self._telemetry.logged_in(issuer.name)
        return CompletedLogin(session, Secret(cookie), attempt.return_path)

    def _check_fresh(self, facts: IdTokenFacts, attempt: LoginAttempt, issuer: LoginIssuer) -> None:
        fresh_s = self.times.fresh_s
        if not attempt.needs_fresh or fresh_s is None:
            return
        oldest = self._clock.now() - fresh_s - issuer.rules.token.leeway_s
        if facts.authenticated_at < oldest:
            raise LoginFailed(model.NOT_FRESH, "ID token: auth_time is missing or too old")

    def _check_person(self, facts: IdTokenFacts) -> None:
        try:
            self._identify.check(facts.person)
        except NotAuthenticated as refusal:
            raise LoginFailed(login_problem(refusal), str(refusal)) from None
        except RevocationsUnavailable as error:
            raise LoginFailed(model.STORE_UNAVAILABLE, str(error)) from None

    def _new_session(
        self, cookie: str, facts: IdTokenFacts, tokens: ProviderTokens, client_address: str
    ) -> BrowserSession:
        now = self._clock.now()
        person = replace(facts.person, expires_at=now + self.times.absolute_s)
        session_id = secret_hash(cookie).hex()
        return BrowserSession(
            id=session_id,
            lineage=session_id,
            person=person,
            provider_subject=facts.provider_subject,
            provider_session=facts.provider_session,
            csrf_token=self._new_token(),
            started_at=now,
            # 0 without `auth_time`: the provider may have used a session of days ago.
            authenticated_at=facts.authenticated_at,
            id_token=tokens.id_token,
            refresh_token=tokens.refresh_token,
            refresh_at=self._id_tokens.refresh_at(tokens),
            client_address=client_address,
        )

    async def _add_attempt(self, key: bytes, attempt: LoginAttempt) -> None:
        try:
            await self._store.add_attempt(key, attempt, lifetime_s=ATTEMPT_LIFETIME_S)
        except StoreUnavailable as error:
            raise LoginFailed(model.STORE_UNAVAILABLE, str(error)) from None

    async def _take_attempt(self, answer: AuthorizationAnswer, cookie: str | None) -> LoginAttempt:
        if not answer.state or cookie is None:
            raise LoginFailed(model.LOST, "no state, or not the browser that began the login")
        try:
            attempt = await self._store.take_attempt(_attempt_key(answer.state, cookie))
        except StoreUnavailable as error:
            raise LoginFailed(model.STORE_UNAVAILABLE, str(error)) from None
        if attempt is None:
            raise LoginFailed(model.LOST, "no such login: expired, used, or of another browser")
        return attempt

    async def _replace_previous(self, session: BrowserSession, previous_id: str) -> BrowserSession:
        """End the session that the browser had; the new one takes its consoles over.

        Those of another person end.
        """
        if not previous_id:
            return session
        try:
            previous = await self._store.end_session(previous_id)
        except StoreUnavailable as error:
            raise LoginFailed(model.STORE_UNAVAILABLE, str(error)) from None
        if previous is None:
            return session
        if previous.person.key == session.person.key:
            return replace(session, lineage=previous.lineage)
        await self._sessions.ended(previous, by="replaced")
        return session

    async def _add_session(self, session: BrowserSession) -> None:
        times = self.times
        try:
            lapsed = await self._store.add_session(
                session, lifetime_s=times.absolute_s, idle_s=times.idle_s
            )
        except StoreUnavailable as error:
            raise LoginFailed(model.STORE_UNAVAILABLE, str(error)) from None
        for one in lapsed:
            await self._sessions.ended(one, by="replaced")

    async def _use_once(self, key: str, issuer: LoginIssuer) -> None:
        ttl_s = 2 * (LOGOUT_AGE_MAX_S + issuer.rules.token.leeway_s)
        try:
            is_new = await self._replays.use(key, ttl_s=ttl_s)
        except StoreUnavailable as error:
            raise LoginUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from None
        if not is_new:
            raise LoginFailed(model.TOKEN_REJECTED, "logout token: used already")

    async def _forget(self, key: str) -> None:
        try:
            await self._replays.undo_use(key)
        except StoreUnavailable as error:
            self._telemetry.logout_token_lost(str(error))

    def _issuer(self, name: str) -> LoginIssuer:
        issuer = self.issuers.get(name)
        if issuer is None:
            raise OperationUnknown
        return issuer

    def _count(self, issuer: str, rejected: LoginFailed) -> None:
        self._telemetry.login_failed(issuer, rejected.problem.name, str(rejected))


def _attempt_key(state: str, cookie: str) -> bytes:
    """Return the key of an attempt: it is found only with the state and the browser's cookie."""
    return secret_hash(f"{state} {cookie}")
