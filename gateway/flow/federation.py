"""The IAM operations that the vendor's SDK calls, answered from the JWT (upstream-api.md#4.2).

The SDK exchanges a JWT for a subject token, the subject token for a key pair, and looks up the
project that has the name of its region. Nothing is stored: subject token and key pair contain the
JWT and expire with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.domain.audit.record import CredentialIssued
from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Principal, ProjectId, ResolvedCall, Secret
from gateway.flow.caller_credentials import CallerCredentials, IssuedKeys, KeyPair
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit
from gateway.flow.telemetry import Telemetry

DURATION_S_MIN, DURATION_S_MAX = 900, 86_400
"""The cloud's bounds for the life of a temporary key pair (upstream-api.md#3.4)."""

HasAnyPermission = Callable[[Principal, ProjectId], bool]


@dataclass(frozen=True, slots=True)
class FederationProject:
    id: ProjectId
    name: str


@dataclass(slots=True, kw_only=True, repr=False)
class FederationRequest(RequestContext):
    call: ResolvedCall
    """Names neither project nor server and requires no permission, only authentication."""
    incoming: IncomingRequest


@dataclass(frozen=True, slots=True)
class SubjectToken:
    text: Secret
    principal: Principal
    issued_at: float
    """Seconds since the epoch."""
    expires_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class IssuedKeyPair:
    pair: KeyPair
    expires_at: float
    """The earlier of the pair's and the JWT's expiry, in seconds since the epoch."""


class Federation:
    def __init__(  # noqa: PLR0913 - what the three operations need
        self,
        *,
        identify: Identify,
        credentials: CallerCredentials,
        keys: IssuedKeys,
        limits: CallerLimits,
        request_audit: RequestAudit,
        projects: Sequence[FederationProject],
        has_any_permission: HasAnyPermission,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`has_any_permission`: whether the policy in force grants any permission in a project."""
        self._identify = identify
        self._credentials = credentials
        self._keys = keys
        self._limits = limits
        self._request_audit = request_audit
        self._projects = projects
        self._has_any_permission = has_any_permission
        self._clock = clock
        self._telemetry = telemetry

    async def subject_token(self, request: FederationRequest, caller_jwt: str) -> SubjectToken:
        principal = await self._admit(request, caller_jwt)
        issued = SubjectToken(
            self._keys.subject_token(Secret(caller_jwt)),
            principal,
            self._clock.now(),
            self._identify.expiry(principal),
        )
        await self._record_issued(request, principal, issued.expires_at)
        return issued

    async def key_pair(
        self, request: FederationRequest, subject_token: str, duration_s: float
    ) -> IssuedKeyPair:
        caller_jwt = self._keys.open_subject_token(subject_token)
        if caller_jwt is None:
            self._telemetry.identified("unknown", Rejection.SUBJECT_TOKEN.value)
            raise NotAuthenticated(Rejection.SUBJECT_TOKEN)
        principal = await self._admit(request, caller_jwt.reveal())
        expires_at = self._clock.now() + duration_s
        pair = self._keys.key_pair(caller_jwt, expires_at=expires_at)
        issued = IssuedKeyPair(pair, min(expires_at, self._identify.expiry(principal)))
        await self._record_issued(request, principal, issued.expires_at, access_key=pair.access)
        return issued

    async def projects(
        self, request: FederationRequest, name: str | None
    ) -> Sequence[FederationProject]:
        """Return the projects in which the caller has any permission, optionally only by name."""
        caller_jwt = await self._credentials.jwt_of(request.incoming, b"")
        principal = await self._admit(request, caller_jwt)
        return [
            project
            for project in self._projects
            if name in (None, project.name) and self._has_any_permission(principal, project.id)
        ]

    async def _admit(self, request: FederationRequest, caller_jwt: str) -> Principal:
        try:
            principal = await self._identify.identify_by_deadline(caller_jwt, request.deadline)
        except NotAuthenticated as error:
            await self._request_audit.not_authenticated(request, error)
            raise
        request.principal = principal
        self._limits.admit_once(request)
        return principal

    async def _record_issued(
        self,
        request: FederationRequest,
        principal: Principal,
        expires_at: float,
        *,
        access_key: str = "",
    ) -> None:
        """Record the credential in the audit log before it is returned to the caller."""
        record = self._request_audit.about("credential_issued", principal, request.call, request)
        record.decision, record.access_key = "allowed", access_key
        record.extra = CredentialIssued(expires_at)
        await self._request_audit.record(record, request.deadline)
