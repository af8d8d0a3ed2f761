"""Active overrides, replicated through Redis to every replica within a second.

Each replica caches all overrides, keeps them in a snapshot file, and restores a Redis that lost
them. A replica that has loaded all overrides neither from Redis nor from its file rejects callers,
because a caller's token may be revoked. An override that is added before that is in the file and
in Redis, but neither is marked as complete.
"""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, Protocol

from gateway.domain.errors import BadRequest, RevocationsUnavailable, StoreUnavailable
from gateway.domain.model import Principal
from gateway.domain.overrides import (
    ClearedOverride,
    Effect,
    EndedRequest,
    Lock,
    Override,
    OverrideSet,
    OverrideSnapshot,
    decode_snapshot,
    encode_snapshot,
    expiries,
    unexpired,
)
from gateway.flow.clock import Clock
from gateway.flow.snapshot_file import SnapshotFile

OVERRIDES_MAX: Final = 10_000
"""Without locks, and without ended access requests, which have a bound of their own. Each change
visits every override on the event loop."""
LOCKS_MAX: Final = 5_000
"""Locks and their liftings. A flood of locks leaves room for revocations, and the reverse."""
LIFTED_LOCK_LIFE_S: Final = 2_592_000.0
"""How long a lifting is remembered: a snapshot file of that age brings the lock back."""
_SYNC_INTERVAL_S: Final = 0.4
_RETRY_AFTER_S: Final = 2.0
_RESTORED_WITHIN_S: Final = 2.5
"""A replica finds a recovered store within 2 s (drivers/valkey/connection.py) and then syncs."""
_CLOCK_SKEW_S: Final = 300.0
"""An expired override leaves the store this much later, in case another replica's clock is slow."""
_SAVED_WITHIN_S: Final = 3.0
"""How long `add` waits for the file. The override is in force even if the disk hangs."""
_FULL_SYNC_INTERVAL_S: Final = 60.0
"""A full sync rewrites entries that are damaged, or sealed with a key that will be withdrawn."""


@dataclass(frozen=True, slots=True)
class StoredOverrides:
    version: str
    is_complete: bool
    """A process that knew all overrides has added them; False in a store that lost its data."""
    overrides: Sequence[Override]
    """The overrides that the caller had not cached."""
    ids: AbstractSet[str]
    """IDs of all entries that are readable and sealed with the current key. A process that has
    one of the others cached writes it again."""
    unreadable: int
    """How many entries that the caller had not cached cannot be read."""


