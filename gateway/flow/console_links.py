"""Stage obtain for console links: Permit -> ConsoleLink.

A link comes from this process's cache, from Redis, from a fetch in flight, or from the cloud.
"""

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
from gateway.flow.attempts import Attempts
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange
from gateway.flow.single_flight import Fetched, FetchResult, SingleFlight
from gateway.flow.telemetry import Telemetry
from gateway.flow.waiters import Waiters

_RENEWAL_TIMEOUT_S = 15.0
_RENEW_AGAIN_AFTER_S = 5.0
_STEEPNESS = 4.0
"""How fast the probability of a renewal rises: 2 % at its start, 100 % at the link's end."""


class Fingerprints(Protocol):
    def of(self, secret: Secret) -> str:
        """Return an identifier of a secret for logs and audit records, equal on all replicas."""


@dataclass(frozen=True, slots=True)
class ConsoleAccount:
    """The settings of one service account that concern links."""

    name: str
    exchange: Exchange
    lifetime_s: float
    min_remaining_s: float
    renew_before_s: float
    """A link is renewed in the background in this time before its end; 0: never."""
    reuse: Reuse
    addresses: ConsoleAddresses


@dataclass(frozen=True, slots=True)
class IssuedLink:
    link: ConsoleLink
    left_s: float
    """The remaining lifetime."""
    source: LinkSource


@dataclass(frozen=True, slots=True)
class CachedLink:
    """A cached link, as the admin API describes it."""

    account: str
    project: str
    server: str
    person: str
    """`Principal.key`; "" for a link that everyone with the permission shares."""
    left_s: float
    fingerprint: str


@dataclass(slots=True)
class CachedLinkEntry:
    """A link in this process's cache."""

    link: ConsoleLink
    value: bytes = field(repr=False)
    usable_until: float
    """When less than `min_remaining_s` is left of it; monotonic, as the next one."""
    renew_from: float


