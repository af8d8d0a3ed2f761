"""Access requests: create, approve, deny, withdraw, end. Each step is recorded before its effect.

A step is decided on the cached copy, recorded, and stored by compare-and-set. If another step came
first, it is decided again on the newer copy. Ending needs no Redis: an override ends the request
here at once, and on the other replicas when Redis is available.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import msgspec

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import (
    AccessRequestConflict,
    AccessRequestForbidden,
    AccessRequestLimited,
    AccessRequestNotFound,
    AccessRequestsUnavailable,
    BadRequest,
    GatewayError,
    StoreUnavailable,
)
from gateway.domain.model import Principal, ResolvedCall
from gateway.domain.overrides import EndedRequest, Override
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.requests import steps
from gateway.domain.requests.grants import is_allowed, request_location
from gateway.domain.requests.model import AccessRequest, Closing, RequestPerson
from gateway.domain.requests.notices import Notice
from gateway.domain.requests.wanted import Wanted, check_wanted, choose_rule
from gateway.flow.clock import Clock
from gateway.flow.decide import Policies
from gateway.flow.identify import Identify
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit
from gateway.flow.requests.active_requests import ActiveRequests
from gateway.flow.requests.request_telemetry import RequestStep, RequestTelemetry

_ATTEMPTS: Final = 5
_RETRY_AFTER_S: Final = 2.0
_FULL_RETRY_AFTER_S: Final = 3_600.0
_LOST: Final = "Other requests came first, again and again. Retry."
_DAY_S: Final = 86_400.0
_END_MARGIN_S: Final = 600.0
"""How much longer than any copy of a request the override lives that ends it."""


NoticesOf = Callable[[str, AccessRequest], Sequence[Notice]]


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """Settings of the config section `requests`."""

    pending_s: float
    person_pending_max: int


class RequestEnds(Protocol):
    """The overrides that end requests."""

    @property
    def ended_requests(self) -> frozenset[str] | None:
        """IDs of ended requests; None: they are not loaded."""

    async def add(self, override: Override) -> bool:
        """Apply an override; return whether all replicas are notified."""


class AccessRequests:
    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        *,
        requests: ActiveRequests,
        policies: Policies,
        ends: RequestEnds,
        identify: Identify,
        audit: RequestAudit,
        bounds: RequestBounds,
        clock: Clock,
        telemetry: RequestTelemetry,
        new_id: Callable[[], str],
        notices_of: NoticesOf = lambda *_: (),
    ) -> None:
        """`notices_of` returns the notices of webhooks about a step."""
        self._requests = requests
        self._policies = policies
        self._ends = ends
        self._identify = identify
        self._audit = audit
        self._bounds = bounds
        self._clock = clock
        self._telemetry = telemetry
        self._new_id = new_id
        self._notices_of = notices_of

    @property
    def rules(self) -> Mapping[str, RequestRule]:
        """The rules in force, by name."""
        return self._policies.current().request_rules

    def rules_for(self, person: Principal) -> list[RequestRule]:
        """Return the rules by which a person may make requests now."""
        now = self._clock.now()
        return [rule for rule in self.rules.values() if rule.may_request(person, now)]

    def is_approver(self, person: Principal) -> bool:
        """Return whether a person decides on the requests of any rule."""
        return any(rule.may_decide(person) for rule in self.rules.values())

    async def create(
        self, wanted: Wanted, person: Principal, context: RequestContext
    ) -> AccessRequest:
        """Make a request; with break-glass, its access begins at once."""
        check_wanted(wanted)
        rule = choose_rule(self.rules_for(person), wanted)
        self._require_loaded()
        await self._sync()
        now = self._clock.now()
        self._check_limits(wanted, rule, person, now)
        request = self._new_request(wanted, rule, person, now)
        step = RequestStep.REQUESTED
        record = partial(self._record, event="access_request_requested")
        if wanted.break_glass:
            step = RequestStep.BREAK_GLASS
            record = partial(self._record, event="access_request_break_glass")
        await record(request, person, context)
        async with self._failure_recorded(request, person, context):
            self._identify.check(person)
            for _ in range(_ATTEMPTS):
                # No wait between this check and the store's version: a sync may bring both.
                self._check_limits(wanted, rule, person, now)
                put = await self._requests.create(request, self._notices_of(step.value, request))
                if put.revision:
                    self._telemetry.request_step(step)
                    return request
                if put.is_full:
                    detail = "The gateway stores as many access requests as it may."
                    raise AccessRequestLimited(detail, retry_after_s=_FULL_RETRY_AFTER_S)
                await self._requests.sync()
            raise AccessRequestConflict(_LOST)

    async def approve(
        self, request_id: str, person: Principal, context: RequestContext, content_hash: str
    ) -> AccessRequest:
        self._require_loaded()

        def approved(request: AccessRequest) -> AccessRequest:
            rule = self.rules.get(request.rule)
            now = self._clock.now()
            return steps.approve(request, rule, person, content_hash=content_hash, now=now)

        for _ in range(_ATTEMPTS):
            before = await self.find(request_id, person)
            async with self._refusal_recorded(before, person, context):
                after = approved(before)
            await self._record(after, person, context, event="access_request_approved")
            async with self._failure_recorded(after, person, context):
                self._identify.check(person)
                approved(self._current(before, person))
                notices = self._notices_of(RequestStep.APPROVED.value, after)
                if await self._requests.replace(before, after, notices):
                    self._telemetry.request_step(RequestStep.APPROVED)
                    return after
                await self._requests.sync()
        raise AccessRequestConflict(_LOST)

    async def deny(
        self, request_id: str, person: Principal, context: RequestContext, reason: str
    ) -> AccessRequest:
        request = await self.find(request_id, person)
        now = self._clock.now()
        async with self._refusal_recorded(request, person, context):
            closed = steps.deny(request, self.rules.get(request.rule), person, now, reason)
        await self._record(closed, person, context, event="access_request_denied")
        return await self._close(RequestStep.DENIED, closed, person)

    async def withdraw(
        self, request_id: str, person: Principal, context: RequestContext, reason: str
    ) -> AccessRequest:
        request = await self.find(request_id, person)
        closed = steps.withdraw(request, person, self._clock.now(), reason)
        await self._record(closed, person, context, event="access_request_withdrawn")
        return await self._close(RequestStep.WITHDRAWN, closed, person)

    async def end(
        self, request_id: str, person: Principal, context: RequestContext, reason: str
    ) -> AccessRequest:
        request = await self.find(request_id, person)
        now = self._clock.now()
        async with self._refusal_recorded(request, person, context):
            closed = steps.end(request, self.rules.get(request.rule), person, now, reason)
        await self._record(closed, person, context, event="access_request_ended")
        return await self._close(RequestStep.ENDED, closed, person)

    async def end_as_administrator(self, request_id: str, by: RequestPerson, reason: str) -> bool:
        """End an open request; return whether all replicas are notified. The caller records it.

        Raises BadRequest if no request with this ID is open.
        """
        request, now = self._requests.find(request_id), self._clock.now()
        if request is None or not self.as_known(request).is_open(now):
            raise BadRequest("No open access request has this ID. List them for their IDs.")
        closed = steps.close(request, "revoked", by, now, reason)
        self._telemetry.request_step(RequestStep.ENDED)
        return await self._apply_end(closed)

    async def find(self, request_id: str, person: Principal) -> AccessRequest:
        """Return a request that the person may see; raise AccessRequestNotFound."""
        request = self._requests.find(request_id)
        if request is None:  # another replica may have stored it a moment ago
            await self._sync()
            request = self._requests.find(request_id)
        if request is None or not self.is_visible(request, person):
            raise AccessRequestNotFound("no such request, or not visible")
        return self.as_known(request)

    def is_visible(self, request: AccessRequest, person: Principal) -> bool:
        """Return whether a person made the request, may decide on it, or has decided on it."""
        if steps.is_requester(request, person) or self.may_decide(request, person):
            return True
        by = (person.issuer, person.subject)
        deciders = [one.by for one in request.approvals]
        if request.closing is not None:
            deciders.append(request.closing.by)
        return any((one.issuer, one.subject) == by for one in deciders)

    def may_decide(self, request: AccessRequest, person: Principal) -> bool:
        return steps.may_decide(request, self.rules.get(request.rule), person)

    def is_own(self, request: AccessRequest, person: Principal) -> bool:
        return steps.is_requester(request, person)

    def awaits(self, request: AccessRequest, person: Principal) -> bool:
        """Return whether a pending request waits for this person's decision."""
        by = RequestPerson.of(person)
        return (
            request.state(self._clock.now()) == "pending"
            and self.may_decide(request, person)
            and not any(one.by.may_be(by) for one in request.approvals)
        )

    def steps_of(self, request: AccessRequest, person: Principal) -> list[str]:
        """Return the steps that a person may take now, as the API names them."""
        state, own = request.state(self._clock.now()), self.is_own(request, person)
        if state == "pending":
            if own:
                return ["withdraw"]
            decides = self.may_decide(request, person)
            approve = ["approve"] if self.awaits(request, person) else []
            return [*approve, "deny"] if decides else []
        is_end = state == "active" and (own or self.may_decide(request, person))
        return ["end"] if is_end else []

    def is_in_force(self, request: AccessRequest) -> bool:
        """Return whether a request is a grant now, if no denial or lock overrides it."""
        rule, now = self.rules.get(request.rule), self._clock.now()
        return (
            rule is not None
            and self._ends.ended_requests is not None
            and request.state(now) == "active"
            and rule.scope.is_valid_at(now)
            and is_allowed(request, rule)
        )

    def all(self) -> Iterator[AccessRequest]:
        """Yield every request, newest first."""
        return map(self.as_known, self._requests.all)

    def open(self) -> Iterator[AccessRequest]:
        """Yield the pending and active requests, newest first. Pages read these all the time."""
        found = sorted(self._requests.open, key=lambda one: (one.created_at, one.id), reverse=True)
        return map(self.as_known, found)

    def as_known(self, request: AccessRequest) -> AccessRequest:
        """Return a request as closed if an override has ended it, whatever its copy says."""
        ended = self._ends.ended_requests
        if request.closing is None and ended is not None and request.id in ended:
            closing = Closing("revoked", RequestPerson("", ""), self._clock.now())
            return msgspec.structs.replace(request, closing=closing)
        return request

    def _check_limits(
        self, wanted: Wanted, rule: RequestRule, person: Principal, now: float
    ) -> None:
        own = [one for one in self.all() if steps.is_requester(one, person)]
        pending = [one for one in own if one.state(now) == "pending"]
        if wanted.break_glass:
            assert rule.break_glass is not None
            used = [one for one in own if one.broken_glass]
            if any(one.is_open(now) for one in used):
                raise AccessRequestConflict(
                    "You have access by break-glass already. End it first: one at a time."
                )
            recent = [one.created_at for one in used if one.created_at > now - _DAY_S]
            if len(recent) >= rule.break_glass.per_day:
                raise AccessRequestLimited(
                    f"You may use break-glass {rule.break_glass.per_day} times in 24 hours.",
                    retry_after_s=min(recent) + _DAY_S - now,
                )
            return
        if any(not set(one.servers).isdisjoint(wanted.servers) for one in pending):
            raise AccessRequestConflict(
                "You have a pending request for one of these servers. Withdraw it first."
            )
        if len(own) >= max(self._requests.person_max, self._bounds.person_pending_max):
            raise AccessRequestLimited(
                f"You have made {len(own)} requests that are still listed, as many as you may.",
                retry_after_s=_FULL_RETRY_AFTER_S,
            )
        if len(pending) >= self._bounds.person_pending_max:
            raise AccessRequestLimited(
                f"You have {len(pending)} pending requests, as many as you may. Withdraw one.",
                retry_after_s=min(one.pending_until for one in pending) - now,
            )

    def _new_request(
        self, wanted: Wanted, rule: RequestRule, person: Principal, now: float
    ) -> AccessRequest:
        return AccessRequest(
            id=self._new_id(),
            requester=RequestPerson.of(person),
            rule=rule.name,
            role=rule.role,
            project=wanted.project,
            servers=wanted.servers,
            duration_s=wanted.duration_s,
            reason=wanted.reason.strip(),
            ticket=wanted.ticket,
            created_at=now,
            pending_until=now + self._bounds.pending_s,
            broken_glass=wanted.break_glass,
            started_at=now if wanted.break_glass else None,
        )

    def _current(self, request: AccessRequest, person: Principal) -> AccessRequest:
        """Return the cached copy after a wait; raise AccessRequestNotFound."""
        current = self._requests.find(request.id)
        if current is None or not self.is_visible(current, person):
            raise AccessRequestNotFound("no longer visible")
        ended = self._ends.ended_requests
        if ended is None or request.id in ended:
            raise AccessRequestConflict("The request has ended.")
        return current

    async def _close(
        self, step: RequestStep, closed: AccessRequest, person: Principal
    ) -> AccessRequest:
        self._identify.check(person)
        await self._apply_end(closed)
        self._telemetry.request_step(step)
        return closed

    async def _apply_end(self, closed: AccessRequest) -> bool:
        """End a request on all replicas; return whether all are notified."""
        assert closed.closing is not None
        closing = closed.closing
        override = Override(
            id=f"end-{closed.id}",
            created_at=closing.at,
            expires_at=closed.last_effect_at + _END_MARGIN_S,
            created_by=closing.by.name,
            reason=closing.reason,
            effect=EndedRequest(closed.id, closing.state, closing.by.issuer, closing.by.subject),
        )
        all_notified = await self._ends.add(override)
        event = "ended" if closing.state == "revoked" else closing.state
        await self._requests.close(closed, self._notices_of(event, closed))
        return all_notified

    async def refresh(self) -> bool:
        """Sync now, for a list with the steps of other replicas; return whether it succeeded."""
        try:
            await self._requests.sync()
        except StoreUnavailable:
            return False
        return True

    async def _sync(self) -> None:
        try:
            await self._requests.sync()
        except StoreUnavailable as error:
            raise _unavailable(error) from None

    def _require_loaded(self) -> None:
        if self._ends.ended_requests is None:
            raise AccessRequestsUnavailable("overrides not loaded", retry_after_s=_RETRY_AFTER_S)

    @asynccontextmanager
    async def _failure_recorded(
        self, request: AccessRequest, person: Principal, context: RequestContext
    ) -> AsyncIterator[None]:
        """Record that a recorded step had no effect, if it raises."""
        try:
            yield
        except GatewayError as error:
            record = self._about(request, person, context, event="access_request_failed")
            record.detail = str(error)
            await self._audit.record(record, context.deadline)
            if isinstance(error, StoreUnavailable):
                raise _unavailable(error) from None
            raise

    @asynccontextmanager
    async def _refusal_recorded(
        self, request: AccessRequest, person: Principal, context: RequestContext
    ) -> AsyncIterator[None]:
        """Record that a person may not take a step."""
        try:
            yield
        except AccessRequestForbidden as refusal:
            record = self._about(request, person, context, event="access_request_refused")
            record.decision, record.detail = "denied", str(refusal)
            await self._audit.record(record, context.deadline)
            raise

    def _record(
        self, request: AccessRequest, person: Principal, context: RequestContext, *, event: str
    ) -> Awaitable[None]:
        """Record a step before its effect; raise AuditLogUnavailable, DeadlineExceeded."""
        record = self._about(request, person, context, event=event)
        record.decision = "allowed"
        return self._audit.record(record, context.deadline)

    def _about(
        self, request: AccessRequest, person: Principal, context: RequestContext, *, event: str
    ) -> AuditRecord:
        assert context.call is not None
        call = ResolvedCall(context.call.operation, request.project, request.servers)
        record = self._audit.about(event, person, call, context)
        record.rule, record.target = request_location(request.id), request.requester.name
        record.policy_version = self._policies.current().version
        record.detail = audit_detail(request)
        return record


def audit_detail(request: AccessRequest) -> str:
    """Return what a record says about a request, as JSON."""
    detail = {
        "request_rule": request.rule,
        "role": request.role,
        "duration_s": request.duration_s,
        "reason": request.reason,
        "ticket": request.ticket,
        "hash": request.content_hash,
        "approvals": [one.by.name for one in request.approvals],
        "begins": request.started_at is not None and request.closing is None,
    }
    if request.closing is not None:
        detail["closing_reason"] = request.closing.reason
    return msgspec.json.encode(detail).decode()


def _unavailable(error: StoreUnavailable) -> AccessRequestsUnavailable:
    return AccessRequestsUnavailable(str(error), retry_after_s=_RETRY_AFTER_S)
