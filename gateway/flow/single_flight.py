"""Single-flight: concurrent requests for one value share one fetch, over all replicas.

A fetch runs in its own task, so it survives the request that starts it. When its last request has
left, the fetch is cancelled and its lease released, unless it runs to completion or its call was
sent: that response is cached for the next request. Over replicas
the holder of a lease fetches, and its result wakes the others. They report their waiting callers
to the holder: the fetch waits in the best of their places in the queue (priority inheritance).
Without Redis, each process fetches for itself.
"""

import asyncio
import itertools
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from gateway.domain.errors import DeadlineExceeded, GatewayError, StoreUnavailable
from gateway.domain.model import LinkSource, QueueRequest
from gateway.flow.attempts import Attempts
from gateway.flow.clock import Clock
from gateway.flow.fetch_messages import (
    decode_failure,
    decode_waiters,
    encode_failure,
    encode_waiters,
)
from gateway.flow.shared_queue import EarlyEntry
from gateway.flow.shared_store import (
    ANY_VERSION,
    HolderFailed,
    LeaseAcquired,
    LeaseHeld,
    SharedStore,
    StoredValue,
)
from gateway.flow.waiters import Waiters

_LEASE_S = 2.0
"""The others wait so long for a dead holder; a live holder extends its lease before half of it."""
_LOOKS_PER_LEASE = 6
_EXTENDED_AFTER = 0.25
"""One task looks at all leases of the process, as most end before they have to be extended."""
_CLEARLY_LATER_S = 0.5
_REPORT_AFTER_S = 0.05
"""Most fetches end before; the callers that arrive within it are reported together."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetched value, and how long it may be stored."""

    value: bytes = field(repr=False)
    good_until: float
    """Monotonic seconds of this process."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A value, stored or fetched, and its source."""

    value: bytes = field(repr=False)
    good_until: float
    source: LinkSource


Fetch = Callable[[], Awaitable[Fetched]]


class _FetchKey(NamedTuple):
    """Requests with equal keys share a fetch."""

    key: str
    unusable: bytes | None
    fresh: bool


@dataclass(slots=True)
class _LocalFetch:
    """A fetch in this process, and the number of requests that wait for it."""

    task: "asyncio.Task[FetchResult]"
    deadline: float
    """The deadline of the request that started it."""
    waiters: Waiters | None
    attempts: Attempts | None = None
    run_to_completion: bool = False
    waiting: int = 0

    def attached(self, waiters: Waiters | None) -> AbstractContextManager[None]:
        if self.waiters is None or waiters is None:
            return nullcontext()
        return self.waiters.attached(waiters.request)


@dataclass(slots=True)
class _Lease:
    """A lease that this process holds."""

    key: str
    extended_at: float
    """Monotonic seconds: when it was acquired, or extended last."""


class _LazyFetch:
    """A fetch that can start before it is known whether this process is the holder."""

    def __init__(
        self, owner: str, fetch: Fetch, waiters: Waiters | None, entry: EarlyEntry | None = None
    ) -> None:
        self.entry = entry
        self.owner = owner
        """Identifies this process's claim on the lease."""
        self.waiters = waiters
        self.has_reported_waiters = False
        """Another process is the holder and knows the callers that wait here."""
        self._fetch = fetch
        self._task: asyncio.Task[Fetched] | None = None

    def __call__(self) -> Awaitable[Fetched]:
        return self._fetch() if self._task is None else self._task

    def start(self) -> "asyncio.Task[Fetched]":
        if self._task is None:
            self._task = asyncio.create_task(self._run())  # noqa: TID251
        return self._task

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def on_message(self, sender: str, text: bytes) -> None:
        """Store the waiters that another process has reported."""
        if self.waiters is not None and sender != self.owner:
            self.waiters.set_remote(sender, decode_waiters(text))

    async def _run(self) -> Fetched:
        return await self._fetch()


