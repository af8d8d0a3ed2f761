"""The lists of the cloud, read as a whole.

The cloud cannot filter a list by caller. So the gateway reads the whole list in pages of the
largest size, and filters and pages it per caller. Requests within the reuse time share a reading.
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
"""Estimated memory of an entry and of a reading, besides the bytes of its pages."""


@dataclass(frozen=True, slots=True)
class ListBounds:
    reuse_s: float
    """The maximum age of a reading that serves another request."""
    pages_max: int
    """The limit of calls to the cloud per reading."""
    bytes_max: int
    """The limit of one reading, and of all cached readings of this process."""


@dataclass(frozen=True, slots=True)
class _Reading:
    pages: tuple[ListPage, ...]
    size: int
    taken_at: float
    """Monotonic seconds; so is `until`."""
    until: float


@dataclass(frozen=True, slots=True)
class _SharedRead:
    """A reading in progress, kept until its last waiting request has left."""

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
        self._in_progress: dict[str, _SharedRead] = {}
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
        """Return the whole list of which `call` requests a page, unfiltered.

        Raises what Exchange.call raises, UpstreamBroken for a list over its limits, and
        DeadlineExceeded.
        """
        key = page_target(call)
        since = self._clock.monotonic()
        if not fresh:
            since -= self._bounds.reuse_s
        # Concurrent requests wait for one reading, which waits in the best of their places in the
        # queue (priority inheritance).
        shared = self._in_progress.setdefault(key, _SharedRead(Waiters(queue_request)))
        try:
            with shared.waiters.attached(queue_request):
                async with asyncio.timeout(deadline - self._clock.monotonic()), shared.lock:
                    known = self._readings.get(key)
                    if known is not None and known.taken_at >= since:
                        return known.pages
                    reading = await self._read_all(
                        call, queue_request, deadline, headers, shared.waiters
                    )
        except TimeoutError:
            raise DeadlineExceeded("reading the list") from None
        finally:
            if not shared.waiters.local:
                del self._in_progress[key]
        self._cache(key, reading)
        return reading.pages

    async def _read_all(
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
            response = await self._exchanges[call.project].call(
                UpstreamRequest(operation.method, target, headers),
                project=call.project,
                queue_request=queue_request,
                budget=operation.budget,
                deadline=deadline,
                waiters=waiters,
            )
            page = reader(response.body)
            pages.append(page)
            size += len(response.body)
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
                memory = size + entries * _ENTRY_BYTES + len(target) + _READING_BYTES
                return _Reading(tuple(pages), memory, taken_at, taken_at + self._bounds.reuse_s)
        raise UpstreamBroken("the list exceeds lists.pages_max or lists.bytes_max")

    def _cache(self, key: str, reading: _Reading) -> None:
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
