"""Publishes the recordings of this host for the other replicas. It may fail at any time.

A recording is published when a part of it begins and ends. A pass over all of them adds what was
missed, and removes what retention has removed.
"""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from gateway.domain.errors import StoreUnavailable
from gateway.domain.recordings.model import PartId, RecordingInfo, RecordingQuery
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_catalogue import RECORDINGS_MAX, RecordingCatalogue
from gateway.flow.recordings.recording_store import RecordingStore, RecordingUnreadable

PASS_EVERY_S: Final = 600.0
REFRESH_EVERY_S: Final = 86_400.0
"""An entry that did not change is published again, so that it does not expire."""


class RecordingPublisher:
    def __init__(self, store: RecordingStore, catalogue: RecordingCatalogue, clock: Clock) -> None:
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        self._changed: set[str] = set()
        self._removed: dict[str, Collection[PartId]] = {}
        self._published: dict[str, int] = {}
        """The hash of what was published, by recording."""
        self._refreshed_at = clock.monotonic()
        self._pass_is_due = True
        self._wake = asyncio.Event()

    def publish_soon(self, recording: str) -> None:
        self._changed.add(recording)
        self._wake.set()

    def unpublish_soon(self, recording: str, parts: Collection[PartId]) -> None:
        """Unpublish a recording that retention has removed, with these parts."""
        self._removed[recording] = parts
        self._wake.set()

    def publish_all_soon(self) -> None:
        """Publish everything again: the store may have lost it."""
        self._published.clear()
        self._pass_is_due = True
        self._wake.set()

    async def run(self) -> None:
        """Publish changes until cancelled."""
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._publish())
            _ = group.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(PASS_EVERY_S)
            if self._clock.monotonic() - self._refreshed_at >= REFRESH_EVERY_S:
                self._refreshed_at = self._clock.monotonic()
                self._published.clear()
            self._pass_is_due = True
            self._wake.set()

    async def _publish(self) -> None:
        while True:
            # Without the store or the disk, the next pass publishes what is missing.
            with suppress(StoreUnavailable, RecordingUnreadable):
                if self._pass_is_due:
                    self._pass_is_due = False
                    await self._catalogue.report()
                    await self._publish_all()
                for recording in list(self._removed):
                    await self._unpublish(recording)
                changed, self._changed = self._changed, set()
                found = [await self._store.find(one) for one in changed]
                await self._publish_each(one for one in found if one is not None)
            if not (self._pass_is_due or self._changed):
                self._wake.clear()
                await self._wake.wait()

    async def _unpublish(self, recording: str) -> None:
        """Remove the entries of all hosts whose parts were removed here.

        A host of another name may have published them: a pod before this one, or one that shares
        the directory.
        """
        parts = self._removed[recording]
        for one in await self._catalogue.find(recording):
            if {(part.host, part.number) for part in one.info.parts} <= set(parts):
                await self._catalogue.remove(recording, one.host)
        self._published.pop(recording, None)
        del self._removed[recording]

    async def _publish_all(self) -> None:
        page = await self._store.list(RecordingQuery(), RECORDINGS_MAX)
        newest = page.recordings[:RECORDINGS_MAX]
        here = {one.details.id for one in newest}
        for gone in self._published.keys() - here:
            await self._catalogue.remove(gone)
            del self._published[gone]
        await self._publish_each(newest)

    async def _publish_each(self, found: Iterable[RecordingInfo]) -> None:
        for info in found:
            if self._published.get(info.details.id) != hash(info):
                await self._catalogue.publish(info)
                self._published[info.details.id] = hash(info)
