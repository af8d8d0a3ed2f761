"""The server of an instance: looked up in the cloud, and cached.

The policy is about servers. So the server of an instance is looked up before the decision.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gateway.domain.catalogue.catalogue import encode_query
from gateway.domain.catalogue.listing import ListPageReader
from gateway.domain.errors import NotPermitted, UpstreamRefused
from gateway.domain.model import (
    BudgetClass,
    InstanceId,
    Listing,
    Paging,
    ProjectId,
    QueueRequest,
    ResolvedCall,
    ServerId,
    UpstreamRequest,
)
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange

_CACHE_TTL_S = 300.0
_CACHE_MAX = 20_000
_NOT_FOUND = 404


class Instances:
    def __init__(self, exchanges: Mapping[ProjectId, Exchange], clock: Clock) -> None:
        """`exchanges` by project."""
        self._exchanges = exchanges
        self._clock = clock
        self._read = ListPageReader(Listing("instances", "server_id", Paging.MARKER))
        self._known: OrderedDict[tuple[ProjectId, InstanceId], tuple[ServerId, float]] = (
            OrderedDict()
        )

    async def resolve_servers(
        self,
        call: ResolvedCall,
        queue_request: QueueRequest,
        *,
        deadline: float,
        allows: Callable[[ServerId], bool],
    ) -> ResolvedCall:
        """Return `call` with the servers of its instances.

        An instance without a known server requires a grant on the whole project: the call is
        marked as touching unnamed servers. Raises NotPermitted, and what Exchange.call raises.
        """
        project = call.project
        if project not in self._exchanges:
            raise NotPermitted("no account has this project")
        # A cached server that is hidden from this caller is looked up again: a quick response
        # would reveal that another caller knows the instance.
        known = [(one, self._server(project, one)) for one in call.instances]
        unknown = [one for one, server in known if server is None or not allows(server)]
        if unknown:
            await self._look_up(project, unknown, queue_request, deadline)
        servers = [self._server(project, one) for one in call.instances]
        found = tuple(dict.fromkeys(server for server in servers if server is not None))
        return replace(
            call,
            servers=(*call.servers, *found),
            touches_unnamed=call.touches_unnamed or None in servers,
        )

    async def _look_up(
        self,
        project: ProjectId,
        instances: Sequence[InstanceId],
        queue_request: QueueRequest,
        deadline: float,
    ) -> None:
        query = encode_query([("instance_id", ",".join(instances)), ("limit", "1000")])
        try:
            response = await self._exchanges[project].call(
                UpstreamRequest("GET", f"/v1/{project}/instances?{query}"),
                project=project,
                queue_request=queue_request,
                budget=BudgetClass.CONSOLE,
                deadline=deadline,
            )
        except UpstreamRefused as rejection:
            # One unknown instance may fail the whole request: then look up each one separately.
            if rejection.status == _NOT_FOUND and len(instances) > 1:
                for one in instances:
                    await self._look_up(project, [one], queue_request, deadline)
            elif rejection.status != _NOT_FOUND:
                raise
            return
        page = self._read(response.body)
        until = self._clock.monotonic() + _CACHE_TTL_S
        for own, servers in zip(page.ids, page.servers, strict=True):
            if servers and own in instances:
                self._known[project, InstanceId(own)] = (servers[0], until)
        while len(self._known) > _CACHE_MAX:
            self._known.popitem(last=False)

    def _server(self, project: ProjectId, instance: InstanceId) -> ServerId | None:
        server, until = self._known.get((project, instance), (None, 0.0))
        return server if self._clock.monotonic() < until else None
