"""Port: which host has which recording, where replicas have directories of their own.

The catalogue is a convenience: it may lack recordings, and it decides nothing. Who may know of a
recording is decided on its details, as for those of this host.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.domain.recordings.model import RecordingInfo, RecordingQuery

REPORTED_S = 1_800.0
RECORDINGS_MAX = 10_000
"""Recordings in the catalogue, the newest of all hosts."""


@dataclass(frozen=True, slots=True)
class PublishedRecording:
    host: str
    """The host that has the files."""
    info: RecordingInfo


class RecordingCatalogue(Protocol):
    """Each method raises StoreUnavailable."""

    async def publish(self, info: RecordingInfo) -> None:
        """Add or replace what this host has of a recording."""

    async def remove(self, recording: str, host: str | None = None) -> None:
        """Remove what a host had of a recording; None: this host."""

    async def report(self) -> None:
        """Report that a gateway runs on this host."""

    async def reporting(self) -> Collection[str]:
        """Return the hosts that have reported within `REPORTED_S`."""

    async def list(
        self, query: RecordingQuery, limit: int
    ) -> tuple[Sequence[PublishedRecording], float | None]:
        """Return the newest entries, and before which time the others began (None: no others).

        It stops when there are `limit` entries, and may return more.
        """

    async def find(self, recording: str) -> Sequence[PublishedRecording]: ...
