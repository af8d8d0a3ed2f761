"""An in-memory SharedStore on a clock; the contract suite holds it to what Valkey does."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.domain.errors import StoreUnavailable
from gateway.flow.clock import Clock
from gateway.flow.shared_queue import EarlyEntry
from gateway.flow.shared_store import (
    ANY_VERSION,
    HolderFailed,
    LeaseAcquired,
    LeaseHeld,
    StoredValue,
)


class FakeSharedStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, tuple[bytes, float, bytes]] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._failures: dict[str, tuple[str, bytes, float]] = {}
        self._listeners: dict[str, list[asyncio.Event]] = {}
        self._hearers: dict[str, list[Callable[[str, bytes], None]]] = {}
        self._versions = itertools.count(1)
        self.unavailable = False
        self.messages_lost = False
        self.publishes_after_s = 0.0

    async def claim(
        self,
        key: str,
        *,
        owner: str,
        lease_s: float,
        skip: bytes = b"",
        awaited: str = "",
        entry: EarlyEntry | None = None,
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed:
        now = self._present()
        value = self._values.get(key)
        if value and value[1] <= now:
            value = None
        if value and skip != ANY_VERSION and value[2] != skip:
            return StoredValue(value[0], value[1] - now, value[2])
        failure = self._failures.get(key)
        if failure and failure[2] > now and failure[0] == awaited:
            return HolderFailed(failure[1])
        holder = self._holder(key)
        if holder is not None:
            return LeaseHeld(holder, self._leases[key][1] - now, value[2] if value else b"")
        self._leases[key] = (owner, now + lease_s)
        return LeaseAcquired(now)

    async def extend(self, key: str, *, owner: str, lease_s: float) -> bool:
        now = self._present()
        if self._holder(key) != owner:
            return False
        self._leases[key] = (owner, now + lease_s)
        return True

    async def publish(
        self, key: str, *, owner: str, value: bytes, ttl_s: float, until: float
    ) -> bool:
        self._present()
        await self._clock.sleep(self.publishes_after_s)
        now = self._clock.monotonic()
        version = next(self._versions).to_bytes(16, "big")
        return self._settle(key, owner, value=(value, min(now + ttl_s, until), version))

    async def fail(self, key: str, *, owner: str, failure: bytes) -> None:
        now = self._present()
        self._settle(key, owner, failure=(owner, failure, now + 2.0))

    async def abandon(self, key: str, *, owner: str) -> None:
        self._present()
        self._settle(key, owner)

    def come_back(self) -> None:
        self.unavailable = False
        for events in self._listeners.values():
            for event in events:
                event.set()

    async def notify_holder(self, key: str, *, sender: str, text: bytes) -> None:
        self._present()
        if not self.messages_lost:
            for on_message in self._hearers.get(key, ()):
                on_message(sender, text)

    @contextmanager
    def watch(
        self, key: str, on_message: Callable[[str, bytes], None] | None = None
    ) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._listeners.setdefault(key, []).append(event)
        hearers = self._hearers.setdefault(key, [])
        hearers += [] if on_message is None else [on_message]
        try:
            yield event
        finally:
            self._listeners[key].remove(event)
            if on_message is not None:
                hearers.remove(on_message)

    def _settle(
        self,
        key: str,
        owner: str,
        *,
        value: tuple[bytes, float, bytes] | None = None,
        failure: tuple[str, bytes, float] | None = None,
    ) -> bool:
        if self._holder(key) != owner:
            return False
        del self._leases[key]
        if value is not None:
            self._values[key] = value
        if failure is not None:
            self._failures[key] = failure
        if not self.messages_lost:
            for event in self._listeners.get(key, ()):
                event.set()
        return True

    def _holder(self, key: str) -> str | None:
        owner, until = self._leases.get(key, ("", 0.0))
        return owner if until > self._clock.monotonic() else None

    def _present(self) -> float:
        if self.unavailable:
            raise StoreUnavailable("away")
        return self._clock.monotonic()
