"""One fetch for all who wait: over the requests of this process, and over all replicas.

A fetch runs in a task of its own, so it survives the caller that started it; when the last
caller has left, it is cancelled and its lease given up, unless it is to go on to its end. Over
replicas the holder of a lease fetches and the others are woken by its result; they tell it who
waits, so that the fetch may wait in the best of their places. Without Redis each process fetches
for itself.
"""

import asyncio
import json
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

from gateway.domain.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    RetryLater,
    ServiceLoginFailed,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamSuspended,
    UpstreamUnreachable,
)
from gateway.domain.model import LinkSource, QueueRequest
from gateway.flow.clock import Clock
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
"""How long a dead holder is waited for; a living one extends it every third."""
_CLEARLY_LATER_S = 0.5
_REPORT_AFTER_S = 0.05
"""By then most fetches have ended; who comes within it is told of together."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought: the value and how long it may be kept."""

    value: bytes = field(repr=False)
    good_until: float
    """Monotonic seconds of this process."""


@dataclass(frozen=True, slots=True)
class FlightResult:
    """A value out of a shared flight."""

    value: bytes = field(repr=False)
    good_until: float
    source: LinkSource


Fetch = Callable[[], Awaitable[Fetched]]


@dataclass(slots=True)
class _LocalFlight:
    task: "asyncio.Task[FlightResult]"
    deadline: float
    """Of the request that began it."""
    waiters: Waiters | None
    run_to_completion: bool = False
    waiting: int = 0

    def attached(self, waiters: Waiters | None) -> AbstractContextManager[None]:
        if self.waiters is None or waiters is None:
            return nullcontext()
        return self.waiters.attached(waiters.request)


class _LazyFetch:
    """A fetch that may be begun before it is known that it is this process's to make."""

    def __init__(self, fetch: Fetch, waiters: Waiters | None) -> None:
        self.owner = secrets.token_hex(16)
        """Of the lease, where it is this process's."""
        self.waiters = waiters
        self.has_reported_waiters = False
        """Whoever fetches in another process was told who waits here."""
        self._fetch = fetch
        self._begun: asyncio.Task[Fetched] | None = None

    def __call__(self) -> Awaitable[Fetched]:
        return self._fetch() if self._begun is None else self._begun

    def begin(self) -> "asyncio.Task[Fetched]":
        if self._begun is None:
            self._begun = asyncio.create_task(self._run())  # noqa: TID251
        return self._begun

    def cancel(self) -> None:
        if self._begun is not None:
            self._begun.cancel()
            self._begun = None

    def on_message(self, sender: str, text: bytes) -> None:
        """Take note of who waits in another process."""
        if self.waiters is not None and sender != self.owner:
            self.waiters.set_remote(sender, _waiters_from(text))

    async def _run(self) -> Fetched:
        return await self._fetch()