class OverrideStore(Protocol):
    """Overrides shared by all replicas. `read` and `add` raise StoreUnavailable."""

    async def read(self, known: str, *, cached: AbstractSet[str]) -> StoredOverrides | None:
        """Return the overrides whose IDs are not in `cached`.

        None: the version is still `known`.
        """

    async def add(
        self, overrides: Sequence[Override], *, expired: Sequence[str], complete: bool
    ) -> None:
        """Add overrides for all replicas and remove those with the IDs in `expired`.

        `complete`: with these, the store has all overrides.
        """

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the store may have changed."""


class ActiveOverrides:
    def __init__(  # noqa: PLR0913
        self,
        store: OverrideStore,
        file: SnapshotFile | None,
        clock: Clock,
        *,
        allow_unloaded: bool,
        enabled: bool = True,
        is_store_own: bool = False,
        on_failure: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Load the snapshot in `file`.

        `allow_unloaded`: allow callers before the overrides are loaded. `enabled`: False if no
        replica accepts overrides, so there are none to load. `is_store_own`: the store began empty
        with this gateway and no other replica uses it, so none can restore it. `on_failure`
        receives the error that kept overrides from taking effect.
        """
        self._store = store
        self._file = file
        self._clock = clock
        self._allow_unloaded = allow_unloaded
        self._enabled = enabled
        self._restored_within_s = 0.0 if is_store_own else _RESTORED_WITHIN_S
        self._on_failure = on_failure
        self._overrides = OverrideSet()
        self._complete = False
        self._wake = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []

        self._version = ""
        self._stored: dict[str, float] = {}
        """Expiry of the overrides in the store, by ID."""
        self._store_complete = False
        self._unreadable = 0
        self._incomplete_since: float | None = None
        self._full_sync_at = clock.monotonic()

        self._changed = asyncio.Event()
        """Set while the file lacks a change."""
        self._saved = asyncio.Event()
        """Set when the next save to start has ended."""
        store.on_change(self._wake.set)
        if file is not None:
            self._restore(decode_snapshot(file.load()))

    @property
    def loaded(self) -> bool:
        """Whether all overrides in force are known here."""
        return self._complete or not self._enabled

    @property
    def state(self) -> Literal["ok", "not_loaded", "waiting_for_replicas", "unreadable"]:
        """Return whether the overrides are loaded, and if not, why.

        `waiting_for_replicas`: the store has no complete set; another replica may restore it.
        """
        if self.loaded:
            return "ok"
        if self._unreadable:
            return "unreadable"
        return "not_loaded" if self._incomplete_since is None else "waiting_for_replicas"

    @property
    def allows_callers(self) -> bool:
        return self.loaded or self._allow_unloaded

    @property
    def current(self) -> OverrideSet:
        return self._overrides

    @property
    def ended_requests(self) -> frozenset[str] | None:
        """IDs of access requests that were ended; None: the overrides are not loaded."""
        return self._overrides.ended_requests if self._complete else None

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` now and after each change."""
        self._callbacks.append(callback)
        self._notify(callback)

    def is_known_revoked(self, principal: Principal) -> bool:
        """Return whether an override that is known here revokes the token."""
        return self._overrides.is_revoked(principal)

    def is_revoked(self, principal: Principal) -> bool:
        """Return whether the token is revoked; raise RevocationsUnavailable."""
        if not self.allows_callers:
            raise RevocationsUnavailable(
                "loaded neither from Redis nor from the file", retry_after_s=_RETRY_AFTER_S
            )
        return self._overrides.is_revoked(principal)

    def find_lock(self, principal: Principal) -> str | None:
        """Return the ID of a lock, known here, on the person or one of their groups."""
        return self._overrides.find_lock(principal)

    def dropped_by(self, project: str, server: str, person: str) -> tuple[str, ...]:
        """Return the IDs of the overrides that drop such a link; `person` is "" if it is shared."""
        return self._overrides.dropped_by(project, server, person)

    async def add(self, override: Override) -> bool:
        """Apply the override here at once; return whether all replicas are notified.

        If Redis is unavailable, the other replicas apply it when Redis recovers. Raises
        BadRequest.
        """
        self._require_room(override.effect)
        self._add([override])
        saved = self._saved
        try:
            await self._publish([override])
        except StoreUnavailable:
            return False
        finally:
            if self._file is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SAVED_WITHIN_S):
                        await saved.wait()
        return True

    async def add_own(self, override: Override) -> bool:
        """Apply an override of the gateway itself, also to a full set, and if none are enabled.

        Returns whether all replicas are notified, as `add` does; does not wait for the file.
        """
        self._add([override])
        try:
            await self._publish([override])
        except StoreUnavailable:
            return False
        return True

    def _require_room(self, effect: Effect) -> None:
        """Raise BadRequest if the set is full. Cleared overrides count until they expire."""
        locks, requests = self._overrides.lock_count, self._overrides.ended_request_count
        if isinstance(effect, ClearedOverride | EndedRequest):
            return  # a full set can still be cleared, and a request ended
        if isinstance(effect, Lock):
            if locks >= LOCKS_MAX:
                days = round(LIFTED_LOCK_LIFE_S / 86_400)
                raise BadRequest(
                    f"Limit of {LOCKS_MAX:,} locks reached; a lifted lock and its lifting count for"
                    f" {days} days. Lock a group or project instead, or add a denial to the policy."
                )
        elif len(self._overrides) - locks - requests >= OVERRIDES_MAX:
            raise BadRequest(
                f"Limit of {OVERRIDES_MAX:,} overrides reached. Retry after some have expired."
            )

    async def run(self) -> None:
        """Sync with the store, and save to the file beside that, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._sync_forever())
            if self._file is not None:
                loops.create_task(self._save_forever(self._file))

    async def _sync_forever(self) -> None:
        while True:
            self._wake.clear()
            with suppress(StoreUnavailable):
                await self.sync()
            self._drop_expired()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SYNC_INTERVAL_S):
                    await self._wake.wait()

    async def _save_forever(self, file: SnapshotFile) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            saved, self._saved = self._saved, asyncio.Event()
            await self._save(file)
            saved.set()

    async def sync(self) -> None:
        """Read the store once and add what it lacks; raise StoreUnavailable."""
        now = self._clock.monotonic()
        if now - self._full_sync_at >= _FULL_SYNC_INTERVAL_S:
            self._full_sync_at, self._version, self._stored = now, "", {}
        try:
            stored = await self._store.read(self._version, cached=frozenset(self._stored))
        except StoreUnavailable:
            self._incomplete_since = None
            raise
        if stored is not None:
            self._merge(stored)
        if not self._complete and self._is_store_trusted(read_at=now):
            self._complete = True
            self._changed.set()
        await self._publish_missing()

    async def refresh(self) -> bool:
        """Sync now, for a list that has what other replicas added; return whether it succeeded."""
        if not self._enabled:
            return True
        try:
            await self.sync()
        except StoreUnavailable:
            return False
        return True

    def _merge(self, stored: StoredOverrides) -> None:
        by_id = {one.id: one for one in chain(self._overrides, stored.overrides)}
        expiry = self._stored | expiries(by_id.values())
        self._stored = {one: expiry[one] for one in stored.ids if one in expiry}
        self._version, self._store_complete = stored.version, stored.is_complete
        self._unreadable = stored.unreadable
        self._add(stored.overrides)

    def _is_store_trusted(self, *, read_at: float) -> bool:
        """Return whether the store, of which a read began at `read_at`, has all overrides.

        Other replicas restore a store that lost them. After the time that this takes, no other
        replica knows any. A process that was stopped during the read trusts the next one.
        """
        if self._unreadable:
            return False
        if self._store_complete or not self._restored_within_s:
            return True
        if self._incomplete_since is None:
            self._incomplete_since = self._clock.monotonic()
        return read_at - self._incomplete_since >= self._restored_within_s

    async def _publish_missing(self) -> None:
        now = self._clock.now()
        missing = [override for override in self._overrides if override.id not in self._stored]
        expired = [one for one, until in self._stored.items() if until + _CLOCK_SKEW_S <= now]
        if missing or expired or (self._complete and not self._store_complete):
            await self._publish(missing, expired)

    async def _publish(self, overrides: Sequence[Override], expired: Sequence[str] = ()) -> None:
        # Read again even after success: a failover may undo the write.
        self._version = ""
        await self._store.add(overrides, expired=expired, complete=self._complete)
        self._stored |= {override.id: override.expires_at for override in overrides}
        for one in expired:
            self._stored.pop(one, None)

    def _add(self, overrides: Sequence[Override]) -> None:
        if not overrides:
            return
        merged = unexpired(chain(self._overrides, overrides), self._clock.now())
        if any(override.id not in self._overrides for override in merged):
            self._set(OverrideSet(merged))

    def _drop_expired(self) -> None:
        now, next_expiry = self._clock.now(), self._overrides.next_expiry
        if next_expiry is not None and next_expiry <= now:
            self._set(self._overrides.merge((), now))

    def _set(self, overrides: OverrideSet) -> None:
        self._overrides = overrides
        self._changed.set()
        for callback in self._callbacks:
            self._notify(callback)

    def _notify(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - one bad override must not stop the others
            self._on_failure(error)

    async def _save(self, file: SnapshotFile) -> None:
        """Return when the file has all overrides that are known here, merged with its own."""
        ours, now = OverrideSnapshot(self._complete, list(self._overrides)), self._clock.now()
        found: list[OverrideSnapshot] = []

        def merged(text: bytes | None) -> bytes:
            # Another worker of this host may have saved an override that is not known here yet.
            found.append(decode_snapshot(text))
            return encode_snapshot(found[0].merge(ours, now))

        await file.save(merged)
        for snapshot in found:
            self._restore(snapshot)

    def _restore(self, snapshot: OverrideSnapshot) -> None:
        self._complete = self._complete or snapshot.complete
        self._add(snapshot.overrides)