class ConsoleLinks:
    def __init__(  # noqa: PLR0913 - its dependencies
        self,
        accounts: Mapping[ProjectId, ConsoleAccount],
        single_flight: SingleFlight,
        clock: Clock,
        *,
        links_max: int,
        jitter: Callable[[], float],
        fingerprints: Fingerprints,
        telemetry: Telemetry,
        override_ids: Callable[[str, str, str], tuple[str, ...]],
    ) -> None:
        """`jitter` returns numbers from 0 to 1.

        `override_ids` returns the IDs of the overrides that drop the links of a project, a server
        and a person. They are part of the cache key, so a new override hides older links.
        """
        self._override_ids = override_ids
        self._accounts = accounts
        self._single_flight = single_flight
        self._clock = clock
        self._links_max = links_max
        self._jitter = jitter
        self._fingerprints = fingerprints
        self._telemetry = telemetry
        self._links: OrderedDict[tuple[str, ...], CachedLinkEntry] = OrderedDict()

    def cached_link(self, permit: Permit) -> ConsoleLink | None:
        """Return a link from this process's cache; never waits.

        Near the end of a link one of its requests starts the renewal, from spare budget.
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

    def settled_link(self, permit: Permit) -> CachedLinkEntry | None:
        """Return the link that `cached_link` would, if that did nothing else; never waits.

        None also if a renewal of the link may be due.
        """
        account = self._accounts.get(permit.call.project)
        if account is None:
            return None
        cached = self._links.get(self._key(permit, account))
        if cached is not None:
            now = self._clock.monotonic()
            if now < cached.usable_until and now < cached.renew_from:
                return cached
        return None

    async def obtain(
        self,
        permit: Permit,
        queue_request: QueueRequest,
        *,
        deadline: float,
        fresh: bool,
        headers: Headers,
    ) -> tuple[ConsoleLink, LinkSource]:
        """Return a link with at least `min_remaining_s` of its lifetime left, and its source.

        `fresh`: a link that was not issued before this request. `headers` are forwarded to the
        cloud. Raises what Exchange.call raises, UpstreamBroken, and DeadlineExceeded.
        """
        account = self._account(permit)
        key = self._key(permit, account)
        expired: bytes | None = None
        while True:
            # With a link per person, all requests for one link have the same caller.
            waiters = Waiters(queue_request) if account.reuse is Reuse.SHARED else None
            attempts = Attempts()
            attempts.entry = account.exchange.early_entry(
                queue_request,
                project=permit.call.project,
                budget=permit.call.operation.budget,
                deadline=deadline,
                waiters=waiters,
            )
            result = await self._single_flight.obtain(
                _store_key(key),
                partial(
                    self._fetch,
                    account,
                    permit,
                    queue_request,
                    deadline,
                    headers,
                    attempts,
                    waiters,
                ),
                deadline=deadline,
                unusable=expired,
                fresh=fresh or account.reuse is Reuse.NEVER,
                waiters=waiters,
                attempts=attempts,
                then=partial(self._cache, key, account),
            )
            link = self._link(key, result, account)
            if self.is_usable(permit, link):
                break
            if expired is not None or result.source is LinkSource.UPSTREAM:
                raise UpstreamBroken("the remaining lifetime of the link is too short")
            expired = result.value  # it became too old between Redis and here
        self._cache(key, account, result)
        return link, result.source

    def is_usable(self, permit: Permit, link: ConsoleLink) -> bool:
        """Return whether enough of the link's lifetime is left to issue it."""
        left_s = link.good_until - self._clock.monotonic()
        return left_s >= self._account(permit).min_remaining_s

    def account_of(self, permit: Permit) -> str:
        """Return the name of the account that serves the call's project."""
        return self._account(permit).name

    @property
    def link_count(self) -> int:
        return len(self._links)

    def cached_links(self) -> list[CachedLink]:
        """Return the links that this process may issue again."""
        now = self._clock.monotonic()
        return [
            CachedLink(
                account, project, server, person, entry.usable_until - now, entry.link.fingerprint
            )
            for (account, project, server, person, *_), entry in self._links.items()
            if entry.usable_until > now
        ]

    def evict_dropped(self) -> None:
        """Remove the links that an override has dropped."""
        for key in list(self._links):
            account, project, server, person, *_ = key
            if key != self._cache_key(account, project, server, person):
                del self._links[key]

    def _renew(
        self,
        permit: Permit,
        account: ConsoleAccount,
        key: tuple[str, ...],
        cached: CachedLinkEntry,
        now: float,
    ) -> None:
        # XFetch (Vattani, Chierichetti and Lowenstein, VLDB 2015): the more requests a link has,
        # the earlier one of them starts the renewal. The lease limits it to one over all replicas.
        probability = math.exp(-_STEEPNESS * (cached.usable_until - now) / account.renew_before_s)
        if self._jitter() > probability:
            return
        cached.renew_from = now + _RENEW_AGAIN_AFTER_S * (1.0 + self._jitter())
        queue_request = QueueRequest("", priority=Priority.SPARE)

        async def fetch() -> Fetched:
            deadline = now + _RENEWAL_TIMEOUT_S
            try:
                fetched = await self._fetch(
                    account, permit, queue_request, deadline, (), Attempts()
                )
            except GatewayError as error:
                self._telemetry.link_renewed(account.name, type(error).__name__)
                raise
            self._telemetry.link_renewed(account.name, "ok")
            return fetched

        self._single_flight.renew(
            _store_key(key),
            fetch,
            unusable=cached.value,
            then=lambda renewed: self._cache(key, account, renewed),
        )

    async def _fetch(  # noqa: PLR0913 - the options of the call
        self,
        account: ConsoleAccount,
        permit: Permit,
        queue_request: QueueRequest,
        deadline: float,
        headers: Headers,
        attempts: Attempts,
        waiters: Waiters | None = None,
    ) -> Fetched:
        call = permit.call
        # The lifetime starts in the cloud, at some time after this.
        sent_at = self._clock.monotonic()
        response = await account.exchange.call(
            UpstreamRequest(call.operation.method, call.target, headers),
            project=call.project,
            queue_request=queue_request,
            budget=call.operation.budget,
            deadline=deadline,
            attempts=attempts,
            waiters=waiters,
            is_finished=True,
        )
        url = console_url(response, account.addresses)
        # A link is stored until it may no longer be issued, which is before its end.
        usable_s = account.lifetime_s - account.min_remaining_s
        return Fetched(url.reveal().encode(), sent_at + usable_s)

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

    def _cache(self, key: tuple[str, ...], account: ConsoleAccount, result: FetchResult) -> None:
        if account.reuse is Reuse.NEVER:
            return
        cached = self._links.get(key)
        if cached is not None and cached.value is result.value:
            return  # its fetch has delivered it already
        before_s = account.renew_before_s
        renew_from = result.good_until - before_s if before_s > 0 else math.inf
        self._links[key] = CachedLinkEntry(
            self._link(key, result, account), result.value, result.good_until, renew_from
        )
        self._links.move_to_end(key)
        if len(self._links) > self._links_max:
            self._links.popitem(last=False)
            self._telemetry.evicted("link")

    def _link(
        self, key: tuple[str, ...], result: FetchResult, account: ConsoleAccount
    ) -> ConsoleLink:
        cached = self._links.get(key)
        if cached is not None and cached.value is result.value:
            return cached.link
        url = Secret(result.value.decode())
        good_until = result.good_until + account.min_remaining_s
        return ConsoleLink(url, self._fingerprints.of(url), good_until)


def _store_key(key: tuple[str, ...]) -> str:
    # Links are stored with the budget of their account: one script claims the fetch and a slot.
    return f"{{{key[0]}}}link" + "".join(f":{len(part)}:{part}" for part in key)
