"""An in-memory OrderStore; the contract suite holds it to what Valkey does."""

import itertools
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import Override
from gateway.flow.active_overrides import StoredOverrides


class FakeOverrideStore:
    def __init__(self) -> None:
        self.overrides: dict[str, Override] = {}
        self.unreadable: set[str] = set()
        self.under_old_key: set[str] = set()
        self.is_complete = False
        self.is_unavailable = False
        self._version = ""
        self._versions = itertools.count(1)
        self._callbacks: list[Callable[[], None]] = []

    async def read(self, known: str, *, cached: AbstractSet[str]) -> StoredOverrides | None:
        self._require_available()
        if known and known == self._version:
            return None
        readable = self.overrides.keys() - self.unreadable
        return StoredOverrides(
            self._version,
            self.is_complete,
            [self.overrides[one] for one in sorted(readable - cached)],
            (self.overrides.keys() & cached) | (readable - self.under_old_key),
            len(self.unreadable - cached),
        )

    async def add(
        self, overrides: Sequence[Override], *, expired: Sequence[str], complete: bool
    ) -> None:
        self._require_available()
        for override_id in expired:
            self.overrides.pop(override_id, None)
        self.overrides |= {override.id: override for override in overrides}
        self.unreadable -= {override.id for override in overrides}
        self.under_old_key -= {override.id for override in overrides}
        if overrides or (complete and not self.is_complete):
            self.is_complete = self.is_complete or complete
            self.touch()

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def lose_data(self) -> None:
        self.overrides.clear()
        self.is_complete, self._version = False, ""

    def make_unreadable(self, override_id: str) -> None:
        self.unreadable.add(override_id)
        self.touch()

    def set_version(self, version: str) -> None:
        """Return to an earlier version, as after a failover to an older server."""
        self._version = version

    @property
    def version(self) -> str:
        return self._version

    def touch(self) -> None:
        self._version = str(next(self._versions))
        self.wake()

    def wake(self) -> None:
        for call in self._callbacks:
            call()

    def _require_available(self) -> None:
        if self.is_unavailable:
            raise StoreUnavailable("unavailable")
