"""Port of the store in which replicas share values and leases."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from gateway.flow.shared_queue import EarlyEntry


@dataclass(frozen=True, slots=True)
class StoredValue:
    value: bytes = field(repr=False)
    ttl_s: float
    version: bytes


@dataclass(frozen=True, slots=True)
class LeaseAcquired:
    """The caller of `claim` holds the lease: it fetches, then publishes, fails or abandons."""

    store_time: float
    """Seconds on the store's clock at the time of the claim."""


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """Another process holds the lease."""

    holder: str
    lease_left_s: float
    version: bytes
    """The version of the value that is stored now; b"" if there is none."""


@dataclass(frozen=True, slots=True)
class HolderFailed:
    """The fetch of the awaited holder failed."""

    failure: bytes


ANY_VERSION = b"*"
"""As `skip`: every stored value counts as absent."""


class SharedStore(Protocol):
    """Values and leases shared by all replicas. Every method raises StoreUnavailable.

    Keys that begin with the same `{group}` are stored together, and with the queues of the budgets
    of the account with this name.
    """

    async def claim(
        self,
        key: str,
        *,
        owner: str,
        lease_s: float,
        skip: bytes = b"",
        awaited: str = "",
        entry: EarlyEntry | None = None,
    ) -> StoredValue | LeaseAcquired | LeaseHeld | HolderFailed:
        """Return the value of `key`, or take the lease to fetch it.

        A value of version `skip` counts as absent. `awaited` is the holder that an earlier claim
        returned; if its fetch failed, HolderFailed is returned. `entry`: the fetch's entry into the
        queue of its budget; it may be made together with the lease, in the group of the key.
        """

    async def extend(self, key: str, *, owner: str, lease_s: float) -> bool:
        """Extend the lease; return False if this owner has lost it."""

    async def publish(
        self, key: str, *, owner: str, value: bytes, ttl_s: float, until: float
    ) -> bool:
        """Store the value and end the lease; return False, without effect, if it was lost.

        The value expires after `ttl_s`, and at `until` on the store's clock at the latest: the
        store may execute this late. `ttl_s` also applies if that clock is set back before. If it
        is set back later to before the time of storing, the value counts as absent, because its
        age is unknown.
        """

    async def fail(self, key: str, *, owner: str, failure: bytes) -> None:
        """End the lease and pass the failure to the waiting processes."""

    async def abandon(self, key: str, *, owner: str) -> None:
        """End the lease without a result; another process may fetch."""

    async def notify_holder(self, key: str, *, sender: str, text: bytes) -> None:
        """Send a sealed message to the process that fetches `key`; the message may be lost."""

    def watch(
        self, key: str, on_message: Callable[[str, bytes], None] | None = None
    ) -> AbstractContextManager[asyncio.Event]:
        """Return an event that is set when a fetch of `key` ends or the store becomes unavailable.

        The end of a fetch is reported only if a claim has returned LeaseHeld meanwhile.

        `on_message` receives sender and text of messages to the holder, including its own.
        """
