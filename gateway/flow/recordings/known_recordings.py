"""The recordings that this replica knows of: those in its directory, and those of other hosts."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from gateway.domain.errors import StoreUnavailable
from gateway.domain.recordings.model import PartState, RecordingInfo, RecordingPage, RecordingQuery
from gateway.flow.recordings.recording_catalogue import PublishedRecording, RecordingCatalogue
from gateway.flow.recordings.recording_store import RecordingReader, RecordingStore


class KnownRecordings:
    def __init__(self, store: RecordingStore, catalogue: RecordingCatalogue, *, host: str) -> None:
        """`host`: this one."""
        self._store = store
        self._catalogue = catalogue
        self._host = host

    async def list(self, query: RecordingQuery, limit: int) -> RecordingPage:
        """Return the newest recordings of all hosts; raise RecordingUnreadable.

        There may be more than `limit`, or fewer before `until`.
        """
        page = await self._store.list(query, limit)
        here = {one.details.id: one for one in page.recordings}
        if page.until is not None:
            query = replace(query, since=page.until)
        published: dict[str, list[PublishedRecording]] = {}
        is_complete, until = True, page.until
        try:
            entries, others_until = await self._catalogue.list(query, limit)
            reporting = await self._reporting(entries)
        except StoreUnavailable:
            entries, others_until, reporting, is_complete = [], None, (), False
        for one in entries:
            published.setdefault(one.info.details.id, []).append(one)
        if others_until is not None:
            until = others_until  # not before that of this directory, since which it looked
        merged = (
            self._merge(here.get(name), found, reporting) for name, found in published.items()
        )
        known = {**here, **{one.details.id: one for one in merged if one is not None}}
        newest = sorted(known.values(), key=_started_at, reverse=True)
        if until is not None:
            newest = [one for one in newest if _started_at(one) >= until]
        return RecordingPage(newest, until, is_complete)

    async def find(self, recording: str) -> RecordingInfo | None:
        """Return a recording of any host; raise RecordingUnreadable."""
        here = await self._store.find(recording)
        try:
            published = await self._catalogue.find(recording)
            reporting = await self._reporting(published)
        except StoreUnavailable:
            return here
        return self._merge(here, published, reporting)

    async def check(self, found: Sequence[RecordingInfo]) -> Sequence[RecordingInfo]:
        """Compare those in this directory with the index; raise RecordingUnreadable."""
        here = await self._store.check([one for one in found if one.is_here])
        checked = {one.details.id: one for one in here}
        return [checked.get(one.details.id, one) for one in found]

    async def open(self, recording: str, *, with_keystrokes: bool) -> RecordingReader:
        """Open a recording of this directory; raise RecordingUnreadable."""
        return await self._store.open(recording, with_keystrokes=with_keystrokes)

    async def _reporting(self, published: Iterable[PublishedRecording]) -> Collection[str]:
        if all(one.host == self._host for one in published):
            return ()
        return await self._catalogue.reporting()

    def _merge(
        self,
        here: RecordingInfo | None,
        published: Iterable[PublishedRecording],
        reporting: Collection[str],
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
        gone = tuple(one for one in hosts if one not in reporting)
        if here is not None:
            return replace(here, elsewhere=hosts, gone=gone)
        if not others:
            return None
        parts = tuple(
            replace(part, state=PartState.LEFT)
            if one.host in gone and part.state is PartState.OPEN
            else part
            for one in others
            for part in one.info.parts
        )
        return replace(others[0].info, parts=parts, is_here=False, elsewhere=hosts, gone=gone)


def _started_at(info: RecordingInfo) -> float:
    return info.details.started_at
