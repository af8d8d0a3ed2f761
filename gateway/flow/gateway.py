"""The order of things: identify, resolve, decide, admit, obtain, record. No branch but one.

Each stage takes what the one before proved. A link that this process holds is answered without
a network, after the same identification, decision and record as any other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.errors import DeadlineExceeded, JournalUnavailable, NotAuthenticated
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console import Consoles
from gateway.flow.credentials import CallerCredentials
from gateway.flow.identify import Identify
from gateway.model import Call, ConsoleLink, LinkSource, Permit, Principal, StageTimes
from gateway.ports import AuditRecord, Clock, Journal, Policies, Telemetry
from gateway.rules.catalogue import Catalogue
from gateway.rules.credentials import caller_jwt
from gateway.rules.headers import travelling
from gateway.rules.sdk_signature import Presented

_NO_ISSUER = "unknown"


@dataclass(slots=True)
class Asked:
    """One request, as the edge read it; the flow notes down what it finds out."""

    authorization: Sequence[str]
    """Every value of the header; so with X-Auth-Token."""
    x_auth_token: Sequence[str]
    method: str
    target: str
    has_body: bool
    fresh: bool
    request_id: str
    client_address: str
    deadline: float
    """Monotonic seconds."""
    headers: Iterable[tuple[str, str]]
    """As the caller sent them; few of them travel on."""
    x_security_token: Sequence[str] = ()
    principal: Principal | None = None
    call: Call | None = None

    def __repr__(self) -> str:
        return f"Asked({self.request_id})"


@dataclass(frozen=True, slots=True)
class Answered:
    link: ConsoleLink
    left_s: float
    source: LinkSource


class Gateway:
    def __init__(  # noqa: PLR0913 - the pipeline, one stage a line
        self,
        *,
        identify: Identify,
        credentials: CallerCredentials,
        catalogue: Catalogue,
        policies: Policies,
        limits: CallerLimits,
        consoles: Consoles,
        journal: Journal,
        serve_unrecorded: bool,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._identify = identify
        self._credentials = credentials
        self._catalogue = catalogue
        self._policies = policies
        self._limits = limits
        self._consoles = consoles
        self._journal = journal
        self._serve_unrecorded = serve_unrecorded
        self._clock = clock
        self._telemetry = telemetry

    async def answer(self, asked: Asked) -> Answered:
        """Take one request through all stages; raise the GatewayError of the one that refused."""
        monotonic = self._clock.monotonic
        began = monotonic()
        token = self._credential(asked)
        if token is None:
            token = await self._credentials.jwt_of_signed(_presented(asked), b"")
        principal = self._identify.recall(token)
        if principal is None:
            principal = await self._identify.identify_by(token, asked.deadline)
        asked.principal = principal
        identified = monotonic()

        call = self._catalogue.resolve(asked.method, asked.target, has_body=asked.has_body)
        asked.call = call
        permit = self._policies.current().permit(principal, call, self._clock.now())
        decided = monotonic()

        self._limits.admit(principal.key)
        link, source = await self._obtain(permit, asked)
        obtained = monotonic()

        await self._record(permit, asked, link, source)
        recorded = monotonic()
        if not self._consoles.is_good(permit, link):
            raise DeadlineExceeded("the link came too near its end while it was recorded")
        self._telemetry.link_served(
            source,
            StageTimes(
                identified - began, decided - identified, obtained - decided, recorded - obtained
            ),
        )
        return Answered(link, link.good_until - recorded, source)

    def _credential(self, asked: Asked) -> str | None:
        try:
            return caller_jwt(asked.authorization, asked.x_auth_token, asked.x_security_token)
        except NotAuthenticated as refusal:
            self._telemetry.identified(_NO_ISSUER, refusal.reason.value)
            raise

    async def _obtain(self, permit: Permit, asked: Asked) -> tuple[ConsoleLink, LinkSource]:
        if not asked.fresh:
            link = self._consoles.recall(permit)
            if link is not None:
                return link, LinkSource.LOCAL
        return await self._consoles.obtain(
            permit,
            deadline=asked.deadline,
            fresh=asked.fresh,
            headers=travelling(asked.headers, asked.request_id),
        )

    async def _record(
        self, permit: Permit, asked: Asked, link: ConsoleLink, source: LinkSource
    ) -> None:
        principal, call = permit.principal, permit.call
        record = AuditRecord(
            event="console_link_issued",
            at=self._clock.now(),
            request_id=asked.request_id,
            issuer=principal.issuer,
            subject=principal.subject,
            groups=principal.groups,
            operation=call.operation.name,
            project=call.project,
            servers=call.servers,
            rule=f"{permit.rule.file}:{permit.rule.line}",
            source=source.value,
            link_fingerprint=link.fingerprint,
            client_address=asked.client_address,
        )
        try:
            await self._journal.record(record)
        except JournalUnavailable:
            if not self._serve_unrecorded:
                raise


def _presented(asked: Asked) -> Presented:
    return Presented(asked.method, asked.target, tuple(asked.headers))
