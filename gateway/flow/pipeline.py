"""The pipelines: every request passes the same stages in the same order.

    identify -> resolve -> decide -> admit -> obtain -> record -> respond

`Gateway` runs identify and resolve, selects the pipeline of the operation, and audits rejections.
`LinkPipeline` issues console links: obtain, then record; `TicketPipeline` issues tickets of live
consoles in their place (flow/consoles/issue_ticket.py). `ForwardPipeline` forwards every other
operation: reads have no record, and the record of a write precedes its call (flow/writes.py).
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.catalogue.headers import request_headers
from gateway.domain.errors import (
    AuditLogUnavailable,
    BudgetExhausted,
    DeadlineExceeded,
    NotAuthenticated,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
from gateway.domain.model import (
    SERVER_POWER,
    SERVER_TAG,
    ConsoleLink,
    LinkSource,
    Principal,
    QueueRequest,
    ResolvedCall,
    ResponseKind,
    StageTimes,
)
from gateway.domain.policy.policy import Permit
from gateway.flow.admit import Admit
from gateway.flow.attempts import Attempts
from gateway.flow.audit_log import BatchAuditLog
from gateway.flow.authenticate import Authenticate
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.console_links import ConsoleLinks, IssuedLink
from gateway.flow.consoles.issue_ticket import TicketPipeline
from gateway.flow.decide import Decide, DecisionVersion, Inventories, Policies
from gateway.flow.forwarding import JSON, ForwardedResponse, Forwarding, OutgoingCall
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.flow.locate import Locate
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from gateway.flow.resolve import Resolve
from gateway.flow.servers.power_readings import PowerChanged, no_power_readings
from gateway.flow.telemetry import Telemetry
from gateway.flow.writes import Writes

_T = TypeVar("_T")

_NO_EFFECT = (
    AuditLogUnavailable,
    BudgetExhausted,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
"""Errors after which a permitted write certainly had no effect, so the caller may send it again."""


@dataclass(frozen=True, slots=True)
class LinkStages:
    """The stages of console links. The edge's hit path takes the same ones, in the same order."""

    identify: Identify
    decide: Decide
    limits: CallerLimits
    admit: Admit
    links: ConsoleLinks
    request_audit: RequestAudit
    audit_log: BatchAuditLog | None
    """The one of `request_audit`; None: there is no hit path."""
    clock: Clock
    telemetry: Telemetry


Recorded = Awaitable[AuditLogUnavailable | None]
"""Returns when a record is durable, or why it is not."""


@dataclass(frozen=True, slots=True)
class PendingLink:
    """A link that is obtained, and whose record is being written."""

    permit: Permit
    version: DecisionVersion
    """Before the decision."""
    decided_at: float
    """Monotonic, as `obtained_at`."""
    link: ConsoleLink
    source: LinkSource
    obtained_at: float


class LinkPipeline:
    """Console links: decide, admit, obtain, record."""

    def __init__(self, stages: LinkStages) -> None:
        self.stages = stages
        self._decide = stages.decide
        self._admit = stages.admit
        self._links = stages.links
        self._request_audit = stages.request_audit
        self._clock = stages.clock
        self._telemetry = stages.telemetry

    async def issue(
        self, principal: Principal, call: ResolvedCall, request: ApiRequest
    ) -> IssuedLink:
        version = self._decide.version
        permit = self._decide(principal, call)
        decided_at = self._clock.monotonic()
        self._admit(request)
        if request.signed is not None:
            await self._admit.use_signature(request)
        obtained = await self._obtain_and_record(permit, request)
        return await self._conclude(PendingLink(permit, version, decided_at, *obtained), request)

    async def resume(
        self, pending: PendingLink, recorded: Recorded, request: ApiRequest
    ) -> IssuedLink:
        """Issue a link that the hit path obtained, when its record is durable."""
        request.enter("record")
        failure = await recorded
        if failure is not None:
            raise failure
        return await self._conclude(pending, request)

    async def _conclude(self, pending: PendingLink, request: ApiRequest) -> IssuedLink:
        """Check again what may have changed while the record was written, then issue the link."""
        permit, link, source = pending.permit, pending.link, pending.source
        obtained_at = pending.obtained_at
        # Read before the check: the reported lifetime is then at least the minimum.
        recorded = self._clock.monotonic()
        if not self._links.is_usable(permit, link):  # it aged while its record was written
            again = await self._obtain_and_record(permit, request, replaces=link)
            link, source, obtained_at = again
            recorded = self._clock.monotonic()
            if not self._links.is_usable(permit, link):
                raise DeadlineExceeded("the link became too old while its record was written")
        if not self._decide.still_holds(permit.principal, pending.version):
            self._decide.recheck(permit.principal, permit.call)
        times = StageTimes(
            request.identify_s,
            pending.decided_at - request.identified_at,
            obtained_at - pending.decided_at,
            recorded - obtained_at,
        )
        account = self._links.account_of(permit)
        self._telemetry.link_served(account, permit.principal.groups, source, times)
        return IssuedLink(link, link.good_until - recorded, source)

    async def _obtain_and_record(
        self, permit: Permit, request: ApiRequest, replaces: ConsoleLink | None = None
    ) -> tuple[ConsoleLink, LinkSource, float]:
        """Return a link, its source, and when it was obtained.

        `replaces`: a link that is recorded already and was not issued.
        """
        request.enter("obtain")
        link = None if request.fresh else self._links.cached_link(permit)
        source = LinkSource.LOCAL
        if link is None:
            link, source = await self._fetch(permit, request)
        obtained = self._clock.monotonic()
        if source is not LinkSource.LOCAL:  # the request waited, and rights may have ended
            permit = self._decide.recheck(permit.principal, permit.call)

        request.enter("record")
        record = self._request_audit.allowed("console_link_issued", permit, request)
        record.source, record.link_fingerprint = source.value, link.fingerprint
        if replaces is not None:
            record.detail = f"replaces link {replaces.fingerprint}, which became too old"
        await self._request_audit.record(record, request.deadline)
        return link, source, obtained

    async def _fetch(self, permit: Permit, request: ApiRequest) -> tuple[ConsoleLink, LinkSource]:
        return await self._links.obtain(
            permit,
            self._admit.queue_request(permit.principal, permit.call.operation),
            deadline=request.deadline,
            fresh=request.fresh,
            headers=request_headers(request.headers, request.request_id, ResponseKind.CONSOLE_LINK),
        )


