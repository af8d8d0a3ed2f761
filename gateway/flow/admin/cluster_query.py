"""Cluster queries: query every process and merge the responses."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from gateway.domain.model import Principal
from gateway.flow.admin.messages import (
    AdminResponse,
    BudgetEntry,
    LinkEntry,
    PolicyResponse,
    ProcessPolicy,
    ProcessQueue,
    ProcessSessions,
    QueueResponse,
    SessionsRequest,
    SessionsResponse,
    TokenEntry,
    timestamp,
)
from gateway.flow.console_links import CachedLink
from gateway.flow.decide import Policies
from gateway.flow.fair_budget import BudgetQueue

_ENTRIES_MAX = 1_000
"""Tokens, and links, in the response of one process; the rest is counted in `truncated`."""
_TIMEOUT_S = 0.5
_REFRESH_TIMEOUT_S = 0.3
"""Less than the time that a process has to respond."""
_RELOAD_TIMEOUT_S = 3.0


class ReloadedPolicies(Policies, Protocol):
    """The policy, with its load time, its error and a reload."""

    @property
    def loaded_at(self) -> float:
        """Seconds since the epoch."""

    @property
    def error(self) -> str:
        """The first error in the current file; "" if the file was accepted."""

    async def reload(self) -> bool:
        """Reload the file; return whether it was accepted."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    responses: Sequence[bytes]
    """Responses of other processes that arrived in time."""
    processes: int
    """Number of processes, this one included, at the last contact with the store; 0: none yet."""


class Replicas(Protocol):
    """The gateway's processes, on this host and on others."""

    async def query(self, query: bytes, *, timeout_s: float) -> QueryResult:
        """Query all other processes; while the store is unavailable there is no response."""

    def on_query(self, respond: Callable[[bytes], Awaitable[bytes]]) -> None:
        """`respond` returns the response to a query, or raises ValueError if it is unknown."""


class SessionsQuery(msgspec.Struct, frozen=True, tag="sessions"):
    request: SessionsRequest


class QueueQuery(msgspec.Struct, frozen=True, tag="queue"):
    pass


class GroupsQuery(msgspec.Struct, frozen=True, tag="groups"):
    issuer: str
    subject: str


class ProcessGroups(AdminResponse, frozen=True):
    """The groups of the newest token of a person in the cache of a process."""

    issued_at: float
    """0: the process has no token of the person."""
    groups: list[str]


class PolicyQuery(msgspec.Struct, frozen=True, tag="policy"):
    reload: bool


_Query = SessionsQuery | QueueQuery | PolicyQuery | GroupsQuery
_QUERY: Final[msgspec.json.Decoder[_Query]] = msgspec.json.Decoder(_Query)
_Response = TypeVar("_Response", bound=AdminResponse)


class TokenCacheView(Protocol):
    def principals(self) -> list[Principal]: ...


class LinkCacheView(Protocol):
    def cached_links(self) -> list[CachedLink]: ...


class BudgetView(Protocol):
    @property
    def queues(self) -> tuple[BudgetQueue, ...]: ...


