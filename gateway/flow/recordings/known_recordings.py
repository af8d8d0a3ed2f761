"""The recordings that this replica knows of: those in its directory, and those of other hosts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gateway.domain.errors import StoreUnavailable
from gateway.domain.recordings.model import RecordingInfo, RecordingQuery
from gateway.flow.recordings.recording_catalogue import PublishedRecording, RecordingCatalogue
from gateway.flow.recordings.recording_store import RecordingReader, RecordingStore


@dataclass(frozen=True, slots=True)
class ListedRecordings:
    recordings: Sequence[RecordingInfo]
    is_complete: bool
    """False: those of other hosts are not known at the moment."""


class KnownRecordings:
    def __init__(self, store: RecordingStore, catalogue: RecordingCatalogue, *, host: str) -> None:
        """`host`: this one."""
        self._store = store
        self._catalogue = catalogue
        self._host = host

    async def list(self, query: RecordingQuery) -> ListedRecordings:
        """Return the recordings of all hosts, the newest first; raise RecordingUnreadable."""
        here = {one.details.id: one for one in await self._store.list(query)}
        published: dict[str, list[PublishedRecording]] = {}
        is_complete = True
        try:
            for one in await self._catalogue.list(query):
                published.setdefault(one.info.details.id, []).append(one)
        except StoreUnavailable:
            is_complete = False
        merged = (self._merge(here.get(name), found) for name, found in published.items())
        known = {**here, **{one.details.id: one for one in merged if one is not None}}
        newest = sorted(known.values(), key=lambda one: one.details.started_at, reverse=True)
        return ListedRecordings(newest, is_complete)

    async def find(self, recording: str) -> RecordingInfo | None:
        """Return a recording of any host; raise RecordingUnreadable."""
        here = await self._store.find(recording)
        try:
            published = await self._catalogue.find(recording)
        except StoreUnavailable:
            return here
        return self._merge(here, published)

    async def check(self, found: Sequence[RecordingInfo]) -> Sequence[RecordingInfo]:
        """Compare those in this directory with the index; raise RecordingUnreadable."""
        here = await self._store.check([one for one in found if one.is_here])
        checked = {one.details.id: one for one in here}
        return [checked.get(one.details.id, one) for one in found]

    async def open(self, recording: str, *, with_keystrokes: bool) -> RecordingReader:
        """Open a recording of this directory; raise RecordingUnreadable."""
        return await self._store.open(recording, with_keystrokes=with_keystrokes)

    def _merge(
        self, here: RecordingInfo | None, published: Iterable[PublishedRecording]
    ) -> RecordingInfo | None:
        # On a volume that hosts share, each publishes what this one can read itself.
        known = set() if here is None else {(one.host, one.number) for one in here.parts}
        others = [
            one
            for one in published
            if one.host != self._host
            and not {(part.host, part.number) for part in one.info.parts} <= known
        ]
        hosts = tuple(sorted(one.host for one in others))
        if here is not None:
            return replace(here, elsewhere=hosts)
        if not others:
            return None
        parts = tuple(part for one in others for part in one.info.parts)
        return replace(others[0].info, parts=parts, is_here=False, elsewhere=hosts)