class ForwardPipeline:
    """Every other operation of the cloud: decide, admit, locate, record a write, obtain."""

    def __init__(  # noqa: PLR0913 - its stages
        self,
        *,
        resolve: Resolve,
        decide: Decide,
        admit: Admit,
        locate: Locate,
        forwarding: Forwarding,
        writes: Writes,
        inventories: Inventories,
        power_changed: PowerChanged,
    ) -> None:
        self._resolve = resolve
        self._decide = decide
        self._admit = admit
        self._locate = locate
        self._forwarding = forwarding
        self._writes = writes
        self._inventories = inventories
        self._power_changed = power_changed

    async def forward(
        self, principal: Principal, call: ResolvedCall, request: ApiRequest
    ) -> ForwardedResponse:
        call = await self._resolve.body(request, call)
        decision = self._decide.first(principal, call)
        self._admit(request)
        queue_request = self._admit.queue_request(principal, call.operation)
        permit = await self._locate(decision, queue_request, request)
        await self._admit.use_signature(request)
        try:
            return await self._record_and_obtain(permit, queue_request, request)
        except _NO_EFFECT:
            await self._admit.undo_signature(request)
            raise

    def show_permissions(
        self, principal: Principal, call: ResolvedCall, request: ApiRequest
    ) -> ForwardedResponse:
        """Answer the gateway's own operation, which needs no permission and no call."""
        self._admit(request)
        return ForwardedResponse(200, JSON, self._decide.permissions(principal, call))

    async def _record_and_obtain(
        self, permit: Permit, queue_request: QueueRequest, request: ApiRequest
    ) -> ForwardedResponse:
        attempts = Attempts(partial(self._decide.recheck, permit.principal, permit.call))
        obtain = partial(self._obtain, permit, queue_request, attempts, request)
        if not permit.call.operation.writes:
            return await obtain()
        request.enter("record")
        return await self._writes.send_audited(permit, request, attempts, obtain)

    async def _obtain(
        self, permit: Permit, queue_request: QueueRequest, attempts: Attempts, request: ApiRequest
    ) -> ForwardedResponse:
        operation = permit.call.operation
        request.enter("obtain")
        headers = request_headers(
            request.headers,
            request.request_id,
            operation.response,
            has_body=bool(permit.call.body),
        )
        try:
            return await self._forwarding.forward(
                OutgoingCall(
                    permit, queue_request, attempts, request.deadline, request.fresh, headers
                )
            )
        finally:
            # Whatever the result: a failed write of tags may have had an effect all the same.
            if operation.permission == SERVER_TAG:
                self._inventories.refresh_soon(permit.call.project)
            if operation.permission == SERVER_POWER:
                self._power_changed(permit.call.project, permit.call.servers)


