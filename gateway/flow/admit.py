"""Stage admit: the caller's rate limit, single use of a signed write, queue weight and priority."""

from collections.abc import Mapping

from gateway.domain.model import Operation, Principal, QueueRequest
from gateway.domain.queue.fair_queue import weight_of
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.request import ApiRequest


class Admit:
    def __init__(
        self,
        limits: CallerLimits,
        credentials: CallerCredentials,
        *,
        group_weights: Mapping[str, float],
    ) -> None:
        """`group_weights`: the share of the upstream budget by group; 1 if none is configured."""
        self._limits = limits
        self._credentials = credentials
        self._group_weights = group_weights

    def __call__(self, request: ApiRequest) -> None:
        """Count the request in the caller's rate limit; raise CallerLimited above it."""
        request.enter("admit")
        self._limits.admit_once(request)

    def queue_request(self, principal: Principal, operation: Operation) -> QueueRequest:
        """Return the queue request of a call to the cloud: caller, weight and priority."""
        weight = weight_of(principal.groups, self._group_weights)
        return QueueRequest(principal.key, weight, operation.priority)

    async def use_signature(self, request: ApiRequest) -> None:
        """Accept a signed write once; raise NotAuthenticated for a replay."""
        if request.signed is not None:
            await self._credentials.mark_used(request.signed)

    async def undo_signature(self, request: ApiRequest) -> None:
        """Allow a signed write again, because it had no effect."""
        if request.signed is not None:
            await self._credentials.unmark_used(request.signed)