class SingleFlight:
    def __init__(self, store: SharedStore, clock: Clock, *, lease_s: float = _LEASE_S) -> None:
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._local_fetches: dict[_FetchKey, _LocalFetch] = {}
        self._leases: dict[str, _Lease] = {}
        """By owner."""
        self._keeper: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        return len(self._local_fetches)

    async def obtain(  # noqa: PLR0913 - each is an option of the fetch
        self,
        key: str,
        fetch: Fetch,
        *,
        deadline: float,
        unusable: bytes | None = None,
        fresh: bool = False,
        run_to_completion: bool = False,
        waiters: Waiters | None = None,
        attempts: Attempts | None = None,
        then: Callable[[FetchResult], None] | None = None,
    ) -> FetchResult:
        """Return the value stored under `key`, or let exactly one replica fetch it.

        `unusable`: a value that is known to be invalid, such as a rejected token; if it is stored,
        it counts as absent. `fresh`: any value stored now counts as absent. `run_to_completion`:
        the fetch continues without waiting requests. `waiters`: a new object per request, in which
        `fetch` sees the waiting callers. `attempts`: the attempts of `fetch`; one that was sent is
        not cancelled, and the claim may make their entry into the queue. `then` receives the
        result, also without waiting requests. Raises what `fetch` raises, shared by all that
        waited for it, and DeadlineExceeded.
        """
        name = _FetchKey(key, unusable, fresh)
        while True:
            local = self._local_fetches.get(name)
            is_shared = local is not None
            if local is None:
                local = self._start(name, fetch, deadline, waiters, attempts)
                if then is not None:
                    _deliver_to(local.task, then)
            local.run_to_completion |= run_to_completion
            try:
                with local.attached(waiters):
                    result = await self._attach(name, local, deadline)
            except GatewayError as error:
                has_more_time = deadline > local.deadline + _CLEARLY_LATER_S
                if is_shared and local.task.done() and error.out_of_time and has_more_time:
                    # Its callback may not have run yet: this loop would attach to it again and
                    # fail at once, without end, and block the event loop.
                    self._forget(name, local)
                    continue
                raise
            if is_shared and result.source is LinkSource.UPSTREAM:
                return FetchResult(result.value, result.good_until, LinkSource.COALESCED)
            return result

    def renew(
        self, key: str, fetch: Fetch, *, unusable: bytes, then: Callable[[FetchResult], None]
    ) -> None:
        """Replace the value `unusable` of `key` in the background, once over all replicas.

        `then` receives the new value. After a failure the old value remains until it expires.
        """
        name = _FetchKey(key, unusable, fresh=False)
        if name in self._local_fetches:
            return
        # With a deadline of now: a request that waits for it and has more time tries again.
        local = self._start(name, fetch, self._clock.monotonic())

        _deliver_to(local.task, then)

    async def close(self) -> None:
        """Cancel all fetches and wait until their leases are released."""
        tasks: list[asyncio.Task[Any]] = [local.task for local in self._local_fetches.values()]
        if self._keeper is not None:
            tasks.append(self._keeper)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _attach(self, name: _FetchKey, local: _LocalFetch, deadline: float) -> FetchResult:
        local.waiting += 1
        try:
            await _ends_within(local.task, deadline - self._clock.monotonic())
            return local.task.result()
        finally:
            local.waiting -= 1
            self._cancel_if_unwanted(name, local)

    def _cancel_if_unwanted(self, name: _FetchKey, local: _LocalFetch) -> None:
        if local.waiting > 0 or local.run_to_completion or local.task.done():
            return
        if local.attempts is not None:
            if local.attempts.has_succeeded:
                return
            if local.attempts.is_in_flight:
                # If it fails, the fetch must not wait in the queue for another attempt.
                local.attempts.stop(partial(self._cancel_if_unwanted, name, local))
                return
        # No request may attach to a fetch that is about to be cancelled.
        self._forget(name, local)
        local.task.cancel()

    def _start(
        self,
        name: _FetchKey,
        fetch: Fetch,
        deadline: float,
        waiters: Waiters | None = None,
        attempts: Attempts | None = None,
    ) -> _LocalFetch:
        entry = None if attempts is None else attempts.entry
        # All owners have one length: the store compares the beginnings of failures with them.
        owner = f"{self._process}{next(self._numbers):016x}"
        work = self._run(name, _LazyFetch(owner, fetch, waiters, entry), deadline)
        task = asyncio.create_task(work, name="single-flight fetch")  # noqa: TID251
        local = _LocalFetch(task, deadline, waiters, attempts)
        self._local_fetches[name] = local

        def finish(task: "asyncio.Task[FetchResult]") -> None:
            self._forget(name, local)
            if not task.cancelled():
                task.exception()  # retrieved: asyncio does not log it as lost

        local.task.add_done_callback(finish)
        return local

    def _forget(self, name: _FetchKey, local: _LocalFetch) -> None:
        if self._local_fetches.get(name) is local:
            del self._local_fetches[name]

    async def _run(self, name: _FetchKey, fetch: _LazyFetch, deadline: float) -> FetchResult:
        on_message = None if fetch.waiters is None else fetch.on_message
        try:
            with self._store.watch(name.key, on_message) as changed:
                return await self._find_or_fetch(name, fetch, deadline, changed)
        except asyncio.CancelledError:
            if fetch.has_reported_waiters:
                await self._notify_holder(name.key, fetch.owner, ())
            raise
        finally:
            fetch.cancel()
            if fetch.entry is not None:
                fetch.entry.release()

    async def _find_or_fetch(  # noqa: C901 - one case per result of a claim
        self, name: _FetchKey, fetch: _LazyFetch, deadline: float, changed: asyncio.Event
    ) -> FetchResult:
        key = name.key
        awaited, skip = "", ANY_VERSION if name.fresh else b""
        while True:
            changed.clear()
            claimed_at = self._clock.monotonic()
            match await self._claim(key, fetch, skip=skip, awaited=awaited):
                case None:
                    # If Redis recovers before the fetch has a slot, claim again.
                    if await _ends_before(fetch.start(), changed):
                        return _fetched_result(await fetch())
                case StoredValue(value=value) as found if value == name.unusable:
                    skip = found.version
                case StoredValue() as found:
                    return _stored_result(found, claimed_at, was_awaited=bool(awaited))
                case HolderFailed() as failed:
                    self._raise_shared_failure(failed.failure, deadline)
                    awaited = ""
                case LeaseAcquired() as lease:
                    # A lower bound: the store read its clock before this process reads its own.
                    store_ahead_s = lease.store_time - self._clock.monotonic()
                    return await self._fetch_as_holder(key, fetch, deadline, store_ahead_s)
                case LeaseHeld() as lease:
                    fetch.cancel()
                    awaited = lease.holder
                    if skip == ANY_VERSION:
                        skip = lease.version  # any later version is fresh
                    # After the end of the lease the holder is dead, or its message was lost.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(lease.lease_left_s + 0.01):
                            await self._report_waiters_until(changed, key, fetch)

    async def _claim(
        self, key: str, fetch: _LazyFetch, *, skip: bytes, awaited: str
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed | None:
        """Claim the lease; return None if the store is unavailable."""
        try:
            return await self._store.claim(
                key,
                owner=fetch.owner,
                lease_s=self._lease_s,
                skip=skip,
                awaited=awaited,
                entry=fetch.entry,
            )
        except StoreUnavailable:
            return None
        except asyncio.CancelledError:
            with suppress(StoreUnavailable):  # it may have taken the lease
                await self._store.abandon(key, owner=fetch.owner)
            raise

    async def _report_waiters_until(
        self, changed: asyncio.Event, key: str, fetch: _LazyFetch
    ) -> None:
        """Report the local waiters to the holder until its fetch has ended."""
        reported: tuple[QueueRequest, ...] = ()
        while fetch.waiters is not None and not await _is_set_soon(changed):
            if fetch.waiters.local != reported:
                reported, fetch.has_reported_waiters = fetch.waiters.local, True
                await self._notify_holder(key, fetch.owner, reported)
        await changed.wait()

    async def _notify_holder(self, key: str, owner: str, waiters: Sequence[QueueRequest]) -> None:
        with suppress(StoreUnavailable):
            await self._store.notify_holder(key, sender=owner, text=encode_waiters(waiters))

    def _raise_shared_failure(self, failure: bytes, deadline: float) -> None:
        """Raise the holder's error, unless the holder only had less time than this fetch has."""
        error, allowed_s = decode_failure(failure)
        if deadline - self._clock.monotonic() <= allowed_s:
            raise error

    async def _fetch_as_holder(
        self, key: str, fetch: _LazyFetch, deadline: float, store_ahead_s: float
    ) -> FetchResult:
        owner, began = fetch.owner, self._clock.monotonic()
        self._leases[owner] = _Lease(key, began)
        if self._keeper is None:
            # An empty context: it outlives the request that starts it.
            self._keeper = asyncio.create_task(self._keep_leases(), context=Context())  # noqa: TID251
        try:
            fetched = await fetch()
            await self._publish(key, owner, fetched, store_ahead_s)
            return _fetched_result(fetched)
        except GatewayError as error:
            with suppress(StoreUnavailable):
                failure = encode_failure(error, deadline - began + _CLEARLY_LATER_S)
                await self._store.fail(key, owner=owner, failure=failure)
            raise
        except BaseException:
            with suppress(StoreUnavailable):
                await self._store.abandon(key, owner=owner)
            raise
        finally:
            del self._leases[owner]

    async def _publish(self, key: str, owner: str, fetched: Fetched, store_ahead_s: float) -> None:
        ttl_s = fetched.good_until - self._clock.monotonic()
        with suppress(StoreUnavailable):
            if ttl_s > 0:
                await self._store.publish(
                    key,
                    owner=owner,
                    value=fetched.value,
                    ttl_s=ttl_s,
                    until=fetched.good_until + store_ahead_s,
                )
            else:
                await self._store.abandon(key, owner=owner)

    async def _keep_leases(self) -> None:
        """Extend the leases of this process, until it has none."""
        try:
            while self._leases:
                await self._clock.sleep(self._lease_s / _LOOKS_PER_LEASE)
                latest = self._clock.monotonic() - _EXTENDED_AFTER * self._lease_s
                due = [one for one in self._leases.items() if one[1].extended_at <= latest]
                await asyncio.gather(*(self._extend(owner, lease) for owner, lease in due))
        finally:
            self._keeper = None

    async def _extend(self, owner: str, lease: _Lease) -> None:
        began = self._clock.monotonic()
        with suppress(StoreUnavailable):  # it may recover before the lease ends
            if await self._store.extend(lease.key, owner=owner, lease_s=self._lease_s):
                lease.extended_at = began
            else:  # lost: the result will not be stored
                lease.extended_at = math.inf


def _deliver_to(task: "asyncio.Task[FetchResult]", receiver: Callable[[FetchResult], None]) -> None:
    def deliver(done: "asyncio.Task[FetchResult]") -> None:
        if not done.cancelled() and done.exception() is None:
            receiver(done.result())

    task.add_done_callback(deliver)


async def _ends_within(task: "asyncio.Task[FetchResult]", seconds: float) -> None:
    """Return when the task has ended; raise DeadlineExceeded after `seconds`.

    The task goes on if this is cancelled. `asyncio.timeout` around `asyncio.shield` does the same
    for three times the time.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(_: object = None) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    timer = loop.call_later(max(0.0, seconds), end)
    try:
        await ended
    finally:
        timer.cancel()
        task.remove_done_callback(end)
    if not task.done():
        raise DeadlineExceeded("waiting for a fetch")


async def _is_set_soon(event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_REPORT_AFTER_S):
            await event.wait()
    return event.is_set()


async def _ends_before(fetch: "asyncio.Task[Fetched]", changed: asyncio.Event) -> bool:
    """Wait for the fetch or for a change of the store; return whether the fetch has ended."""
    change = asyncio.ensure_future(changed.wait())  # noqa: TID251
    try:
        await asyncio.wait((fetch, change), return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()
    return fetch.done()


def _stored_result(found: StoredValue, claimed_at: float, *, was_awaited: bool) -> FetchResult:
    source = LinkSource.COALESCED if was_awaited else LinkSource.REDIS
    return FetchResult(found.value, claimed_at + found.ttl_s, source)


def _fetched_result(fetched: Fetched) -> FetchResult:
    return FetchResult(fetched.value, fetched.good_until, LinkSource.UPSTREAM)
