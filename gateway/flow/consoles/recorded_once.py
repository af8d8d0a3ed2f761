"""Bounded memory of what the audit log already has, so that repetitions do not fill it."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

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
