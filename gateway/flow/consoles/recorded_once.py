"""Bounded memory of what the audit log already has, so that repetitions do not fill it."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from gateway.domain.errors import StoreUnavailable
from gateway.flow.consoles.console_store import ConsoleStore

_REMEMBERED_MAX: Final = 10_000


class RecordedOnce:
    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, key: Hashable) -> bool:
        """Return True for a key that is new to this process."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > _REMEMBERED_MAX:
            self._keys.popitem(last=False)
        return True


class RecordedByOne:
    """What one replica records, and the others do not record again."""

    def __init__(self, store: ConsoleStore) -> None:
        self._store = store
        self._here = RecordedOnce()

    async def claim(self, name: str) -> bool:
        """Return True for a name that is new to all replicas; without the store, to this one."""
        if not self._here.add(name):
            return False
        try:
            return await self._store.claim_rejection(name)
        except StoreUnavailable:
            return True
