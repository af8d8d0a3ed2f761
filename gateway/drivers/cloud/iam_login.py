"""Password logins to the cloud's IAM, limited so that IAM never locks the account.

IAM locks an account after 5 failed logins within 15 minutes (upstream-api.md#3.2). After a rejected
login the project backs off for 5, 10, then 30 minutes on all replicas; all projects of a user
together have at most 3 failures within 15 minutes.

With an agency, a login is two calls: for a token of the user in its own domain, then, with it, for
a token of the agency (upstream-api.md#3.5). Only the first may count towards a lock.
"""

import logging
from typing import Any

from gateway.config.accounts import Agency, PasswordLogin
from gateway.domain.errors import ServiceLoginFailed
from gateway.domain.upstream.login_ledger import LoginPause, LoginRejection, LoginSubject
from gateway.drivers.cloud.login_endpoint import LoginEndpoint, LoginResponse
from gateway.drivers.cloud.login_gate import LoginGate, LoginRejected, fingerprint
from gateway.drivers.cloud.service_token import (
    ServiceToken,
    agency_request,
    domain_scope,
    expiry_margin_s,
    login_request,
    project_scope,
    token_from_response,
)
from gateway.flow.clock import Clock
from gateway.flow.single_flight import Fetched
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.login")

LOGIN_TOTAL_TIMEOUT_S = 60.0
"""Includes the wait for logins of the user's other projects."""
_LOCKED, _NO_PROGRAMMATIC_ACCESS = "IAM.0061", "IAM.0081"
_FOR_ALL_PROJECTS = frozenset({_LOCKED, _NO_PROGRAMMATIC_ACCESS})
_WRONG_OR_NO_ROLE = "user, domain or password is wrong, or the user has no role in the project"
_MEANINGS = {
    "401": _WRONG_OR_NO_ROLE,  # Keystone's form, without a code of IAM
    "400": "IAM does not accept the project's or the domain's form",
    "403": "the user may not use the project",
    "404": "the project does not exist",
    "IAM.0001": _WRONG_OR_NO_ROLE,
    "IAM.0002": "the user may not use the project",
    "IAM.0003": "the user may not use the project",
    "IAM.0004": "the project does not exist",
    _LOCKED: "the account is locked for 15 minutes",
    "IAM.0062": "user, domain or password is wrong",
    _NO_PROGRAMMATIC_ACCESS: "the user has no programmatic access",
}
"""By status or code (upstream-api.md#3.2). IAM's own text may quote the password."""
_AGENCY_MEANINGS = {
    "400": "IAM does not accept the form of `login.agency` or of the project",
    "401": "IAM does not accept the user's token, or the user may not assume the agency",
    "403": "the user needs the permission Agent Operator, and the agency a role in the project",
    "404": "`login.agency.domain` has no such agency, or no such project",
}
"""By status, for the second call of a login with an agency."""


class IamLogin:
    """Logs one user in to one project, one attempt at a time over all replicas."""

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        account: str,
        project: str,
        login: PasswordLogin,
        *,
        endpoint: LoginEndpoint,
        gate: LoginGate,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._account = account
        self._project = project
        self._login = login
        self._endpoint = endpoint
        self._gate = gate
        self._clock = clock
        self._telemetry = telemetry
        agency = login.agency
        # A changed address, user, password or agency is tried without back-off.
        self.fingerprint = fingerprint(
            login.iam_endpoint,
            login.user,
            login.domain,
            login.password.reveal(),
            *(() if agency is None else (agency.domain, agency.name)),
        )
        self._subject = LoginSubject(self.fingerprint, project)

    async def fetch_token(self) -> Fetched:
        """Return a new token in its shared form. Raises ServiceLoginFailed, DeadlineExceeded."""
        deadline = self._clock.monotonic() + LOGIN_TOTAL_TIMEOUT_S
        found = await self._gate.attempt(self._subject, self._attempt, deadline=deadline)
        if isinstance(found, LoginPause):
            raise self._paused(found)
        return found

    def reset_backoff(self) -> None:
        self._endpoint.reset_backoff()

    def raise_if_backing_off(self) -> None:
        if (pause := self._gate.pause(self._subject)) is not None:
            raise self._paused(pause)
        self._endpoint.raise_if_backing_off()

    async def _attempt(self) -> Fetched:
        """Raise LoginRejected, or ServiceLoginFailed when IAM is unavailable."""
        if self._login.agency is None:
            token = await self._log_in_user(project_scope(self._project))
        else:
            user = await self._log_in_user(domain_scope(self._login.domain))
            token = await self._assume(self._login.agency, user)
        self._telemetry.service_login(self._account, "ok")
        log.info(
            "service_login_succeeded", extra={"account": self._account, "project": self._project}
        )
        lifetime_s = token.expires_at - self._clock.now()
        good_until = self._clock.monotonic() + lifetime_s - expiry_margin_s(lifetime_s)
        return Fetched(token.shared_form, good_until)

    async def _log_in_user(self, scope: dict[str, Any]) -> ServiceToken:
        requested_at = self._clock.now()
        found = await self._endpoint.send(
            login_request(self._login, scope), secrets=(self._login.password.reveal(),)
        )
        if not 200 <= found.status < 300:
            self._report_rejection(found)
            meaning = _MEANINGS.get(found.code) or _MEANINGS[str(found.status)]
            raise LoginRejected(
                LoginRejection(
                    f"login rejected: {found.shown}, {meaning}",
                    # With another status the password was right, or was not looked at.
                    is_counted=found.status == 401,
                    is_for_all=found.code in _FOR_ALL_PROJECTS,
                )
            )
        return self._token(found, requested_at)

    async def _assume(self, agency: Agency, user: ServiceToken) -> ServiceToken:
        requested_at = self._clock.now()
        found = await self._endpoint.send(
            agency_request(agency, self._project),
            credential=(("X-Auth-Token", user.secret.reveal()),),
        )
        if not 200 <= found.status < 300:
            self._report_rejection(found)
            meaning = _AGENCY_MEANINGS[str(found.status)]
            reason = f"agency {agency.name} of {agency.domain} rejected: {found.shown}, {meaning}"
            raise LoginRejected(LoginRejection(reason, is_counted=False))
        return self._token(found, requested_at)

    def _token(self, found: LoginResponse, requested_at: float) -> ServiceToken:
        token = token_from_response(found.response, requested_at=requested_at)
        if token is None:
            raise self._endpoint.unavailable(
                str(found.status), f"{found.status} without a valid token and lifetime"
            )
        return token

    def _report_rejection(self, found: LoginResponse) -> None:
        self._telemetry.service_login(self._account, "refused")
        log.error(
            "service_login_refused",
            extra={
                "account": self._account,
                "project": self._project,
                "status": found.status,
                "error_code": found.code or str(found.status),
            },
        )

    def _paused(self, pause: LoginPause) -> ServiceLoginFailed:
        if pause.is_own:
            self._telemetry.service_login_refused(self._account, self._project, refused=True)
        return self._endpoint.failure(pause.reason, pause.until - self._clock.monotonic())
