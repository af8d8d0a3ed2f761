"""Permit -> the pages of a list, filtered to what the caller may see.

The cloud cannot filter by who asks, so the whole list is read in its largest pages and cut to
size here. Whoever walks through it page by page, and whoever else asks within the reuse time,
is served from one reading.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.domain.catalogue.listing import ListPage, ListPageReader, page_target
from gateway.domain.errors import DeadlineExceeded, UpstreamBroken
from gateway.domain.model import (
    Headers,
    Paging,
    ProjectId,
    QueueRequest,
    ResolvedCall,
    UpstreamRequest,
)
from gateway.flow.clock import Clock
from gateway.flow.exchange import Exchange
from gateway.flow.waiters import Waiters

_ENTRY_BYTES, _READING_BYTES = 300, 2_000
"""What a reading takes besides its bytes, roughly."""


@dataclass(frozen=True, slots=True)
class ListBounds:
    reuse_s: float
    """How old a reading may be that is served once more."""
    pages_max: int
    """Calls to the cloud for one reading."""
    bytes_max: int
    """Of all readings that this process keeps, and of one."""


@dataclass(frozen=True, slots=True)
class _Reading:
    pages: tuple[ListPage, ...]
    size: int
    taken_at: float
    until: float
    """Both: monotonic seconds."""


@dataclass(frozen=True, slots=True)
class _SharedRead:
    """A list that somebody reads while others wait; it stays until the last of them has gone."""

    waiters: Waiters
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Listings:
    def __init__(
        self, exchanges: Mapping[ProjectId, Exchange], bounds: ListBounds, clock: Clock
    ) -> None:
        """`exchanges` by project."""
        self._exchanges = exchanges
        self._bounds = bounds
        self._clock = clock
        self._readers: dict[str, ListPageReader] = {}
        self._readings: OrderedDict[str, _Reading] = OrderedDict()
        self._asked: dict[str, _SharedRead] = {}
        self._size = 0

    async def read(
        self,
        call: ResolvedCall,
        queue_request: QueueRequest,
        *,
        deadline: float,
        fresh: bool,
        headers: Headers,
    ) -> tuple[ListPage, ...]:
        """Return the whole list that `call` asks a page of, unfiltered: it is not for the caller.

        Raises what Exchange.call raises, and UpstreamBroken for a list beyond its bounds.
        """
        key = page_target(call)
        since = self._clock.monotonic()
        if not fresh:
            since -= self._bounds.reuse_s
        # Whoever comes while it is read waits for that reading instead of making another, and
        # lends it their place in the queue.
        asked = self._asked.setdefault(key, _SharedRead(Waiters(queue_request)))
        try:
            with asked.waiters.attached(queue_request):
                async with asyncio.timeout(deadline - self._clock.monotonic()), asked.lock:
                    known = self._readings.get(key)
                    if known is not None and known.taken_at >= since:
                        return known.pages
                    reading = await self._walk(
                        call, queue_request, deadline, headers, asked.waiters
                    )
        except TimeoutError:
            raise DeadlineExceeded("while the list was read") from None
        finally:
            if not asked.waiters.local:
                del self._asked[key]
        self._keep(key, reading)
        return reading.pages

    async def _walk(
        self,
        call: ResolvedCall,
        queue_request: QueueRequest,
        deadline: float,
        headers: Headers,
        waiters: Waiters,
    ) -> _Reading:
        taken_at = self._clock.monotonic()
        operation = call.operation
        listing = operation.listing
        assert listing is not None
        reader = self._readers.get(operation.name)
        if reader is None:
            reader = self._readers[operation.name] = ListPageReader(listing)
        pages: list[ListPage] = []
        marker, read, size = "", 0, 0
        while len(pages) < self._bounds.pages_max and size <= self._bounds.bytes_max:
            target = page_target(call, marker=marker, offset=read)
            answer = await self._exchanges[call.project].call(
                UpstreamRequest(operation.method, target, headers),
                project=call.project,
                queue_request=queue_request,
                budget=operation.budget,
                deadline=deadline,
                waiters=waiters,
            )
            page = reader(answer.body)
            pages.append(page)
            size += len(answer.body)
            if listing.paging is Paging.OFFSET:
                read += len(page.raws)
                full = len(page.raws) >= listing.limit_max
                ended = not page.raws or (
                    read >= page.count if page.count is not None else not full
                )
            else:
                ended = page.next_marker in ("", marker)
                marker = page.next_marker
            if ended:
                entries = sum(len(one.raws) for one in pages)
                held = size + entries * _ENTRY_BYTES + len(target) + _READING_BYTES
                return _Reading(tuple(pages), held, taken_at, taken_at + self._bounds.reuse_s)
        raise UpstreamBroken("the list is larger than lists.pages_max or lists.bytes_max allow")

    def _keep(self, key: str, reading: _Reading) -> None:
        now = self._clock.monotonic()
        for old in [one for one, it in self._readings.items() if it.until < now]:
            self._drop(old)
        self._drop(key)
        self._readings[key] = reading
        self._size += reading.size
        while self._size > self._bounds.bytes_max:
            self._drop(next(iter(self._readings)))

    def _drop(self, key: str) -> None:
        old = self._readings.pop(key, None)
        if old is not None:
            self._size -= old.size
