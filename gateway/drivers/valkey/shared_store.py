"""Values and leases in Redis, sealed and under hashed names (ports.SharedStore)."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from gateway.drivers.sealer import Sealer
from gateway.drivers.valkey.connection import Script, Valkey
from gateway.errors import StoreUnavailable
from gateway.ports import Busy, Claimed, Failed, Found

_CLAIM, _SETTLE, _EXTEND = Script("claim"), Script("settle"), Script("extend")
_VERSION_BYTES = 16
_FAILURE_LIFE_MS = 2_000
"""Long enough for a waiter that missed the message, too short to outlast the fault's cause."""


class ValkeySharedStore:
    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._listeners: dict[bytes, set[asyncio.Event]] = {}
        valkey.when_message_comes(self._wake)
        valkey.when_available_changes(self._wake_all)

    async def claim(
        self, key: str, *, owner: str, lease_s: float, skip: bytes = b"", awaited: str = ""
    ) -> Found | Claimed | Busy | Failed:
        names = self._names(key)
        reply = await self._valkey.run_script(_CLAIM, names, [owner, _ms(lease_s), skip, awaited])
        match reply:
            case [b"found", bytes(stored), int(pttl)]:
                value = self._open(names[0], stored[_VERSION_BYTES:])
                if value is None:  # sealed with a key that we do not hold: as good as absent
                    return await self.claim(
                        key, owner=owner, lease_s=lease_s, skip=stored[:_VERSION_BYTES]
                    )
                return Found(value, pttl / 1000, stored[:_VERSION_BYTES])
            case [b"claimed", int(store_time_ms)]:
                return Claimed(store_time_ms / 1000)
            case [b"busy", bytes(holder), int(pttl), bytes(version)]:
                return Busy(holder.decode(), max(pttl, 0) / 1000, version)
            case [b"failed", bytes(sealed)]:
                return Failed(self._open(names[2], sealed) or b"")
            case _:
                raise StoreUnavailable("claim: an answer of another kind")

    async def extend(self, key: str, *, owner: str, lease_s: float) -> bool:
        lease = self._names(key)[1]
        return bool(await self._valkey.run_script(_EXTEND, [lease], [owner, _ms(lease_s)]))

    async def publish(
        self, key: str, *, owner: str, value: bytes, ttl_s: float, until: float
    ) -> bool:
        name = self._names(key)[0]
        payload = os.urandom(_VERSION_BYTES) + self._seal(name, value)
        return await self._settle(key, owner, "value", payload, _ms(ttl_s), until_ms=_ms(until))

    async def fail(self, key: str, *, owner: str, failure: bytes) -> None:
        sealed = self._seal(self._names(key)[2], failure)
        await self._settle(key, owner, "failure", sealed, _FAILURE_LIFE_MS)

    async def abandon(self, key: str, *, owner: str) -> None:
        await self._settle(key, owner, "abandoned", b"", 1)

    @contextmanager
    def changes(self, key: str) -> Iterator[asyncio.Event]:
        event, digest = asyncio.Event(), _digest(key).encode()
        self._listeners.setdefault(digest, set()).add(event)
        try:
            yield event
        finally:
            events = self._listeners[digest]
            events.remove(event)
            if not events:
                del self._listeners[digest]

    async def _settle(
        self, key: str, owner: str, outcome: str, payload: bytes, life_ms: int, until_ms: int = 0
    ) -> bool:
        args: list[str | bytes | int]
        args = [owner, outcome, payload, life_ms, until_ms, self._valkey.channel, _digest(key)]
        return bool(await self._valkey.run_script(_SETTLE, self._names(key), args))

    def _names(self, key: str) -> list[str]:
        # Hashed: a Redis key tells who asked for which server to whoever may list keys.
        tag = _digest(key)
        return [self._valkey.key(kind, tag=tag) for kind in ("value", "lease", "failure")]

    def _seal(self, name: str, plain: bytes) -> bytes:
        return self._sealer.seal(plain, bound_to=name.encode())

    def _open(self, name: str, sealed: bytes) -> bytes | None:
        return self._sealer.open(sealed, bound_to=name.encode())

    def _wake(self, message: bytes) -> None:
        for event in self._listeners.get(message, ()):
            event.set()

    def _wake_all(self) -> None:
        for events in self._listeners.values():
            for event in events:
                event.set()


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:32]


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
