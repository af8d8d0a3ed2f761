"""Readings of the power of single servers in Redis (port `ReadingStore`), sealed."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Final

import msgspec

from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.servers.power_readings import READINGS_AGE_MAX_S, PowerReading

_ADD, _LIST = LuaScript("add_reading"), LuaScript("list_readings")
_READINGS_MAX: Final = 1_000
_OPENED_HERE_MAX: Final = 100
"""More are decrypted in a thread: the event loop must not wait for them."""
_READING: Final = msgspec.json.Decoder(PowerReading)


class ValkeyReadingStore:
    def __init__(self, valkey: Valkey, sealer: Sealer) -> None:
        self._valkey = valkey
        self._sealer = sealer
        self._key = valkey.key("readings", tag="readings")

    async def add(self, reading: PowerReading) -> None:
        name = sha256(f"{reading.project}/{reading.server}".encode()).hexdigest()[:32]
        sealed = self._sealer.seal(msgspec.json.encode(reading), bound_to=self._binding(name))
        lifetime_ms = int(READINGS_AGE_MAX_S * 1_000)
        await self._valkey.run_script(_ADD, [self._key], [name, sealed, lifetime_ms, _READINGS_MAX])

    async def readings(self) -> tuple[PowerReading, ...]:
        found: list[bytes] = await self._valkey.run_script(_LIST, [self._key], [])
        pairs = list(zip(found[::2], found[1::2], strict=True))
        if len(pairs) <= _OPENED_HERE_MAX:
            return tuple(self._opened(pairs))
        return await asyncio.to_thread(lambda: tuple(self._opened(pairs)))

    def _opened(self, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[PowerReading]:
        for name, sealed in pairs:
            bound_to = self._binding(name.decode("ascii", "replace"))
            # Otherwise forged in Redis, sealed with another key, or of another version.
            with suppress(msgspec.DecodeError):
                yield _READING.decode(self._sealer.open(sealed, bound_to=bound_to) or b"")

    def _binding(self, name: str) -> bytes:
        return f"{self._key}:{name}".encode()
