"""The console shape that worked last for each account, shared by replicas (port `ShapeMemory`)."""

from contextlib import suppress

from gateway.domain.errors import StoreUnavailable
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript

_RECALL, _REMEMBER = LuaScript("recall_shape"), LuaScript("remember_shape")


class ValkeyShapeMemory:
    """Without Redis a connection tries the shapes in their configured order."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._key = valkey.key("shapes", tag="console")

    async def recall(self, account: str) -> str:
        with suppress(StoreUnavailable):
            shape = await self._valkey.run_script(_RECALL, [self._key], [account])
            return shape.decode() if shape else ""
        return ""

    async def remember(self, account: str, shape: str) -> None:
        with suppress(StoreUnavailable):
            await self._valkey.run_script(_REMEMBER, [self._key], [account, shape])
