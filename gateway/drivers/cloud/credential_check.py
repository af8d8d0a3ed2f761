"""One read that finds out whether the cloud accepts a credential, shared by all replicas.

A key pair and a token file need no login, so no login shows that they are wrong. The cloud locks
an access key after more than 5 bad signatures in a row (upstream-api.md#2.2).
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.domain.errors import ServiceLoginFailed
from gateway.domain.model import Headers, UpstreamRequest
from gateway.domain.upstream.login_ledger import LoginPause, LoginRejection, LoginSubject
from gateway.domain.upstream.verdicts import Misconfigured
from gateway.drivers.cloud.login_endpoint import LoginEndpoint, LoginResponse
from gateway.drivers.cloud.login_gate import LoginGate, LoginRejected
from gateway.flow.clock import Clock
from gateway.flow.single_flight import Fetched, SingleFlight
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.login")

_TOTAL_TIMEOUT_S = 60.0
_ACCEPTED, _ACCEPTED_S = b"accepted", 3_600.0
_AGAIN_AFTER_S = 5.0
"""A 401 so soon after an accepted read concerns the request, not the credential."""
_CLOCKS_DIFFER = "0303"

Authenticate = Callable[[UpstreamRequest], Awaitable[Headers]]


@dataclass(frozen=True, slots=True)
class CheckedAccount:
    """What a check belongs to, and how its rejections count."""

    name: str
    project: str
    """The project whose servers are read."""
    is_for_all_projects: bool
    """A rejection of the credential concerns every project of the account."""
    is_lockable: bool
    """The cloud locks a credential that is rejected too often."""
    pauses_s: tuple[float, ...]


class CredentialCheck:
    def __init__(
        self,
        account: CheckedAccount,
        *,
        endpoint: LoginEndpoint,
        gate: LoginGate,
        shared: SingleFlight,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._account = account
        self._endpoint = endpoint
        self._gate = gate
        self._shared = shared
        self._clock = clock
        self._telemetry = telemetry
        self._accepted = ""
        """Fingerprint of the credential that a read has shown to be valid."""
        self._accepted_at = float("-inf")
        self._rejected = ""
        """Fingerprint of the credential that the cloud has rejected since."""
        telemetry.service_login_refused(account.name, account.project, refused=False)

    def report_rejection(self, credential: str) -> None:
        """Note that the cloud answered a call with 401: the credential is in doubt."""
        if self._clock.monotonic() - self._accepted_at >= _AGAIN_AFTER_S:
            self._rejected = credential

    def is_doubted(self, credential: str) -> bool:
        return self._rejected == credential

    def is_accepted(self, credential: str) -> bool:
        return self._accepted == credential and not self.is_doubted(credential)

    async def require(
        self, credential: str, authenticate: Authenticate, *, deadline: float
    ) -> bool:
        """Return once the cloud is known to accept the credential with this fingerprint.

        Returns whether this process or a waiting request called the cloud for it. Raises
        ServiceLoginFailed while the credential is rejected or the cloud is unavailable, and
        DeadlineExceeded.
        """
        if self.is_accepted(credential):
            return False
        subject = LoginSubject(credential, self._account.project)
        if (pause := self._gate.pause(subject)) is not None:
            raise self._paused(pause)
        self._endpoint.raise_if_backing_off()
        reads: list[bool] = []

        async def check() -> Fetched:
            reads.append(True)
            return await self._check(subject, authenticate)

        found = await self._shared.obtain(
            f"accepted:{self._account.name}:{self._account.project}:{credential}",
            check,
            deadline=deadline,
            fresh=self.is_doubted(credential),
            run_to_completion=True,
        )
        if found.value != _ACCEPTED:
            raise self._paused(LoginPause(found.good_until, found.value.decode(), is_own=True))
        self._accepted, self._rejected = credential, ""
        if reads:
            self._accepted_at = self._clock.monotonic()
        self._endpoint.reset_backoff()
        self._telemetry.service_login_refused(
            self._account.name, self._account.project, refused=False
        )
        return bool(reads)

    async def _check(self, subject: LoginSubject, authenticate: Authenticate) -> Fetched:
        async def attempt() -> Fetched:
            # The smallest page that the cloud serves (upstream-api.md#1.4).
            path = f"/v1/{self._account.project}/physicalservers?limit=10"
            request = UpstreamRequest("GET", path)
            found = await self._endpoint.send(request, credential=await authenticate(request))
            # Any other response comes from behind the authentication.
            if found.status == 401:
                raise self._rejection(found)
            self._telemetry.service_login(self._account.name, "ok")
            return Fetched(_ACCEPTED, self._clock.monotonic() + _ACCEPTED_S)

        deadline = self._clock.monotonic() + _TOTAL_TIMEOUT_S
        found = await self._gate.attempt(subject, attempt, deadline=deadline)
        if not isinstance(found, LoginPause):
            return found
        if found.is_own:  # published: it replaces an earlier result
            return Fetched(found.reason.encode(), found.until)
        raise self._paused(found)

    def _rejection(self, found: LoginResponse) -> Exception:
        verdict = found.verdict
        reason = verdict.reason if isinstance(verdict, Misconfigured) else "it is not valid"
        if found.code.endswith(_CLOCKS_DIFFER):
            # It concerns this machine's clock, so other replicas must not wait for it.
            return self._endpoint.unavailable(found.shown, reason)
        self._telemetry.service_login(self._account.name, "refused")
        log.error(
            "service_login_refused",
            extra={
                "account": self._account.name,
                "project": self._account.project,
                "status": found.status,
                "error_code": found.code or str(found.status),
            },
        )
        return LoginRejected(
            LoginRejection(
                f"credential rejected: {found.shown}, {reason}",
                is_counted=self._account.is_lockable,
                is_for_all=self._account.is_for_all_projects,
                pauses_s=self._account.pauses_s,
            )
        )

    def _paused(self, pause: LoginPause) -> ServiceLoginFailed:
        if pause.is_own:
            self._telemetry.service_login_refused(
                self._account.name, self._account.project, refused=True
            )
        return self._endpoint.failure(pause.reason, pause.until - self._clock.monotonic())