class Gateway:
    """Runs the stages that all operations share, then the pipeline of the operation."""

    def __init__(  # noqa: PLR0913 - the stages and pipelines
        self,
        *,
        authenticate: Authenticate,
        resolve: Resolve,
        links: LinkPipeline,
        tickets: TicketPipeline | None,
        forwards: ForwardPipeline,
        request_audit: RequestAudit,
        clock: Clock,
    ) -> None:
        self.link_stages = links.stages
        self._authenticate = authenticate
        self._resolve = resolve
        self._links = links
        self._tickets = tickets
        self._forwards = forwards
        self._request_audit = request_audit
        self._clock = clock

    async def handle(self, request: ApiRequest) -> IssuedLink | ForwardedResponse:
        """Take one request through all stages; raise the GatewayError of the one that rejects."""
        return await self._audit_rejections(self._handle(request), request)

    async def handle_identified(
        self, principal: Principal, request: ApiRequest
    ) -> IssuedLink | ForwardedResponse:
        """Take a request through all stages but identify, for a person who is identified already.

        Raises as `handle` does.
        """
        request.principal = principal
        request.identified_at = self._clock.monotonic()
        return await self._audit_rejections(self._serve(principal, request), request)

    async def resume(
        self, pending: PendingLink, recorded: Recorded, request: ApiRequest
    ) -> IssuedLink:
        """Take a request on from its record; raise as `handle` does.

        `request` has what the stages before that found.
        """
        return await self._audit_rejections(self._links.resume(pending, recorded, request), request)

    async def _handle(self, request: ApiRequest) -> IssuedLink | ForwardedResponse:
        began = self._clock.monotonic()
        request.enter("identify")
        principal = await self._authenticate(request)
        request.identified_at = self._clock.monotonic()
        request.identify_s = request.identified_at - began
        return await self._serve(principal, request)

    async def _serve(
        self, principal: Principal, request: ApiRequest
    ) -> IssuedLink | ForwardedResponse:
        request.enter("decide")
        call = self._resolve(request)
        if request.has_body and not call.operation.body_bytes_max:
            await self._resolve.require_no_body(request)
        match call.operation.response:
            case ResponseKind.CONSOLE_LINK:
                if self._tickets is not None and self._tickets.serves(call.project):
                    return await self._tickets.issue(principal, call, request)
                return await self._links.issue(principal, call, request)
            case ResponseKind.PERMISSIONS:
                return self._forwards.show_permissions(principal, call, request)
            case _:
                return await self._forwards.forward(principal, call, request)

    async def _audit_rejections(self, stages: Awaitable[_T], request: ApiRequest) -> _T:
        try:
            return await stages
        except NotPermitted as rejection:
            if request.principal is not None and request.call is not None:
                permission = request.call.operation.permission
                decide = self.link_stages.decide
                rejection.may_request = decide.may_request(request.principal, permission)
            await self._request_audit.not_permitted(request, rejection)
            raise
        except NotAuthenticated as rejection:
            if (request.principal or rejection.principal) is not None:
                self._resolve.for_audit(request)
            await self._request_audit.not_authenticated(request, rejection)
            raise


def build_gateway(  # noqa: PLR0913 - what the stages need
    *,
    identify: Identify,
    credentials: CallerCredentials,
    catalogue: Catalogue,
    policies: Policies,
    limits: CallerLimits,
    links: ConsoleLinks,
    inventories: Inventories,
    instances: Instances,
    forwarding: Forwarding,
    group_weights: Mapping[str, float],
    request_audit: RequestAudit,
    writes: Writes,
    clock: Clock,
    telemetry: Telemetry,
    tickets: TicketPipeline | None = None,
    audit_log: BatchAuditLog | None = None,
    power_changed: PowerChanged = no_power_readings,
) -> Gateway:
    """Build the stages and the pipelines of them; `tickets` issues live consoles, if any do.

    `audit_log` is the one of `request_audit`, for the hit path.
    """
    resolve = Resolve(catalogue)
    decide = Decide(
        policies=policies,
        inventories=inventories,
        identify=identify,
        clock=clock,
        telemetry=telemetry,
    )
    admit = Admit(limits, credentials, group_weights=group_weights)
    return Gateway(
        authenticate=Authenticate(credentials, identify, body_bytes_max=catalogue.body_bytes_max),
        resolve=resolve,
        links=LinkPipeline(
            LinkStages(
                identify,
                decide,
                limits,
                admit,
                links,
                request_audit,
                audit_log,
                clock,
                telemetry,
            )
        ),
        tickets=tickets,
        forwards=ForwardPipeline(
            resolve=resolve,
            decide=decide,
            admit=admit,
            locate=Locate(instances, decide),
            forwarding=forwarding,
            writes=writes,
            inventories=inventories,
            power_changed=power_changed,
        ),
        request_audit=request_audit,
        clock=clock,
    )
