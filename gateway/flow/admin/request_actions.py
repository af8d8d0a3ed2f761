"""The actions of the admin API on access requests."""

from collections.abc import Iterable
from functools import partial
from typing import Final, Protocol

from gateway.domain.requests.model import AccessRequest, RequestPerson
from gateway.flow.admin.administration import ActionPlan, Administrator
from gateway.flow.admin.messages import (
    AccessRequestEntry,
    AccessRequestsRequest,
    AccessRequestsResponse,
    EndAccessRequestRequest,
    EndedAccessRequestResponse,
    timestamp,
)
from gateway.flow.clock import Clock

_OPEN: Final = ("pending", "active")


class RequestDirectory(Protocol):
    """The access requests of the gateway."""

    def all(self) -> Iterable[AccessRequest]: ...

    async def refresh(self) -> bool:
        """Read the steps of other replicas; return whether the store answered."""

    def is_in_force(self, request: AccessRequest) -> bool:
        """Return whether a request is a grant now, if no denial or lock overrides it."""

    async def end_as_administrator(self, request_id: str, by: RequestPerson, reason: str) -> bool:
        """End an open request; return whether all replicas are notified. Raises BadRequest."""


class RequestActions:
    def __init__(self, directory: RequestDirectory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    def list(self, request: AccessRequestsRequest, _: Administrator) -> ActionPlan:
        return ActionPlan(partial(self._list, request), target=_target(request))

    def end(self, request: EndAccessRequestRequest, admin: Administrator) -> ActionPlan:
        by = RequestPerson(admin.principal.issuer, admin.principal.subject)
        found = next((one for one in self._directory.all() if one.id == request.id), None)
        perform = partial(self._end, request, by)
        if found is None:
            return ActionPlan(perform)
        return ActionPlan(
            perform,
            target=found.requester.name,
            project=found.project,
            servers=found.servers,
        )

    async def _list(self, request: AccessRequestsRequest) -> AccessRequestsResponse:
        is_complete = await self._directory.refresh()
        now = self._clock.now()
        wanted = _OPEN if request.state is None else (request.state,)
        found = [
            self._entry(one, now)
            for one in self._directory.all()
            if request.issuer in (None, one.requester.issuer)
            and request.subject in (None, one.requester.subject)
            and one.state(now) in wanted
        ]
        return AccessRequestsResponse(found, is_complete)

    async def _end(
        self, request: EndAccessRequestRequest, by: RequestPerson
    ) -> EndedAccessRequestResponse:
        all_notified = await self._directory.end_as_administrator(request.id, by, request.reason)
        return EndedAccessRequestResponse(request.id, all_notified)

    def _entry(self, request: AccessRequest, now: float) -> AccessRequestEntry:
        return AccessRequestEntry(
            request.id,
            request.state(now),
            request.requester.issuer,
            request.requester.subject,
            request.rule,
            request.role,
            request.project,
            list(request.servers),
            request.duration_s,
            request.reason,
            request.ticket,
            request.broken_glass,
            timestamp(request.created_at),
            None if request.ends_at is None else timestamp(request.ends_at),
            [one.by.name for one in request.counted_approvals()],
            self._directory.is_in_force(request),
        )


def _target(request: AccessRequestsRequest) -> str:
    return f"{request.issuer or ''}:{request.subject}" if request.subject else ""
