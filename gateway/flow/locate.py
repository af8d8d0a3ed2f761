"""Stage locate, for calls that name instances: instance -> server, then the final decision."""

from gateway.domain.model import QueueRequest
from gateway.domain.policy.policy import Permit
from gateway.flow.decide import Decide, Lookup
from gateway.flow.instances import Instances
from gateway.flow.request import ApiRequest


class Locate:
    def __init__(self, instances: Instances, decide: Decide) -> None:
        self._instances = instances
        self._decide = decide

    async def __call__(
        self, decision: Permit | Lookup, queue_request: QueueRequest, request: ApiRequest
    ) -> Permit:
        """Return the Permit of the call; a call without instances already has it.

        Raises NotPermitted and what Instances.resolve_servers raises.
        """
        if not isinstance(decision, Lookup):
            return decision
        request.enter("locate")
        call = await self._instances.resolve_servers(
            decision.call, queue_request, deadline=request.deadline, allows=decision.allows
        )
        request.call = call
        return self._decide(decision.principal, call)
