"""What no replica may take twice (ports.UsedOnce)."""

import math
from hashlib import sha256

from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript

_USE, _UNUSE = LuaScript("use"), LuaScript("unuse")


class ValkeyUsedOnce:
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def use(self, key: str, *, ttl_s: float) -> bool:
        ttl_ms = max(1, math.ceil(ttl_s * 1000))
        return bool(await self._valkey.run_script(_USE, [self._name(key)], [ttl_ms]))

    async def take_back(self, key: str) -> None:
        await self._valkey.run_script(_UNUSE, [self._name(key)], [])

    def _name(self, key: str) -> str:
        return self._valkey.key("used", tag=sha256(key.encode()).hexdigest()[:32])
