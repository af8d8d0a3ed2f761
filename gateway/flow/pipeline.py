"""The pipelines: every request passes the same stages in the same order.

    identify -> resolve -> decide -> admit -> obtain -> record -> respond

`Gateway` runs identify and resolve, selects the pipeline of the operation, and audits rejections.
`LinkPipeline` issues console links: obtain, then record; `TicketPipeline` issues tickets of live
consoles in their place (flow/consoles/issue_ticket.py). `ForwardPipeline` forwards every other
operation: reads have no record, and the record of a write precedes its call (flow/writes.py).
"""

from collections.abc import Mapping
from functools import partial

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
from gateway.flow.authenticate import Authenticate
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.console_links import ConsoleLinks, IssuedLink
from gateway.flow.consoles.issue_ticket import TicketPipeline
from gateway.flow.decide import Decide, Inventories, Policies
from gateway.flow.forwarding import JSON, ForwardedResponse, Forwarding, OutgoingCall
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.flow.locate import Locate
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from gateway.flow.resolve import Resolve
from gateway.flow.telemetry import Telemetry
from gateway.flow.writes import Writes

_NO_EFFECT = (
    AuditLogUnavailable,
    BudgetExhausted,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
"""Errors after which a permitted write certainly had no effect, so the caller may send it again."""


class LinkPipeline:
    """Console links: decide, admit, obtain, record."""

    def __init__(
        self,
        *,
        decide: Decide,
        admit: Admit,
        links: ConsoleLinks,
        request_audit: RequestAudit,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._decide = decide
        self._admit = admit
        self._links = links
        self._request_audit = request_audit
        self._clock = clock
        self._telemetry = telemetry

    async def issue(
        self, principal: Principal, call: ResolvedCall, request: ApiRequest
    ) -> IssuedLink:
        version = self._decide.version
        permit = self._decide(principal, call)
        decided = self._clock.monotonic()
        self._admit(request)
        if request.signed is not None:
            await self._admit.use_signature(request)
        link, source, obtained = await self._obtain_and_record(permit, request)
        if not self._links.is_usable(permit, link):  # it aged while its record was written
            link, source, obtained = await self._obtain_and_record(permit, request, replaces=link)
            if not self._links.is_usable(permit, link):
                raise DeadlineExceeded("the link became too old while its record was written")
        if self._decide.version != version:
            self._decide.recheck(principal, call)
        recorded = self._clock.monotonic()
        times = StageTimes(
            request.identify_s,
            decided - request.identified_at,
            obtained - decided,
            recorded - obtained,
        )
        account = self._links.account_of(permit)
        self._telemetry.link_served(account, principal.groups, source, times)
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
    ) -> None:
        self._resolve = resolve
        self._decide = decide
        self._admit = admit
        self._locate = locate
        self._forwarding = forwarding
        self._writes = writes
        self._inventories = inventories

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
        self._authenticate = authenticate
        self._resolve = resolve
        self._links = links
        self._tickets = tickets
        self._forwards = forwards
        self._request_audit = request_audit
        self._clock = clock

    async def handle(self, request: ApiRequest) -> IssuedLink | ForwardedResponse:
        """Take one request through all stages; raise the GatewayError of the one that rejects."""
        began = self._clock.monotonic()
        try:
            request.enter("identify")
            principal = await self._authenticate(request)
            request.identified_at = self._clock.monotonic()
            request.identify_s = request.identified_at - began
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
        except NotPermitted as rejection:
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
) -> Gateway:
    """Build the stages and the pipelines of them; `tickets` issues live consoles, if any do."""
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
            decide=decide,
            admit=admit,
            links=links,
            request_audit=request_audit,
            clock=clock,
            telemetry=telemetry,
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
        ),
        request_audit=request_audit,
        clock=clock,
    )
