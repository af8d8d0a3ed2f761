"""The request rate of each caller over all replicas (port `CallerUsage`)."""

from collections.abc import Mapping
from hashlib import sha256

from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript

_SPEND = LuaScript("spend")


class ValkeyCallerUsage:
    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        keys = [self._key(caller) for caller in requests]
        ahead_us = await self._valkey.run_script(
            _SPEND, keys, [round(interval_s * 1e6), *requests.values()]
        )
        return {caller: int(us) / 1e6 for caller, us in zip(requests, ahead_us, strict=True)}

    def _key(self, caller: str) -> str:
        return self._valkey.key(sha256(caller.encode()).hexdigest()[:32], tag="callers")
