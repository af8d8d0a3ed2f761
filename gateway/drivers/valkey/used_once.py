"""What no replica may take twice (ports.UsedOnce)."""

import math
from hashlib import sha256

from gateway.drivers.valkey.connection import Script, Valkey

_USE = Script("use")


class ValkeyUsedOnce:
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def use(self, key: str, *, ttl_s: float) -> bool:
        name = self._valkey.key("used", tag=sha256(key.encode()).hexdigest()[:32])
        return bool(await self._valkey.run_script(_USE, [name], [max(1, math.ceil(ttl_s * 1000))]))
