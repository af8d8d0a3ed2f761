"""Port for writing recordings."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.domain.recordings.model import RecordingDetails
from gateway.domain.recordings.records import Record


class RecordingFailed(Exception):
    """A recording cannot be begun or continued; its text is for log and audit record."""


class PartWriter(Protocol):
    """One part of a recording, which this process writes."""

    async def append(self, records: Sequence[Record]) -> None:
        """Return when the operating system has accepted the encrypted records.

        Raises RecordingFailed: then, and after `on_failure`, nothing more is written.
        """

    def close(self, records: Sequence[Record]) -> None:
        """Write the last records, as far as possible, and close the part in the background."""


class RecordingWriter(Protocol):
    async def open_part(
        self, details: RecordingDetails, on_failure: Callable[[str], None]
    ) -> PartWriter:
        """Begin a part of the recording; return when it is durable, or raise RecordingFailed.

        `on_failure` is called once when the part can no longer be written: its file was removed,
        or its disk does not accept data.
        """
