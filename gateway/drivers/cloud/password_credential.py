"""Implements the port `ServiceCredential` with a service token from a password login."""

from collections.abc import Callable

from gateway.config.accounts import PasswordLogin
from gateway.domain.errors import GatewayError, ServiceLoginFailed
from gateway.domain.model import Headers, LinkSource, UpstreamRequest
from gateway.drivers.cloud.iam_login import LOGIN_TOTAL_TIMEOUT_S, IamLogin
from gateway.drivers.cloud.service_token import (
    ServiceToken,
    expiry_margin_s,
    parse_shared_token,
)
from gateway.flow.clock import Clock
from gateway.flow.single_flight import SingleFlight
from gateway.flow.telemetry import Telemetry

_COOLDOWN_S_MIN, _COOLDOWN_S_MAX = 30.0, 1_800.0
"""A token that is rejected so soon after a renewal is not the cause (upstream-api.md#7.3)."""
_RENEWAL_CHECK_S_MIN, _RENEWAL_CHECK_S_MAX = 0.1, 60.0
"""A shorter sleep might not advance the wall clock."""
_RETRY_S = 5.0


class PasswordCredential:
    """The X-Auth-Token of one project, shared by all replicas and renewed before it expires."""

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        account: str,
        project: str,
        login: PasswordLogin,
        *,
        iam: IamLogin,
        shared: SingleFlight,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
    ) -> None:
        self._account = account
        self._project = project
        self._login = login
        self._iam = iam
        self._shared = shared
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._token: ServiceToken | None = None
        self._lifetime_s = 0.0
        self._rejected: ServiceToken | None = None
        """The token that the cloud rejected, while a newer one is awaited."""
        self._is_dead = False
        """The cloud said that `_rejected` is invalid; otherwise its 401 may have another cause."""
        self._renewed_at = float("-inf")
        self._cooldown_s = _COOLDOWN_S_MIN
        self._was_accepted = True
        """The cloud has accepted the token of the last renewal."""
        telemetry.service_login_refused(account, project, refused=False)
        telemetry.service_credential_expires(account, project, 0.0)

    async def log_in(self, *, deadline: float) -> str:
        """Get a token and name its source. Raises ServiceLoginFailed, DeadlineExceeded."""
        _, source = await self._obtain(deadline, unusable=None)
        if source is LinkSource.UPSTREAM:
            return f"{self._login.iam_endpoint} issued a token"
        return f"token found in Redis; {self._login.iam_endpoint} not called"

    async def headers(self, request: UpstreamRequest, *, deadline: float) -> Headers:
        del request  # a token is the same for every request
        token = self._token
        if token is None or self._expires_too_soon(token):
            token, _ = await self._obtain(deadline, unusable=token)
        elif token is self._rejected:
            token = await self._replacement(token, deadline)
        return _headers(token)

    async def renew(self, refused: Headers, *, is_certain: bool, deadline: float) -> bool:
        token = self._token
        if token is not None and refused != _headers(token):
            return True  # another request renewed it
        if token is not None and token is not self._rejected:
            if self._clock.monotonic() - self._renewed_at < self._cooldown_s:
                return False
            self._rejected, self._is_dead = token, is_certain
        self._is_dead |= is_certain
        await self._obtain(deadline, unusable=token)
        return True

    @property
    def is_ready(self) -> bool:
        token = self._token
        return not (token is None or token is self._rejected or self._expires_too_soon(token))

    def report(self, sent: Headers, *, accepted: bool) -> None:
        token = self._token
        if accepted and not self._was_accepted and token is not None:
            self._was_accepted = sent == _headers(token)

    async def run(self) -> None:
        """Renew the token before it expires, until cancelled; the old token serves until then."""
        while True:
            token = self._token
            wait_s = (
                0.0
                if token is None
                else self._remaining_s(token)
                - self._renew_before_s() * (1.0 + 0.1 * self._jitter())
            )
            if wait_s > 0:
                await self._clock.sleep(
                    min(max(wait_s, _RENEWAL_CHECK_S_MIN), _RENEWAL_CHECK_S_MAX)
                )
                continue
            try:
                deadline = self._clock.monotonic() + LOGIN_TOTAL_TIMEOUT_S
                await self._obtain(deadline, unusable=token)
            except GatewayError as error:
                pause_s = error.retry_after_s if isinstance(error, ServiceLoginFailed) else _RETRY_S
                await self._clock.sleep(max(1.0, pause_s))

    async def _replacement(self, token: ServiceToken, deadline: float) -> ServiceToken:
        """Wait for the renewal; if it fails, return a token whose 401 may have another cause."""
        try:
            renewed, _ = await self._obtain(deadline, unusable=token)
        except ServiceLoginFailed:
            if self._is_dead:
                raise
            self._rejected = None
            return token
        return renewed

    async def _obtain(
        self, deadline: float, *, unusable: ServiceToken | None
    ) -> tuple[ServiceToken, LinkSource]:
        self._iam.raise_if_backing_off()
        found = await self._shared.obtain(
            f"token:{self._account}:{self._project}:{self._iam.fingerprint}",
            self._iam.fetch_token,
            deadline=deadline,
            unusable=unusable.shared_form if unusable is not None else None,
            # IAM may count an abandoned login as a failure, so a login is never abandoned.
            run_to_completion=True,
        )
        token = parse_shared_token(found.value)
        if token is None:
            raise ServiceLoginFailed("the shared token is invalid", retry_after_s=_RETRY_S)
        self._accept(token)
        self._iam.reset_backoff()
        self._telemetry.service_login_refused(self._account, self._project, refused=False)
        self._telemetry.service_credential_expires(self._account, self._project, token.expires_at)
        return token, found.source

    def _accept(self, token: ServiceToken) -> None:
        if self._rejected is not None and token.shared_form != self._rejected.shared_form:
            # Without this, a cause that no login removes would cost a login every 30 s.
            was_accepted, self._was_accepted = self._was_accepted, False
            longer_s = min(2 * self._cooldown_s, _COOLDOWN_S_MAX)
            self._cooldown_s = _COOLDOWN_S_MIN if was_accepted else longer_s
            self._renewed_at = self._clock.monotonic()
            self._rejected, self._is_dead = None, False
        self._token, self._lifetime_s = token, self._remaining_s(token)

    def _expires_too_soon(self, token: ServiceToken) -> bool:
        return self._remaining_s(token) < expiry_margin_s(self._lifetime_s)

    def _remaining_s(self, token: ServiceToken) -> float:
        return token.expires_at - self._clock.now()

    def _renew_before_s(self) -> float:
        # Without the second bound, a token with a short lifetime would be renewed continuously.
        return min(self._login.renew_before_s, self._lifetime_s / 2)


def _headers(token: ServiceToken) -> Headers:
    return (("X-Auth-Token", token.secret.reveal()),)
