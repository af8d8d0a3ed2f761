"""Permit -> ConsoleLink: remembered here, kept in Redis, in flight, or fetched now."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from gateway.domain.errors import GatewayError, NotPermitted, UpstreamBroken
from gateway.domain.links.console_link import ConsoleAddresses, console_url
from gateway.domain.model import (
    ConsoleLink,
    Headers,
    LinkSource,
    Priority,
    ProjectId,
    QueueRequest,
    Reuse,
    Secret,
    UpstreamRequest,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.queue.fair_queue import weight_of
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange
from gateway.flow.single_flight import Fetched, FlightResult, SingleFlight
from gateway.flow.telemetry import Telemetry
from gateway.flow.waiters import Waiters

_RENEWAL_S = 15.0
_RENEW_AGAIN_AFTER_S = 5.0
_EAGERNESS = 4.0
"""How steeply the chance rises that a request starts the renewal: 2 % early, 100 % at the end."""


class Fingerprints(Protocol):
    def of(self, secret: Secret) -> str:
        """Tell secrets apart in logs and in the audit log, the same over all replicas."""


@dataclass(frozen=True, slots=True)
class ConsoleAccount:
    """One service account, as far as links are concerned."""

    name: str
    exchange: Exchange
    lifetime_s: float
    min_remaining_s: float
    renew_before_s: float
    reuse: Reuse
    addresses: ConsoleAddresses


@dataclass(frozen=True, slots=True)
class CachedLink:
    account: str
    project: str
    server: str
    person: str
    """`Principal.key`; "" of a link that all share."""
    left_s: float
    fingerprint: str


@dataclass(slots=True)
class _CachedLinkEntry:
    link: ConsoleLink
    value: bytes = field(repr=False)
    usable_until: float
    renew_from: float


class ConsoleLinks:
    def __init__(  # noqa: PLR0913 - each part is told what it needs
        self,
        accounts: Mapping[ProjectId, ConsoleAccount],
        shared: SingleFlight,
        clock: Clock,
        *,
        links_max: int,
        group_weights: Mapping[str, float],
        jitter: Callable[[], float],
        fingerprints: Fingerprints,
        telemetry: Telemetry,
        override_ids: Callable[[str, str, str], tuple[str, ...]],
    ) -> None:
        """`jitter` gives numbers from 0 to 1.

        `dropping` names the orders by which links on a project, a server and of a person are
        dropped. A link is kept under them, too: what was kept before an order is not found.
        """
        self._override_ids = override_ids
        self._accounts = accounts
        self._shared = shared
        self._clock = clock
        self._links_max = links_max
        self._group_weights = group_weights
        self._jitter = jitter
        self._fingerprints = fingerprints
        self._telemetry = telemetry
        self._links: OrderedDict[tuple[str, ...], _CachedLinkEntry] = OrderedDict()

    def cached_link(self, permit: Permit) -> ConsoleLink | None:
        """Return a link that this process holds and that may go to this caller; waits for nothing.

        Near a link's end some request starts its renewal, from budget that nobody else needs.
        """
        account = self._account(permit)
        key = self._key(permit, account)
        cached = self._links.get(key)
        if cached is None:
            return None
        now = self._clock.monotonic()
        if now > cached.usable_until:
            del self._links[key]
            return None
        if now >= cached.renew_from:
            self._renew(permit, account, key, cached, now)
        return cached.link

    async def obtain(
        self,
        permit: Permit,
        *,
        deadline: float,
        fresh: bool,
        headers: Headers,
    ) -> tuple[ConsoleLink, LinkSource]:
        """Return a link with at least `min_remaining_s` of its life left.

        `fresh`: one that nobody was given before this request. `headers` travel on to the cloud.
        Raises what Exchange.call raises, UpstreamBroken, and DeadlineExceeded.
        """
        account = self._account(permit)
        key = self._key(permit, account)
        principal = permit.principal
        weight = weight_of(principal.groups, self._group_weights)
        queue_request = QueueRequest(principal.key, weight, permit.call.operation.priority)
        ended: bytes | None = None
        while True:
            # Where each person has a link of their own, nobody else ever waits for it.
            waiters = Waiters(queue_request) if account.reuse is Reuse.SHARED else None
            cached = await self._shared.obtain(
                _store_key(key),
                partial(self._fetch, account, permit, queue_request, deadline, headers, waiters),
                deadline=deadline,
                unusable=ended,
                fresh=fresh or account.reuse is Reuse.NEVER,
                waiters=waiters,
            )
            link = self._link(cached, account)
            if self.is_usable(permit, link):
                break
            if ended is not None or cached.source is LinkSource.UPSTREAM:
                raise UpstreamBroken("the link is too near its end")
            ended = cached.value  # on its way here
        if account.reuse is not Reuse.NEVER:
            self._store_local(key, account, cached)
        return link, cached.source

    def _renew(
        self,
        permit: Permit,
        account: ConsoleAccount,
        key: tuple[str, ...],
        cached: _CachedLinkEntry,
        now: float,
    ) -> None:
        # XFetch (Vattani, Chierichetti and Lowenstein, VLDB 2015) chooses the moment: the more a
        # link is asked for, the earlier. The flight's lease keeps it at one over all replicas.
        chance = math.exp(-_EAGERNESS * (cached.usable_until - now) / account.renew_before_s)
        if self._jitter() > chance:
            return
        cached.renew_from = now + _RENEW_AGAIN_AFTER_S * (1.0 + self._jitter())
        queue_request = QueueRequest("", priority=Priority.SPARE)

        async def fetch() -> Fetched:
            try:
                fetched = await self._fetch(account, permit, queue_request, now + _RENEWAL_S, ())
            except GatewayError as error:
                self._telemetry.link_renewed(account.name, type(error).__name__)
                raise
            self._telemetry.link_renewed(account.name, "ok")
            return fetched

        self._shared.renew(
            _store_key(key),
            fetch,
            unusable=cached.value,
            then=lambda renewed: self._store_local(key, account, renewed),
        )

    def is_usable(self, permit: Permit, link: ConsoleLink) -> bool:
        """Tell whether so much of the link's life is left that it may still be handed out."""
        left_s = link.good_until - self._clock.monotonic()
        return left_s >= self._account(permit).min_remaining_s

    def account_of(self, permit: Permit) -> str:
        """Return the name of the account whose link it is."""
        return self._account(permit).name

    @property
    def link_count(self) -> int:
        return len(self._links)

    async def _fetch(
        self,
        account: ConsoleAccount,
        permit: Permit,
        queue_request: QueueRequest,
        deadline: float,
        headers: Headers,
        waiters: Waiters | None = None,
    ) -> Fetched:
        call = permit.call
        # The cloud starts the link's life at some moment after this one.
        sent_at = self._clock.monotonic()
        answer = await account.exchange.call(
            UpstreamRequest(call.operation.method, call.target, headers),
            project=call.project,
            queue_request=queue_request,
            budget=call.operation.budget,
            deadline=deadline,
            waiters=waiters,
        )
        url = console_url(answer, account.addresses)
        # Kept until it may no longer be handed out, which is before it ends.
        usable_s = account.lifetime_s - account.min_remaining_s
        return Fetched(url.reveal().encode(), sent_at + usable_s)

    def evict_dropped(self) -> None:
        """Let go of the links that orders have dropped."""
        for key in list(self._links):
            account, project, server, person, *_ = key
            if key != self._cache_key(account, project, server, person):
                del self._links[key]

    def cached_links(self) -> list[CachedLink]:
        """Return who could be given which link again by this process."""
        now = self._clock.monotonic()
        return [
            CachedLink(
                account, project, server, person, link.usable_until - now, link.link.fingerprint
            )
            for (account, project, server, person, *_), link in self._links.items()
            if link.usable_until > now
        ]

    def _key(self, permit: Permit, account: ConsoleAccount) -> tuple[str, ...]:
        (server,) = permit.call.servers
        person = "" if account.reuse is Reuse.SHARED else permit.principal.key
        return self._cache_key(account.name, permit.call.project, server, person)

    def _cache_key(self, account: str, project: str, server: str, person: str) -> tuple[str, ...]:
        return (account, project, server, person, *self._override_ids(project, server, person))

    def _account(self, permit: Permit) -> ConsoleAccount:
        account = self._accounts.get(permit.call.project)
        if account is None:
            raise NotPermitted("no account has this project")
        return account

    def _store_local(
        self, key: tuple[str, ...], account: ConsoleAccount, cached: FlightResult
    ) -> None:
        before_s = account.renew_before_s
        renew_from = cached.good_until - before_s if before_s > 0 else math.inf
        self._links[key] = _CachedLinkEntry(
            self._link(cached, account), cached.value, cached.good_until, renew_from
        )
        self._links.move_to_end(key)
        if len(self._links) > self._links_max:
            self._links.popitem(last=False)
            self._telemetry.evicted("link")

    def _link(self, cached: FlightResult, account: ConsoleAccount) -> ConsoleLink:
        url = Secret(cached.value.decode())
        # It is kept no longer than it may be handed out, which is before it ends.
        good_until = cached.good_until + account.min_remaining_s
        return ConsoleLink(url, self._fingerprints.of(url), good_until)


def _store_key(key: tuple[str, ...]) -> str:
    return "link" + "".join(f":{len(part)}:{part}" for part in key)