class SingleFlight:
    def __init__(self, store: SharedStore, clock: Clock, *, lease_s: float = _LEASE_S) -> None:
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self._flights: dict[tuple[str, bytes | None, bool], _LocalFlight] = {}

    @property
    def in_flight(self) -> int:
        return len(self._flights)

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
    ) -> FlightResult:
        name = (key, unusable, fresh)
        while True:
            flight = self._flights.get(name)
            attached = flight is not None
            if flight is None:
                flight = self._start(name, fetch, deadline, waiters)
            flight.run_to_completion |= run_to_completion
            try:
                with flight.attached(waiters):
                    held = await self._attach(name, flight, deadline)
            except GatewayError as error:
                has_more_time = deadline > flight.deadline + _CLEARLY_LATER_S
                if attached and flight.task.done() and error.out_of_time and has_more_time:
                    # It may have ended in this very turn of the loop; attached again, it would fail
                    # at once, again and again, and nothing else would ever run.
                    self._forget(name, flight)
                    continue
                raise
            if attached and held.source is LinkSource.UPSTREAM:
                return FlightResult(held.value, held.good_until, LinkSource.COALESCED)
            return held

    def renew(
        self, key: str, fetch: Fetch, *, unusable: bytes, then: Callable[[FlightResult], None]
    ) -> None:
        name = (key, unusable, False)
        if name in self._flights:
            return
        # With no time of its own: whoever waits for it tries again if it brings nothing.
        flight = self._start(name, fetch, self._clock.monotonic())

        def deliver(task: "asyncio.Task[FlightResult]") -> None:
            if not task.cancelled() and task.exception() is None:
                then(task.result())

        flight.task.add_done_callback(deliver)

    async def _attach(
        self, name: tuple[str, bytes | None, bool], flight: _LocalFlight, deadline: float
    ) -> FlightResult:
        flight.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                return await asyncio.shield(flight.task)
        except TimeoutError:
            raise DeadlineExceeded("waiting for a fetch") from None
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.run_to_completion and not flight.task.done():
                # Nobody may join a flight that is about to be cancelled.
                self._flights.pop(name, None)
                flight.task.cancel()

    async def close(self) -> None:
        """Cancel what is in flight and wait until the leases are given up."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(
        self,
        name: tuple[str, bytes | None, bool],
        fetch: Fetch,
        deadline: float,
        waiters: Waiters | None = None,
    ) -> _LocalFlight:
        key, unusable, fresh = name
        fetching = _LazyFetch(fetch, waiters)
        work = self._run(key, fetching, deadline, unusable=unusable, fresh=fresh)
        task = asyncio.create_task(work, name="shared flight")  # noqa: TID251
        flight = _LocalFlight(task, deadline, waiters)
        self._flights[name] = flight

        def finish(task: "asyncio.Task[FlightResult]") -> None:
            self._forget(name, flight)
            if not task.cancelled():
                task.exception()  # those who waited have it; if none did, nobody needs it

        flight.task.add_done_callback(finish)
        return flight

    def _forget(self, name: tuple[str, bytes | None, bool], flight: _LocalFlight) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]

    async def _run(
        self,
        key: str,
        fetching: _LazyFetch,
        deadline: float,
        *,
        unusable: bytes | None,
        fresh: bool,
    ) -> FlightResult:
        on_message = None if fetching.waiters is None else fetching.on_message
        try:
            with self._store.watch(key, on_message) as changed:
                return await self._find_or_fetch(
                    key,
                    fetching,
                    deadline,
                    changed,
                    unusable=unusable,
                    skip=ANY_VERSION if fresh else b"",
                )
        except asyncio.CancelledError:
            if fetching.has_reported_waiters:
                await self._notify_holder(key, fetching.owner, ())
            raise
        finally:
            fetching.cancel()

    async def _find_or_fetch(  # noqa: C901 - one case for each answer of the store
        self,
        key: str,
        fetching: _LazyFetch,
        deadline: float,
        changed: asyncio.Event,
        *,
        unusable: bytes | None,
        skip: bytes,
    ) -> FlightResult:
        awaited = ""
        while True:
            changed.clear()
            claimed_at = self._clock.monotonic()
            match await self._claim(key, owner=fetching.owner, skip=skip, awaited=awaited):
                case None:
                    # The store may be back before the fetch has its slot: then it is asked again.
                    if await _ends_before(fetching.begin(), changed):
                        return _held(await fetching(), LinkSource.UPSTREAM)
                case StoredValue(value=value) as found if value == unusable:
                    skip = found.version
                case StoredValue() as found:
                    return _found(found, claimed_at, was_awaited=bool(awaited))
                case HolderFailed() as failed:
                    self._raise_shared_failure(failed.failure, deadline)
                    awaited = ""
                case LeaseAcquired() as claimed:
                    # At the least, for it looked at its clock before we look at ours.
                    store_ahead_s = claimed.store_time - self._clock.monotonic()
                    return await self._fetch_as_holder(key, fetching, deadline, store_ahead_s)
                case LeaseHeld() as busy:
                    fetching.cancel()
                    awaited = busy.holder
                    if skip == ANY_VERSION:
                        skip = busy.version  # what comes after it is fresh
                    # Past the lease's end the holder is dead, or its message was lost.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(busy.lease_left_s + 0.01):
                            await self._report_waiters_until(changed, key, fetching)

    async def _claim(
        self, key: str, *, owner: str, skip: bytes, awaited: str
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed | None:
        """Ask the store; None: it is away."""
        try:
            return await self._store.claim(
                key, owner=owner, lease_s=self._lease_s, skip=skip, awaited=awaited
            )
        except StoreUnavailable:
            return None

    async def _report_waiters_until(
        self, changed: asyncio.Event, key: str, fetching: _LazyFetch
    ) -> None:
        """Wait for another's fetch, and let its holder know who waits for it here."""
        told: tuple[QueueRequest, ...] = ()
        while fetching.waiters is not None and not await _is_set_soon(changed):
            if fetching.waiters.local != told:
                told, fetching.has_reported_waiters = fetching.waiters.local, True
                await self._notify_holder(key, fetching.owner, told)
        await changed.wait()

    async def _notify_holder(self, key: str, owner: str, waiters: Sequence[QueueRequest]) -> None:
        with suppress(StoreUnavailable):
            await self._store.notify_holder(key, sender=owner, text=_waiters_to(waiters))

    def _raise_shared_failure(self, failure: bytes, deadline: float) -> None:
        """Raise what stopped another replica, unless it only had less time than we have."""
        error, they_had_s = _failure_from(failure)
        if deadline - self._clock.monotonic() <= they_had_s:
            raise error

    async def _fetch_as_holder(
        self, key: str, fetching: _LazyFetch, deadline: float, store_ahead_s: float
    ) -> FlightResult:
        owner, began = fetching.owner, self._clock.monotonic()
        extending = asyncio.create_task(self._keep_lease(key, owner))  # noqa: TID251
        try:
            fetched = await fetching()
            await self._publish(key, owner, fetched, store_ahead_s)
            return _held(fetched, LinkSource.UPSTREAM)
        except GatewayError as error:
            with suppress(StoreUnavailable):
                failure = _failure_to(error, deadline - began + _CLEARLY_LATER_S)
                await self._store.fail(key, owner=owner, failure=failure)
            raise
        except BaseException:
            with suppress(StoreUnavailable):
                await self._store.abandon(key, owner=owner)
            raise
        finally:
            extending.cancel()

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

    async def _keep_lease(self, key: str, owner: str) -> None:
        is_ours = True
        while is_ours:
            await self._clock.sleep(self._lease_s / 3)
            with suppress(StoreUnavailable):  # it may be back before the lease ends
                is_ours = await self._store.extend(key, owner=owner, lease_s=self._lease_s)