class ProcessView:
    """The state of this process, as the admin API shows it."""

    def __init__(
        self,
        process: str,
        tokens: TokenCacheView,
        links: LinkCacheView,
        budget: BudgetView,
        policies: ReloadedPolicies,
    ) -> None:
        self.process = process
        self._tokens = tokens
        self._links = links
        self._budget = budget
        self._policies = policies

    def sessions(self, request: SessionsRequest) -> ProcessSessions:
        tokens = [one for one in reversed(self._tokens.principals()) if _matches(one, request)]
        links = [one for one in reversed(self._links.cached_links()) if _matches_link(one, request)]
        return ProcessSessions(
            self.process,
            [
                TokenEntry(
                    one.issuer,
                    one.subject,
                    one.token_id,
                    timestamp(one.issued_at),
                    timestamp(one.expires_at),
                )
                for one in tokens[:_ENTRIES_MAX]
            ],
            [
                LinkEntry(
                    one.account,
                    one.project,
                    one.server,
                    one.person.partition(":")[2],
                    round(one.left_s),
                    one.fingerprint,
                )
                for one in links[:_ENTRIES_MAX]
            ],
            truncated=max(0, len(tokens) - _ENTRIES_MAX) + max(0, len(links) - _ENTRIES_MAX),
        )

    def groups(self, query: GroupsQuery) -> ProcessGroups:
        found = [
            one
            for one in self._tokens.principals()
            if (one.issuer, one.subject) == (query.issuer, query.subject)
        ]
        if not found:
            return ProcessGroups(0.0, [])
        newest = max(found, key=lambda one: one.issued_at)
        return ProcessGroups(newest.issued_at, sorted(newest.groups))

    async def queue(self) -> ProcessQueue:
        """Return the budgets as all replicas see them; without Redis, as this process does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_TIMEOUT_S), asyncio.TaskGroup() as refreshing:
                for line in self._budget.queues:
                    refreshing.create_task(line.refresh())
        budgets = [
            BudgetEntry(
                line.account,
                line.budget.value,
                line.limit.ceiling,
                line.rate,
                line.paused_s,
                line.is_local,
                line.queued,
                dict(Counter(one.partition(":")[2] for one in line.waiting)),
            )
            for line in self._budget.queues
        ]
        return ProcessQueue(self.process, budgets)

    async def policy(self, *, reload: bool) -> ProcessPolicy:
        if reload:
            await self._policies.reload()
        policy, loaded_at = self._policies.current(), timestamp(self._policies.loaded_at)
        error = self._policies.error
        return ProcessPolicy(
            self.process, policy.version, policy.size, loaded_at, bool(error), error
        )


class ClusterQuery:
    """Queries every process of the gateway, this one included, and merges the responses."""

    def __init__(self, view: ProcessView, replicas: Replicas) -> None:
        self._view = view
        self._replicas = replicas
        replicas.on_query(self._respond)

    async def sessions(self, request: SessionsRequest) -> SessionsResponse:
        own = self._view.sessions(request)
        return SessionsResponse(*await self._all(own, SessionsQuery(request), _TIMEOUT_S))

    async def queue(self) -> QueueResponse:
        own = await self._view.queue()
        return QueueResponse(*await self._all(own, QueueQuery(), _TIMEOUT_S))

    async def policy(self, *, reload: bool) -> PolicyResponse:
        own = await self._view.policy(reload=reload)
        timeout_s = _RELOAD_TIMEOUT_S if reload else _TIMEOUT_S
        return PolicyResponse(*await self._all(own, PolicyQuery(reload), timeout_s))

    async def newest_groups(self, issuer: str, subject: str) -> frozenset[str] | None:
        """Return the groups of the newest token of a person in any process; None: there is none."""
        query = GroupsQuery(issuer, subject)
        found, _, _ = await self._all(self._view.groups(query), query, _TIMEOUT_S)
        newest = max(found, key=lambda one: one.issued_at)
        return frozenset(newest.groups) if newest.issued_at else None

    async def hosts(self) -> tuple[frozenset[str], int]:
        """Return the hosts of all processes, and how many processes did not respond."""
        found = await self.policy(reload=False)
        names = frozenset(one.process.rpartition(":")[0] for one in found.processes)
        return names, found.missing

    async def _all(
        self, own: _Response, query: _Query, timeout_s: float
    ) -> tuple[list[_Response], int, int]:
        """Return the responses, the number of processes, and how many did not respond."""
        result = await self._replicas.query(msgspec.json.encode(query), timeout_s=timeout_s)
        responses = [own]
        for response in result.responses:
            with suppress(msgspec.DecodeError):  # from another version of the gateway
                responses.append(msgspec.json.decode(response, type=type(own)))
        total = max(result.processes, len(responses))
        return responses, total, total - len(responses)

    async def _respond(self, query: bytes) -> bytes:
        """Respond to another process; raise ValueError for a query of another version."""
        response: AdminResponse
        decoded: _Query = _QUERY.decode(query)
        match decoded:
            case SessionsQuery(request=request):
                response = self._view.sessions(request)
            case QueueQuery():
                response = await self._view.queue()
            case GroupsQuery():
                response = self._view.groups(decoded)
            case PolicyQuery(reload=reload):
                response = await self._view.policy(reload=reload)
        return msgspec.json.encode(response)


def _matches(principal: Principal, request: SessionsRequest) -> bool:
    return (
        request.server is None
        and request.issuer in (None, principal.issuer)
        and request.subject in (None, principal.subject)
    )


def _matches_link(link: CachedLink, request: SessionsRequest) -> bool:
    issuer, _, subject = link.person.partition(":")[2].partition(":")
    return (
        request.server in (None, link.server)
        and request.issuer in (None, issuer)
        and request.subject in (None, subject)
    )
