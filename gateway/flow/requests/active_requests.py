"""Access requests that are known here, replicated through Redis to every replica within a second.

Each replica caches all requests, saves them in a snapshot file, and restores a Redis that lost
them. Of two copies the later version counts. A copy proves nothing: only a rule in force, and the
absence of an override that ends the request, make it a grant (gateway/domain/requests/grants.py).
"""

import asyncio
import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from gateway.domain.errors import StoreUnavailable
from gateway.domain.requests.model import AccessRequest, State
from gateway.domain.requests.notices import Notice
from gateway.flow.clock import Clock
from gateway.flow.snapshot_file import SnapshotFile

_SYNC_INTERVAL_S: Final = 0.4
_CLOCK_SKEW_S: Final = 300.0
_FULL_SYNC_INTERVAL_S: Final = 60.0
"""A full sync finds copies that were changed in Redis without a new revision."""
_PUT_AT_ONCE_MAX: Final = 100

NO_VERSION: Final = "none"
"""The version of an empty store, in `RequestStore.put`."""

Revisions = Mapping[str, str]
"""The revision of each stored request, by ID: another one after each change."""


@dataclass(frozen=True, slots=True)
class StoredRequests:
    version: str
    requests: Sequence[AccessRequest]
    """Those whose revision the caller did not know."""
    revisions: Revisions
    """Of all stored requests, also of unreadable ones."""
    rewrite: frozenset[str]
    """IDs of those, among `requests` and besides, that are unreadable or sealed with an old key.

    A process that has one of them cached writes it again.
    """


@dataclass(frozen=True, slots=True)
class Put:
    """The result of a compare-and-set."""

    is_full: bool
    revision: str
    """Of the stored request; "": it was not stored."""


class RequestStore(Protocol):
    """Access requests shared by all replicas. Each method raises StoreUnavailable."""

    async def read(self, known: str, revisions: Revisions) -> StoredRequests | None:
        """Return the requests with other revisions than these.

        None: the version is still `known`.
        """

    async def put(
        self,
        request: AccessRequest,
        *,
        replaces: str,
        at_version: str,
        stored_max: int,
        notices: Sequence[Notice] = (),
    ) -> Put:
        """Store a request in place of the copy with the revision `replaces`; "": there is none.

        `at_version`: only if nothing else has changed since this version, or since the store was
        empty (NO_VERSION); "" does not matter.
        `notices` enter the outbox of webhooks with the request, or not at all.
        """

    async def remove(self, ids: Sequence[str]) -> None: ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the store may have changed."""


class RequestSeal(Protocol):
    def seal(self, request: AccessRequest) -> bytes: ...

    def open(self, request_id: str, sealed: bytes) -> AccessRequest | None:
        """Return the request; None if it was not sealed for this ID."""

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the current key sealed it."""


