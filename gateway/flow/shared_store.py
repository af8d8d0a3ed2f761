"""Port of the store in which replicas share values and leases."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredValue:
    value: bytes = field(repr=False)
    ttl_s: float
    version: bytes


@dataclass(frozen=True, slots=True)
class LeaseAcquired:
    """The lease is ours: fetch, then settle."""

    store_time: float
    """Seconds by the store's clock, when it was claimed."""


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    holder: str
    lease_left_s: float
    version: bytes
    """Of the value that is stored now; b"" if none is."""


@dataclass(frozen=True, slots=True)
class HolderFailed:
    """The fetch that we waited for failed."""

    failure: bytes


ANY_VERSION = b"*"


class SharedStore(Protocol):
    """Values and leases that all replicas see. Every method raises StoreUnavailable."""

    async def claim(
        self, key: str, *, owner: str, lease_s: float, skip: bytes = b"", awaited: str = ""
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed:
        """Look `key` up, or take the lease to fetch it.

        A value of version `skip` (ANY_VERSION: of any) counts as absent. `awaited` is the holder
        that an earlier claim named: if it failed, so have we.
        """

    async def extend(self, key: str, *, owner: str, lease_s: float) -> bool:
        """Keep the lease; False when it is no longer ours."""

    async def publish(
        self, key: str, *, owner: str, value: bytes, ttl_s: float, until: float
    ) -> bool:
        """Store what was fetched and end the lease; False (and no effect) when it was lost.

        It is kept for `ttl_s`, but no longer than `until` by the store's clock: the store may run
        this late. `ttl_s` holds where that clock is set back before it is stored; set back
        afterwards, behind the storing, it makes the value absent: nobody knows its age.
        """

    async def fail(self, key: str, *, owner: str, failure: bytes) -> None:
        """End the lease and tell those who wait why."""

    async def abandon(self, key: str, *, owner: str) -> None:
        """End the lease without a result, so that another may fetch."""

    async def notify_holder(self, key: str, *, sender: str, text: bytes) -> None:
        """Tell whoever fetches `key`; it is sealed, and it may be lost."""

    def watch(
        self, key: str, on_message: Callable[[str, bytes], None] | None = None
    ) -> AbstractContextManager[asyncio.Event]:
        """Give an event that is set when a fetch of `key` ends, or when the store is lost.

        `heard` is given the teller and the text of what its holder is told, one's own included.
        """