async def _is_set_soon(event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_REPORT_AFTER_S):
            await event.wait()
    return event.is_set()


async def _ends_before(fetch: "asyncio.Task[Fetched]", changed: asyncio.Event) -> bool:
    """Wait for the fetch, or until the store may be back; tell whether the fetch has ended."""
    change = asyncio.ensure_future(changed.wait())  # noqa: TID251
    try:
        await asyncio.wait((fetch, change), return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()
    return fetch.done()


def _found(found: StoredValue, claimed_at: float, *, was_awaited: bool) -> FlightResult:
    source = LinkSource.COALESCED if was_awaited else LinkSource.REDIS
    return FlightResult(found.value, claimed_at + found.ttl_s, source)


def _held(fetched: Fetched, source: LinkSource) -> FlightResult:
    return FlightResult(fetched.value, fetched.good_until, source)


def _waiters_to(waiters: Sequence[QueueRequest]) -> bytes:
    return json.dumps([(one.caller, one.weight) for one in waiters]).encode()


def _waiters_from(text: bytes) -> list[QueueRequest]:
    try:
        return [QueueRequest(str(caller), float(weight)) for caller, weight in json.loads(text)]
    except (ValueError, TypeError):
        return []


def _failure_to(error: GatewayError, had_s: float) -> bytes:
    if not error.out_of_time:
        had_s = math.inf  # no more time would have helped
    match error:
        case UpstreamRefused():
            fields = [error.status, error.error_code, error.error_msg]
        case RetryLater():
            fields = [str(error), error.retry_after_s]
        case _:
            fields = [str(error)]
    return json.dumps([had_s, type(error).__name__, *fields]).encode()


def _failure_from(failure: bytes) -> tuple[GatewayError, float]:
    """Make another replica's failure the error that it was there, and tell how long it had."""
    try:
        had_s, kind, *fields = json.loads(failure)
    except (ValueError, TypeError):
        had_s, kind, fields = math.inf, "", []
    error: GatewayError = UpstreamBroken("another replica's fetch failed")
    match kind, fields:
        case "UpstreamRefused", [int(status), str(code), str(message)]:
            error = UpstreamRefused(status, code, message)
        case _, [str(text), int() | float() as retry_after_s] if kind in _RETRY_LATER:
            error = _RETRY_LATER[kind](text, retry_after_s=retry_after_s)
        case _, [str(text)] if kind in _PLAIN:
            error = _PLAIN[kind](text)
    error.out_of_time = had_s < math.inf
    return error, float(had_s)


_RETRY_LATER = {
    kind.__name__: kind
    for kind in (
        BudgetExhausted,
        UpstreamBusy,
        UpstreamSuspended,
        UpstreamUnreachable,
        ServiceLoginFailed,
    )
}
_PLAIN = {kind.__name__: kind for kind in (UpstreamBroken, UpstreamSlow, DeadlineExceeded)}
