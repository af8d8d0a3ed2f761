"""What the vendor's SDK asks an IAM for, answered out of the caller's JWT (dossier 4.2).

The SDK turns a JWT into a subject token, that into a key pair, and asks which project is called
like its region. Nothing is stored: what is handed out holds the JWT, and ends with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.domain.audit.record import CredentialIssued
from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.sdk_signature import Presented
from gateway.domain.model import Principal, ProjectId, ResolvedCall, Secret
from gateway.flow.caller_credentials import CallerCredentials, IssuedKeys, KeyPair
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit
from gateway.flow.telemetry import Telemetry

DURATION_S_MIN, DURATION_S_MAX = 900, 86_400
"""The cloud's own bounds of a temporary key pair's life (dossier 3.4)."""

MayAnything = Callable[[Principal, ProjectId], bool]


@dataclass(frozen=True, slots=True)
class Project:
    id: ProjectId
    name: str


@dataclass(slots=True, kw_only=True, repr=False)
class FederationRequest(RequestContext):
    call: ResolvedCall
    """It names no project and no server, and takes no permission: who asks needs but be known."""
    presented: Presented


@dataclass(frozen=True, slots=True)
class SubjectToken:
    text: Secret
    principal: Principal
    issued_at: float
    expires_at: float
    """Both: seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class IssuedPair:
    pair: KeyPair
    expires_at: float
    """When it ends at the latest, by its own life or its JWT's; seconds since the epoch."""


class Federation:
    def __init__(  # noqa: PLR0913 - what the three operations need
        self,
        *,
        identify: Identify,
        credentials: CallerCredentials,
        keys: IssuedKeys,
        limits: CallerLimits,
        request_audit: RequestAudit,
        projects: Sequence[Project],
        may_anything: MayAnything,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`may_anything`: whether the policy in force gives somebody any right in a project."""
        self._identify = identify
        self._credentials = credentials
        self._keys = keys
        self._limits = limits
        self._request_audit = request_audit
        self._projects = projects
        self._may_anything = may_anything
        self._clock = clock
        self._telemetry = telemetry

    async def subject_token(self, errand: FederationRequest, caller_jwt: str) -> SubjectToken:
        principal = await self._admitted(errand, caller_jwt)
        made = SubjectToken(
            self._keys.subject_token(Secret(caller_jwt)),
            principal,
            self._clock.now(),
            self._identify.ends_at(principal),
        )
        await self._record_issued(errand, principal, made.expires_at)
        return made

    async def key_pair(
        self, errand: FederationRequest, subject_token: str, duration_s: float
    ) -> IssuedPair:
        caller_jwt = self._keys.open_subject_token(subject_token)
        if caller_jwt is None:
            self._telemetry.identified("unknown", Rejection.SUBJECT_TOKEN.value)
            raise NotAuthenticated(Rejection.SUBJECT_TOKEN)
        principal = await self._admitted(errand, caller_jwt.reveal())
        own_end = self._clock.now() + duration_s
        pair = self._keys.key_pair(caller_jwt, expires_at=own_end)
        made = IssuedPair(pair, min(own_end, self._identify.ends_at(principal)))
        await self._record_issued(errand, principal, made.expires_at, access_key=pair.access)
        return made

    async def projects(self, errand: FederationRequest, name: str | None) -> Sequence[Project]:
        """Return the projects of that name, or all, in which the caller may do anything at all."""
        caller_jwt = await self._credentials.jwt_of(errand.presented, b"")
        principal = await self._admitted(errand, caller_jwt)
        return [
            project
            for project in self._projects
            if name in (None, project.name) and self._may_anything(principal, project.id)
        ]

    async def _admitted(self, errand: FederationRequest, caller_jwt: str) -> Principal:
        try:
            principal = await self._identify.identify_by(caller_jwt, errand.deadline)
        except NotAuthenticated as refusal:
            await self._request_audit.not_authenticated(errand, refusal)
            raise
        errand.principal = principal
        self._limits.admit_once(errand)
        return principal

    async def _record_issued(
        self,
        errand: FederationRequest,
        principal: Principal,
        expires_at: float,
        *,
        access_key: str = "",
    ) -> None:
        """Put on record what from now on stands for the caller's JWT, before it is handed out."""
        record = self._request_audit.about("credential_issued", principal, errand.call, errand)
        record.decision, record.access_key = "allowed", access_key
        record.extra = CredentialIssued(expires_at)
        await self._request_audit.record(record, errand.deadline)