class ActiveRequests:
    def __init__(
        self,
        store: RequestStore,
        file: SnapshotFile | None,
        seal: RequestSeal,
        clock: Clock,
        *,
        keep_s: float,
        stored_max: int,
    ) -> None:
        """Load the snapshot in `file`. `keep_s`: how long a finished request is stored."""
        self._store = store
        self._file = file
        self._seal = seal
        self._clock = clock
        self._keep_s = keep_s
        self._stored_max = stored_max
        self._requests: dict[str, AccessRequest] = {}
        self.open: tuple[AccessRequest, ...] = ()
        """Those that are pending or active, as of the last sync or change."""
        self.started: tuple[AccessRequest, ...] = ()
        """Those whose access has begun and not ended: another object after each change."""
        self.is_synced = False
        """The store was read once since the start."""
        self._version = ""
        self._revisions: dict[str, str] = {}
        self._stored: dict[str, AccessRequest] = {}
        """The readable copies in the store."""
        self._notices: dict[str, Sequence[Notice]] = {}
        """Of steps that the store does not have yet, by the request's ID."""
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        """Set while the file lacks a change."""
        self._full_sync_at = clock.monotonic()
        store.on_change(self._wake.set)
        if file is not None:
            self._add(decode_snapshot(file.load(), seal))

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def person_max(self) -> int:
        """How many of the stored requests one person may have made. The rest is for others."""
        return self._stored_max // 4

    @property
    def all(self) -> Sequence[AccessRequest]:
        """The requests, newest first."""
        found = self._requests.values()
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def count(self, state: State) -> int:
        now = self._clock.now()
        return sum(one.state(now) == state for one in self._requests.values())

    def find(self, request_id: str) -> AccessRequest | None:
        return self._requests.get(request_id)

    async def create(self, request: AccessRequest, notices: Sequence[Notice] = ()) -> Put:
        """Store a new request if nothing has changed since the last `sync`.

        Raises StoreUnavailable.
        """
        put = await self._store.put(
            request,
            replaces="",
            at_version=self._version or NO_VERSION,
            stored_max=self._stored_max,
            notices=notices,
        )
        self._note(request, put)
        return put

    async def replace(
        self, before: AccessRequest, after: AccessRequest, notices: Sequence[Notice] = ()
    ) -> bool:
        """Replace the copy `before`; False: it is not the current one. Raises StoreUnavailable."""
        if self._requests.get(before.id) is not before:
            return False
        revision = self._revisions.get(before.id, "")
        if self._stored.get(before.id) != before:
            return False  # not in the store yet: the next sync writes it
        put = await self._store.put(
            after,
            replaces=revision,
            at_version="",
            stored_max=self._stored_max,
            notices=notices,
        )
        self._note(after, put)
        return bool(put.revision)

    async def close(self, closed: AccessRequest, notices: Sequence[Notice] = ()) -> None:
        """Apply a step that ends a request, here at once; the store follows when it can."""
        self._add([closed])
        if notices:
            self._notices[closed.id] = notices
        with suppress(StoreUnavailable):
            await self.sync()

    async def run(self) -> None:
        """Sync with the store and save to the file, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._sync_forever())
            if self._file is not None:
                loops.create_task(self._save_forever(self._file))

    async def sync(self) -> None:
        """Read the store once and write what it lacks; raise StoreUnavailable."""
        now = self._clock.monotonic()
        if now - self._full_sync_at >= _FULL_SYNC_INTERVAL_S:
            self._full_sync_at, self._version, self._revisions = now, "", {}
        stored = await self._store.read(self._version, self._revisions)
        if stored is not None:
            self._merge(stored)
        self.is_synced = True
        self._update_started()
        await self._forget()
        await self._put_missing()

    def _merge(self, stored: StoredRequests) -> None:
        self._version, self._revisions = stored.version, dict(stored.revisions)
        fetched = {one.id: one for one in stored.requests}
        self._stored = {
            one: copy
            for one, copy in (self._stored | fetched).items()
            if one in stored.revisions and one not in stored.rewrite
        }
        self._add(stored.requests)

    async def _put_missing(self) -> None:
        """Write what the store lacks, for example after it lost data or got an older copy."""
        missing = [one for one in self._requests.values() if self._stored.get(one.id) is not one]
        for request in missing[:_PUT_AT_ONCE_MAX]:
            copy = self._stored.get(request.id)
            if copy == request:
                self._stored[request.id] = request
                continue
            put = await self._store.put(
                request,
                replaces=self._revisions.get(request.id, ""),
                at_version="",
                stored_max=self._stored_max,
                notices=self._notices.get(request.id, ()),
            )
            if put.revision:
                self._notices.pop(request.id, None)
            self._note(request, put)

    async def _forget(self) -> None:
        """Drop what has been finished for long, here and in the store."""
        now = self._clock.now()
        old = [one.id for one in self._requests.values() if self._is_old(one, now)]
        if not old:
            return
        for one in old:
            del self._requests[one]
            self._notices.pop(one, None)
        self._changed.set()
        await self._store.remove(old)
        for one in old:
            self._stored.pop(one, None)
            self._revisions.pop(one, None)

    def _is_old(self, request: AccessRequest, now: float) -> bool:
        listed_until = max(request.finished_at + self._keep_s, request.last_effect_at)
        return not request.is_open(now) and now >= listed_until + _CLOCK_SKEW_S

    def _note(self, request: AccessRequest, put: Put) -> None:
        if put.revision:
            self._add([request])
            self._revisions[request.id] = put.revision
            self._stored[request.id] = request

    def _add(self, requests: Iterable[AccessRequest]) -> None:
        is_changed = False
        for one in requests:
            known = self._requests.get(one.id)
            if known is None or one.is_newer_than(known):
                self._requests[one.id] = one
                is_changed = True
        if is_changed:
            self._changed.set()
            self._update_started()

    def _update_started(self) -> None:
        now = self._clock.now()
        opened = tuple(one for one in self._requests.values() if one.is_open(now))
        if opened != self.open:
            self.open = opened
        started = tuple(one for one in opened if one.state(now) == "active")
        if started != self.started:
            self.started = started

    async def _sync_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.sync()
            except StoreUnavailable:
                self._update_started()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SYNC_INTERVAL_S):
                    await self._wake.wait()

    async def _save_forever(self, file: SnapshotFile) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            found: list[AccessRequest] = []
            ours = tuple(self._requests.values())

            def merged(
                text: bytes | None,
                found: list[AccessRequest] = found,
                ours: Sequence[AccessRequest] = ours,
            ) -> bytes:
                # Another worker of this host may have saved a request that is not known here yet.
                found.extend(decode_snapshot(text, self._seal))
                return self._encode_snapshot(found, ours)

            await file.save(merged)
            self._add(found)

    def _encode_snapshot(
        self, found: Sequence[AccessRequest], ours: Sequence[AccessRequest]
    ) -> bytes:
        by_id = {one.id: one for one in found}
        for one in ours:
            known = by_id.get(one.id)
            if known is None or one.is_newer_than(known):
                by_id[one.id] = one
        now = self._clock.now()
        sealed = {
            one.id: base64.b64encode(self._seal.seal(one)).decode()
            for one in by_id.values()
            if not self._is_old(one, now)
        }
        return msgspec.json.encode({"requests": sealed})


def decode_snapshot(text: bytes | None, seal: RequestSeal) -> Sequence[AccessRequest]:
    """Return the requests in a snapshot file; a missing or damaged file has none."""
    try:
        stored: Any = msgspec.json.decode(text or b"{}", type=dict[str, dict[str, bytes]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    opened = (seal.open(one, sealed) for one, sealed in stored.get("requests", {}).items())
    return [one for one in opened if one is not None]
