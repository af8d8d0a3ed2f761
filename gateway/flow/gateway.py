"""The order of things: identify, resolve, decide, admit, obtain, record. One branch: a link or not.

Each stage takes what the one before proved. A link that this process holds is answered without
a network, after the same identification, decision and record as any other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from gateway.errors import (
    BadRequest,
    BudgetExhausted,
    CallerLimited,
    DeadlineExceeded,
    JournalUnavailable,
    NotAuthenticated,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console import Consoles
from gateway.flow.credentials import CallerCredentials
from gateway.flow.forwarding import JSON, Forwarded, Forwarding
from gateway.flow.identify import Identify
from gateway.flow.instances import Instances
from gateway.model import (
    SAFE_METHODS,
    SERVER_TAG,
    Answer,
    Call,
    ConsoleLink,
    Demand,
    LinkSource,
    Principal,
    StageTimes,
)
from gateway.ports import (
    RECORDED_WITHIN_S,
    AuditRecord,
    Clock,
    Inventories,
    Journal,
    Policies,
    Telemetry,
    Trace,
)
from gateway.rules.catalogue import Catalogue, with_body
from gateway.rules.fair_queue import weight_of
from gateway.rules.headers import travelling
from gateway.rules.own_permissions import permissions_on
from gateway.rules.policy import Permit, Policy
from gateway.rules.sdk_signature import Presented

_NOTHING_DONE = (
    BudgetExhausted,
    JournalUnavailable,
    NotPermitted,
    ServiceLoginFailed,
    UpstreamBusy,
    UpstreamSuspended,
)
"""How a permitted write ends of which nothing was done, so that it may be sent again as it is."""
_RECORD_AT_LEAST_S = 0.25
"""What was obtained at the last moment is given so long to be put on record."""


@dataclass(slots=True)
class Asked:
    """One request, as the edge read it; the flow notes down what it finds out."""

    authorization: Sequence[str]
    """Every value of the header; so with X-Auth-Token."""
    x_auth_token: Sequence[str]
    method: str
    target: str
    has_body: bool
    read_body: Callable[[int], Awaitable[bytes]]
    """Reads all of it, up to so many bytes; raises RequestTooLarge."""
    fresh: bool
    request_id: str
    client_address: str
    deadline: float
    """Monotonic seconds."""
    headers: Iterable[tuple[str, str]]
    """As the caller sent them; few of them travel on."""
    x_security_token: Sequence[str] = ()
    body: bytes | None = None
    """Where it was read before it was known whose it is."""
    signed: Presented | None = None
    """The write as it was signed, which counts once."""
    principal: Principal | None = None
    call: Call | None = None
    is_admitted: bool = False
    trace: Trace | None = None
    """None: nobody wants to know."""

    def enter(self, stage: str) -> None:
        if self.trace is not None:
            self.trace.enter(stage)

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
        inventories: Inventories,
        instances: Instances,
        forwarding: Forwarding,
        group_weights: Mapping[str, float],
        journal: Journal,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._identify = identify
        self._credentials = credentials
        self._catalogue = catalogue
        self._policies = policies
        self._limits = limits
        self._consoles = consoles
        self._inventories = inventories
        self._instances = instances
        self._forwarding = forwarding
        self._group_weights = group_weights
        self._journal = journal
        self._clock = clock
        self._telemetry = telemetry

    async def answer(self, asked: Asked) -> Answered | Forwarded:
        """Take one request through all stages; raise the GatewayError of the one that refused."""
        try:
            return await self._answer(asked)
        except NotPermitted as refusal:
            # Within the caller's own limit, which so bounds what he can have us write.
            self._admit(asked)
            await self._record_refusal(asked, str(refusal), refusal.rule)
            raise
        except NotAuthenticated as refusal:
            await self._record_unauthenticated(asked, refusal)
            raise

    async def _answer(self, asked: Asked) -> Answered | Forwarded:
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
        if call.operation.answer is not Answer.CONSOLE_LINK:
            return await self._forward(principal, call, asked)
        authority = self._authority()
        permit = self._decide(principal, call)
        decided = monotonic()

        asked.enter("admit")
        self._admit(asked)
        if asked.signed is not None:
            await self._credentials.use(asked.signed)
        link, source, obtained = await self._obtain_on_record(permit, asked)
        if not self._consoles.is_good(permit, link):  # it had been held for long
            link, source, obtained = await self._obtain_on_record(permit, asked, instead_of=link)
            if not self._consoles.is_good(permit, link):
                raise DeadlineExceeded("the link came too near its end while it was recorded")
        if self._authority() != authority:
            self._permitted_now(principal, call)
        recorded = monotonic()
        self._telemetry.link_served(
            self._consoles.account_of(permit),
            principal.groups,
            source,
            StageTimes(
                identified - began, decided - identified, obtained - decided, recorded - obtained
            ),
        )
        return Answered(link, link.good_until - recorded, source)

    async def _signed(self, asked: Asked) -> str:
        """Return the JWT behind a signature, which covers the body: it is read before the rest."""

        async def read_body() -> bytes:
            if asked.has_body:
                asked.body = await asked.read_body(self._catalogue.body_bytes_max)
            return asked.body or b""

        presented = Presented(asked.method, asked.target, tuple(asked.headers))
        token = await self._credentials.jwt_of_signed(presented, read_body)
        if asked.method not in SAFE_METHODS:
            asked.signed = presented
        return token

    def _authority(self) -> tuple[Policy, int]:
        """Return what decides; another than before: ask again what was decided meanwhile."""
        return self._policies.current(), self._identify.revocations_heard

    async def _obtain_on_record(
        self, permit: Permit, asked: Asked, instead_of: ConsoleLink | None = None
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
        record = self._allowed("console_link_issued", permit, asked)
        record.source, record.link_fingerprint = source.value, link.fingerprint
        if instead_of is not None:
            record.detail = f"instead of the link {instead_of.fingerprint}, which was too old"
        await self._record(record, asked)
        return link, source, obtained

    async def _obtain(self, permit: Permit, asked: Asked) -> tuple[ConsoleLink, LinkSource]:
        if not asked.fresh:
            link = self._consoles.recall(permit)
            if link is not None:
                return link, LinkSource.LOCAL
        return await self._consoles.obtain(
            permit,
            deadline=asked.deadline,
            fresh=asked.fresh,
            headers=travelling(asked.headers, asked.request_id, Answer.CONSOLE_LINK),
        )

    async def _forward(self, principal: Principal, call: Call, asked: Asked) -> Forwarded:
        """Take a call that is not for a link through the rest of the stages."""
        operation = call.operation
        call = asked.call = await self._with_body(call, asked)
        weight = weight_of(principal.groups, self._group_weights)
        demand = Demand(principal.key, weight, operation.priority)
        if call.instances:
            # Whoever has no business there costs no look-up and learns nothing from its time.
            reach = self._policies.current().reach(
                principal,
                operation.permission,
                call.project,
                self._clock.now(),
                self._inventories.current(call.project),
            )
            if reach.rule is None:
                self._telemetry.decided(operation.permission, allowed=False)
                raise NotPermitted("no grant applies")
            self._admit(asked)
            call = await self._instances.placed(
                call, demand, deadline=asked.deadline, allows=reach.allows
            )
            asked.call = call
        # Decided only now: a body or a look-up may have been a while under way.
        if operation.answer is Answer.PERMISSIONS:
            self._admit(asked)
            policy, inventory = self._policies.current(), self._inventories.current(call.project)
            now = self._clock.now()
            return Forwarded(200, JSON, permissions_on(principal, call, policy, now, inventory))
        permit = self._decide(principal, call)
        asked.enter("admit")
        self._admit(asked)
        return await self._perform(permit, demand, asked)

    def _admit(self, asked: Asked) -> None:
        if asked.principal is not None and not asked.is_admitted:
            self._limits.admit(asked.principal.key)
            asked.is_admitted = True

    def _decide(self, principal: Principal, call: Call) -> Permit:
        permission = call.operation.permission
        try:
            permit = self._permit(principal, call)
        except NotPermitted:
            self._telemetry.decided(permission, allowed=False)
            raise
        self._telemetry.decided(permission, allowed=True)
        return permit

    async def _perform(self, permit: Permit, demand: Demand, asked: Asked) -> Forwarded:
        operation = permit.call.operation
        if asked.signed is not None:
            await self._credentials.use(asked.signed)
        try:
            if operation.writes:  # it cannot be taken back, so it is recorded before it is sent
                asked.enter("record")
                await self._record(self._allowed("write_permitted", permit, asked), asked)
            asked.enter("obtain")
            return await self._sent(permit, demand, asked)
        except _NOTHING_DONE:
            if asked.signed is not None:
                await self._credentials.take_back(asked.signed)
            raise

    async def _sent(self, permit: Permit, demand: Demand, asked: Asked) -> Forwarded:
        operation = permit.call.operation
        try:
            return await self._forwarding.perform(
                permit,
                demand,
                permitted_now=partial(self._permitted_now, permit.principal, permit.call),
                deadline=asked.deadline,
                fresh=asked.fresh,
                headers=travelling(asked.headers, asked.request_id, operation.answer),
            )
        finally:
            # Whatever came of it: it may be done all the same, or be repeated after it was.
            if operation.permission == SERVER_TAG:
                self._inventories.refresh_soon(permit.call.project)

    def _permitted_now(self, principal: Principal, call: Call) -> Permit:
        self._identify.check(principal)
        return self._permit(principal, call)

    def _permit(self, principal: Principal, call: Call) -> Permit:
        inventory = self._inventories.current(call.project)
        return self._policies.current().permit(principal, call, self._clock.now(), inventory)

    async def _with_body(self, call: Call, asked: Asked) -> Call:
        limit = call.operation.body_bytes_max
        if not limit:
            return call
        body = asked.body
        return with_body(call, await asked.read_body(limit) if body is None else body)

    async def _record(self, record: AuditRecord, asked: Asked) -> None:
        left_s = asked.deadline - self._clock.monotonic()
        if left_s > RECORDED_WITHIN_S:
            await self._journal.record(record)
            return
        try:
            async with asyncio.timeout(max(left_s, _RECORD_AT_LEAST_S)):
                await self._journal.record(record)
        except TimeoutError:
            raise DeadlineExceeded("while it was put on record") from None

    async def _record_unauthenticated(self, asked: Asked, refusal: NotAuthenticated) -> None:
        """Put on record who was refused, where that is proved: a revoked token, a used signature.

        Whoever asks too often stays refused, and is not put on record each time.
        """
        if asked.principal is None:
            asked.principal = refusal.principal
        with suppress(BadRequest, CallerLimited):
            if asked.principal is not None and asked.call is None:
                asked.call = self._catalogue.resolve(
                    asked.method, asked.target, has_body=asked.has_body
                )
            self._admit(asked)
            await self._record_refusal(asked, refusal.reason.value)

    async def _record_refusal(self, asked: Asked, why: str, rule: str = "") -> None:
        if asked.principal is None or asked.call is None:
            return
        record = self._about("refused", asked.principal, asked.call, asked)
        record.decision, record.rule = "denied", rule
        record.policy_version = self._policies.current().version
        record.detail = why
        await self._record(record, asked)

    def _allowed(self, event: str, permit: Permit, asked: Asked) -> AuditRecord:
        record = self._about(event, permit.principal, permit.call, asked)
        record.decision, record.rule = "allowed", permit.rule.place
        record.policy_version = permit.policy_version
        return record

    def _about(self, event: str, principal: Principal, call: Call, asked: Asked) -> AuditRecord:
        """Say who asked for what; what came of it is for the caller to add."""
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id=asked.request_id,
            issuer=principal.issuer,
            subject=principal.subject,
            groups=principal.groups,
            operation=call.operation.name,
            project=call.project,
            servers=call.servers,
            client_address=asked.client_address,
            permission=call.operation.permission,
            trace_id="" if asked.trace is None else asked.trace.trace_id,
        )
