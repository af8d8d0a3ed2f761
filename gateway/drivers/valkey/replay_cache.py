"""Replay cache shared by all replicas (port `ReplayCache`)."""

import math
from hashlib import sha256

from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript

_MARK, _UNMARK = LuaScript("mark_used"), LuaScript("unmark_used")


class ValkeyReplayCache:
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def use(self, key: str, *, ttl_s: float) -> bool:
        ttl_ms = max(1, math.ceil(ttl_s * 1000))
        return bool(await self._valkey.run_script(_MARK, [self._name(key)], [ttl_ms]))

    async def undo_use(self, key: str) -> None:
        await self._valkey.run_script(_UNMARK, [self._name(key)], [])

    def _name(self, key: str) -> str:
        return self._valkey.key("used", tag=sha256(key.encode()).hexdigest()[:32])
