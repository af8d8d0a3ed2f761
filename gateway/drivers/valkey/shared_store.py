"""Values and leases in Redis, encrypted and under hashed keys (port `SharedStore`)."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256

from gateway.domain.errors import StoreUnavailable
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import SHORT_BYTES, Valkey
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.shared_queue import EarlyEntry, EntryBatch
from gateway.flow.shared_store import HolderFailed, LeaseAcquired, LeaseHeld, StoredValue

_CLAIM, _SETTLE, _EXTEND = LuaScript("claim"), LuaScript("settle"), LuaScript("extend")
_CLAIM_AND_ENTER = LuaScript("claim_and_enter", "claim", "fair_queue")
_NOTIFY_HOLDER = LuaScript("notify_holder")
_NOTIFICATION = b"notify "
_VERSION_BYTES = 16
_KINDS = ("value", "lease", "failure", "awaited")
_FAILURE_TTL_MS = 2_000
"""Long enough for a waiter that missed the message, shorter than most faults."""


_Listener = tuple[asyncio.Event, Callable[[str, bytes], None] | None]


class ValkeySharedStore:
    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._listeners: dict[bytes, set[_Listener]] = {}
        self._names = lru_cache(maxsize=1_024)(self._make_names)
        valkey.on_message(self._wake)
        valkey.on_message(self._receive)
        valkey.on_availability_change(self._wake_all)

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
        names = self._names(key)
        args: list[str | bytes | int] = [owner, _ms(lease_s), skip, awaited]
        if entry is not None and (begun := entry.begin()) is not None:
            reply = await self._claim_and_enter(names, args, entry, begun)
        else:
            reply = await self._valkey.run_script(_CLAIM, names, args)
        match reply:
            case [b"found", bytes(version), bytes(sealed), int(pttl)]:
                value = self._open(names[0], sealed)
                if value is None:  # encrypted with an unknown key: treated as absent
                    return await self.claim(
                        key, owner=owner, lease_s=lease_s, skip=version, entry=entry
                    )
                return StoredValue(value, pttl / 1000, version)
            case [b"claimed", int(store_time_ms), *_]:
                return LeaseAcquired(store_time_ms / 1000)
            case [b"busy", bytes(holder), int(pttl), bytes(version)]:
                return LeaseHeld(holder.decode(), max(pttl, 0) / 1000, version)
            case [b"failed", bytes(sealed)]:
                return HolderFailed(self._open(names[2], sealed) or b"")
            case _:
                raise StoreUnavailable("claim: unexpected response")

    async def _claim_and_enter(
        self,
        names: tuple[str, ...],
        args: list[str | bytes | int],
        entry: EarlyEntry,
        begun: EntryBatch,
    ) -> object:
        queue = begun.queue
        assert isinstance(queue, ValkeyFairQueue)
        submitted = queue.submission(begun.batch, begun.state)
        keys, words = [*names, *queue.keys], [*args, submitted.words]
        try:
            reply = await self._valkey.run_script(_CLAIM_AND_ENTER, keys, words, is_short=True)
            match reply:
                case [b"claimed", int(), bytes(result)]:
                    entry.made(queue.result(result, submitted))
                case _:
                    entry.not_made()
        except StoreUnavailable:
            entry.lost()
            raise
        return reply

    async def extend(self, key: str, *, owner: str, lease_s: float) -> bool:
        lease = self._names(key)[1]
        return bool(
            await self._valkey.run_script(_EXTEND, [lease], [owner, _ms(lease_s)], is_short=True)
        )

    async def publish(
        self, key: str, *, owner: str, value: bytes, ttl_s: float, until: float
    ) -> bool:
        sealed = self._seal(self._names(key)[0], value)
        version = os.urandom(_VERSION_BYTES)
        return await self._settle(
            key, owner, "value", sealed, _ms(ttl_s), version=version, until_ms=_ms(until)
        )

    async def fail(self, key: str, *, owner: str, failure: bytes) -> None:
        sealed = self._seal(self._names(key)[2], failure)
        await self._settle(key, owner, "failure", sealed, _FAILURE_TTL_MS)

    async def abandon(self, key: str, *, owner: str) -> None:
        await self._settle(key, owner, "abandoned", b"", 1)

    async def notify_holder(self, key: str, *, sender: str, text: bytes) -> None:
        lease = self._names(key)[1]
        digest = _digest(key)
        sealed = self._seal(self._message_name(digest), text)
        message = _NOTIFICATION + f"{digest} {sender} ".encode() + sealed
        await self._valkey.run_script(_NOTIFY_HOLDER, [lease], [self._valkey.channel, message])

    @contextmanager
    def watch(
        self, key: str, on_message: Callable[[str, bytes], None] | None = None
    ) -> Iterator[asyncio.Event]:
        event, digest = asyncio.Event(), _digest(key).encode()
        self._listeners.setdefault(digest, set()).add((event, on_message))
        try:
            yield event
        finally:
            listeners = self._listeners[digest]
            listeners.remove((event, on_message))
            if not listeners:
                del self._listeners[digest]

    async def _settle(  # noqa: PLR0913 - the arguments of settle.lua
        self,
        key: str,
        owner: str,
        outcome: str,
        payload: bytes,
        ttl_ms: int,
        *,
        version: bytes = b"",
        until_ms: int = 0,
    ) -> bool:
        args: list[str | bytes | int] = [owner, outcome, payload, ttl_ms, version, until_ms]
        args += [self._valkey.channel, _digest(key)]
        is_short = len(payload) < SHORT_BYTES
        names = self._names(key)
        return bool(await self._valkey.run_script(_SETTLE, names, args, is_short=is_short))

    def _make_names(self, key: str) -> tuple[str, ...]:
        # Hashed: a list of keys must not disclose callers and servers.
        digest = _digest(key)
        if key[0] != "{":
            return tuple(self._valkey.key(kind, tag=digest) for kind in _KINDS)
        group = key[1 : key.index("}")]
        return tuple(self._valkey.key(kind, digest, tag=group) for kind in _KINDS)

    def _message_name(self, digest: str) -> str:
        return self._valkey.key("lease", tag=digest)

    def _seal(self, name: str, plain: bytes) -> bytes:
        return self._sealer.seal(plain, bound_to=name.encode())

    def _open(self, name: str, sealed: bytes) -> bytes | None:
        return self._sealer.open(sealed, bound_to=name.encode())

    def _wake(self, message: bytes) -> None:
        for event, _ in self._listeners.get(message, ()):
            event.set()

    def _receive(self, message: bytes) -> None:
        if not message.startswith(_NOTIFICATION):
            return
        digest, _, rest = message[len(_NOTIFICATION) :].partition(b" ")
        sender, _, sealed = rest.partition(b" ")
        callbacks = [
            on_message
            for _, on_message in self._listeners.get(digest, ())
            if on_message is not None
        ]
        if not callbacks:
            return
        text = self._open(self._message_name(digest.decode()), sealed)
        if text is not None:
            for on_message in callbacks:
                on_message(sender.decode("ascii", "replace"), text)

    def _wake_all(self) -> None:
        for listeners in self._listeners.values():
            for event, _ in listeners:
                event.set()


@lru_cache(maxsize=1_024)
def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:32]


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
