"""Which server an instance is on: asked of the cloud, and remembered for a while.

The cloud's own permissions cannot say more of an instance than its id (dossier 1.1); ours are
about servers, so the server is looked up before anything is decided.
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

_REMEMBERED_S = 300.0
_REMEMBERED_MAX = 20_000
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

        One that is on no server, or is not there at all, takes the right to everything: the call
        is marked as touching what it does not name. Raises NotPermitted, and what
        Exchange.call raises.
        """
        project = call.project
        if project not in self._exchanges:
            raise NotPermitted("no account has this project")
        # What others made known of a hidden one must not show, not even by its haste.
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
            answer = await self._exchanges[project].call(
                UpstreamRequest("GET", f"/v1/{project}/instances?{query}"),
                project=project,
                queue_request=queue_request,
                budget=BudgetClass.CONSOLE,
                deadline=deadline,
            )
        except UpstreamRefused as refusal:
            # One that is not there may spoil the answer for all: then each is asked alone.
            if refusal.status == _NOT_FOUND and len(instances) > 1:
                for one in instances:
                    await self._look_up(project, [one], queue_request, deadline)
            elif refusal.status != _NOT_FOUND:
                raise
            return
        page = self._read(answer.body)
        until = self._clock.monotonic() + _REMEMBERED_S
        for own, servers in zip(page.ids, page.servers, strict=True):
            if servers and own in instances:
                self._known[project, InstanceId(own)] = (servers[0], until)
        while len(self._known) > _REMEMBERED_MAX:
            self._known.popitem(last=False)

    def _server(self, project: ProjectId, instance: InstanceId) -> ServerId | None:
        server, until = self._known.get((project, instance), (None, 0.0))
        return server if self._clock.monotonic() < until else None
