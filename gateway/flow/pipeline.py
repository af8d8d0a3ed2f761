"""The order of things: identify, resolve, decide, admit, obtain, record. One branch: a link or not.

Each stage takes what the one before proved. A link that this process holds is answered without
a network, after the same identification, decision and record as any other.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gateway.domain.catalogue.catalogue import Catalogue, resolve_body
from gateway.domain.catalogue.headers import request_headers
from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    BudgetExhausted,
    DeadlineExceeded,
    NotAuthenticated,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
from gateway.domain.identity.sdk_signature import Presented
from gateway.domain.model import (
    SAFE_METHODS,
    SERVER_TAG,
    ConsoleLink,
    LinkSource,
    Principal,
    QueueRequest,
    ResolvedCall,
    ResponseKind,
    StageTimes,
)
from gateway.domain.policy.own_permissions import permissions_on
from gateway.domain.policy.policy import Permit, Policy
from gateway.domain.queue.fair_queue import weight_of
from gateway.flow.attempts import Attempts
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.console_links import ConsoleLinks
from gateway.flow.decide import Inventories, Policies
from gateway.flow.forwarding import JSON, ForwardedResponse, Forwarding
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit
from gateway.flow.telemetry import Telemetry
from gateway.flow.writes import Writes

_NOTHING_DONE = (
    BudgetExhausted,
    AuditLogUnavailable,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
"""How a permitted write ends of which nothing was done, so that it may be sent again as it is."""


@dataclass(slots=True, kw_only=True, repr=False)
class ApiRequest(RequestContext):
    authorization: Sequence[str]
    """Every value of the header; so with X-Auth-Token."""
    x_auth_token: Sequence[str]
    method: str
    target: str
    has_body: bool
    read_body: Callable[[int], Awaitable[bytes]]
    """Reads all of it, up to so many bytes; raises RequestTooLarge."""
    fresh: bool
    headers: Iterable[tuple[str, str]]
    """As the caller sent them; few of them travel on."""
    x_security_token: Sequence[str] = ()
    body: bytes | None = None
    """Where it was read before it was known whose it is."""
    signed: Presented | None = None
    """The write as it was signed, which counts once."""

    def enter(self, stage: str) -> None:
        if self.trace is not None:
            self.trace.enter(stage)


@dataclass(frozen=True, slots=True)
class IssuedLink:
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
        links: ConsoleLinks,
        inventories: Inventories,
        instances: Instances,
        forwarding: Forwarding,
        group_weights: Mapping[str, float],
        request_audit: RequestAudit,
        writes: Writes,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._identify = identify
        self._credentials = credentials
        self._catalogue = catalogue
        self._policies = policies
        self._limits = limits
        self._links = links
        self._inventories = inventories
        self._instances = instances
        self._forwarding = forwarding
        self._group_weights = group_weights
        self._request_audit = request_audit
        self._writes = writes
        self._clock = clock
        self._telemetry = telemetry

    async def answer(self, asked: ApiRequest) -> IssuedLink | ForwardedResponse:
        """Take one request through all stages; raise the GatewayError of the one that refused."""
        try:
            return await self._answer(asked)
        except NotPermitted as refusal:
            await self._request_audit.not_permitted(asked, refusal)
            raise
        except NotAuthenticated as refusal:
            self._find_out_for_what(asked, refusal)
            await self._request_audit.not_authenticated(asked, refusal)
            raise

    async def _answer(self, asked: ApiRequest) -> IssuedLink | ForwardedResponse:
        monotonic = self._clock.monotonic
        began = monotonic()
        asked.enter("identify")
        token = self._credentials.plain_jwt(
            asked.authorization, asked.x_auth_token, asked.x_security_token
        )
        if token is None:
            token = await self._signed(asked)
        principal = self._identify.recall(token)
        if principal is None:
            principal = await self._identify.identify_by(token, asked.deadline)
        asked.principal = principal
        identified = monotonic()

        asked.enter("decide")
        call = self._catalogue.resolve(asked.method, asked.target, has_body=asked.has_body)
        asked.call = call
        if call.operation.response is not ResponseKind.CONSOLE_LINK:
            return await self._forward(principal, call, asked)
        authority = self._authority()
        permit = self._decide(principal, call)
        decided = monotonic()

        asked.enter("admit")
        self._limits.admit_once(asked)
        if asked.signed is not None:
            await self._credentials.use(asked.signed)
        link, source, obtained = await self._obtain_on_record(permit, asked)
        if not self._links.is_usable(permit, link):  # it had been held for long
            link, source, obtained = await self._obtain_on_record(permit, asked, instead_of=link)
            if not self._links.is_usable(permit, link):
                raise DeadlineExceeded("the link came too near its end while it was recorded")
        if self._authority() != authority:
            self._permitted_now(principal, call)
        recorded = monotonic()
        self._telemetry.link_served(
            self._links.account_of(permit),
            principal.groups,
            source,
            StageTimes(
                identified - began, decided - identified, obtained - decided, recorded - obtained
            ),
        )
        return IssuedLink(link, link.good_until - recorded, source)

    async def _signed(self, asked: ApiRequest) -> str:
        """Return the JWT behind a signature, which covers the body: it is read before the rest."""

        async def read_body() -> bytes:
            if asked.has_body:
                asked.body = await asked.read_body(self._catalogue.body_bytes_max)
            return asked.body or b""

        presented = Presented(asked.method, asked.target, tuple(asked.headers))
        pair = await self._credentials.pair_of_signed(presented, read_body)
        asked.access_key = pair.access
        if asked.method not in SAFE_METHODS:
            asked.signed = presented
        return pair.caller_jwt.reveal()

    def _authority(self) -> tuple[Policy, int]:
        """Return what decides; another than before: ask again what was decided meanwhile."""
        return self._policies.current(), self._identify.revocations_version

    async def _obtain_on_record(
        self, permit: Permit, asked: ApiRequest, instead_of: ConsoleLink | None = None
    ) -> tuple[ConsoleLink, LinkSource, float]:
        """Return a link, where it is from and when it was there.

        `instead_of` is on record already, and was not handed out.
        """
        asked.enter("obtain")
        link, source = await self._obtain(permit, asked)
        obtained = self._clock.monotonic()
        if source is not LinkSource.LOCAL:  # it was waited for, and rights end meanwhile
            permit = self._permitted_now(permit.principal, permit.call)

        asked.enter("record")
        record = self._request_audit.allowed("console_link_issued", permit, asked)
        record.source, record.link_fingerprint = source.value, link.fingerprint
        if instead_of is not None:
            record.detail = f"instead of the link {instead_of.fingerprint}, which was too old"
        await self._request_audit.record(record, asked.deadline)
        return link, source, obtained

    async def _obtain(self, permit: Permit, asked: ApiRequest) -> tuple[ConsoleLink, LinkSource]:
        if not asked.fresh:
            link = self._links.cached_link(permit)
            if link is not None:
                return link, LinkSource.LOCAL
        return await self._links.obtain(
            permit,
            deadline=asked.deadline,
            fresh=asked.fresh,
            headers=request_headers(asked.headers, asked.request_id, ResponseKind.CONSOLE_LINK),
        )

    async def _forward(
        self, principal: Principal, call: ResolvedCall, asked: ApiRequest
    ) -> ForwardedResponse:
        """Take a call that is not for a link through the rest of the stages."""
        operation = call.operation
        call = asked.call = await self._with_body(call, asked)
        weight = weight_of(principal.groups, self._group_weights)
        queue_request = QueueRequest(principal.key, weight, operation.priority)
        if call.instances:
            # Whoever has no business there costs no look-up and learns nothing from its time.
            scope = self._policies.current().scope(
                principal,
                operation.permission,
                call.project,
                self._clock.now(),
                self._inventories.current(call.project),
            )
            if scope.rule is None:
                self._telemetry.decided(operation.permission, allowed=False)
                raise NotPermitted("no grant applies")
            self._limits.admit_once(asked)
            call = await self._instances.resolve_servers(
                call, queue_request, deadline=asked.deadline, allows=scope.allows
            )
            asked.call = call
        # Decided only now: a body or a look-up may have been a while under way.
        if operation.response is ResponseKind.PERMISSIONS:
            self._limits.admit_once(asked)
            policy, inventory = self._policies.current(), self._inventories.current(call.project)
            now = self._clock.now()
            return ForwardedResponse(
                200, JSON, permissions_on(principal, call, policy, now, inventory)
            )
        permit = self._decide(principal, call)
        asked.enter("admit")
        self._limits.admit_once(asked)
        return await self._perform(permit, queue_request, asked)

    def _find_out_for_what(self, asked: ApiRequest, refusal: NotAuthenticated) -> None:
        """Resolve what was asked by somebody who is known, yet was refused before that."""
        if asked.call is None and (asked.principal or refusal.principal) is not None:
            with suppress(BadRequest):
                asked.call = self._catalogue.resolve(
                    asked.method, asked.target, has_body=asked.has_body
                )

    def _decide(self, principal: Principal, call: ResolvedCall) -> Permit:
        permission = call.operation.permission
        try:
            permit = self._permit(principal, call)
        except NotPermitted:
            self._telemetry.decided(permission, allowed=False)
            raise
        self._telemetry.decided(permission, allowed=True)
        return permit

    async def _perform(
        self, permit: Permit, queue_request: QueueRequest, asked: ApiRequest
    ) -> ForwardedResponse:
        if asked.signed is not None:
            await self._credentials.use(asked.signed)
        attempts = Attempts(partial(self._permitted_now, permit.principal, permit.call))
        send = partial(self._sent, permit, queue_request, asked, attempts)
        try:
            if permit.call.operation.writes:
                asked.enter("record")
                return await self._writes.perform(permit, asked, attempts, send)
            return await send()
        except _NOTHING_DONE:
            if asked.signed is not None:
                await self._credentials.undo_use(asked.signed)
            raise

    async def _sent(
        self, permit: Permit, queue_request: QueueRequest, asked: ApiRequest, attempts: Attempts
    ) -> ForwardedResponse:
        operation = permit.call.operation
        asked.enter("obtain")
        try:
            return await self._forwarding.forward(
                permit,
                queue_request,
                attempts=attempts,
                deadline=asked.deadline,
                fresh=asked.fresh,
                headers=request_headers(asked.headers, asked.request_id, operation.response),
            )
        finally:
            # Whatever came of it: it may be done all the same, or be repeated after it was.
            if operation.permission == SERVER_TAG:
                self._inventories.refresh_soon(permit.call.project)

    def _permitted_now(self, principal: Principal, call: ResolvedCall) -> Permit:
        self._identify.check(principal)
        return self._permit(principal, call)

    def _permit(self, principal: Principal, call: ResolvedCall) -> Permit:
        inventory = self._inventories.current(call.project)
        return self._policies.current().permit(principal, call, self._clock.now(), inventory)

    async def _with_body(self, call: ResolvedCall, asked: ApiRequest) -> ResolvedCall:
        limit = call.operation.body_bytes_max
        if not limit:
            return call
        body = asked.body
        return resolve_body(call, await asked.read_body(limit) if body is None else body)
