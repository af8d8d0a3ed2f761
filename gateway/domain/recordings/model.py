"""Recordings of live consoles: what is recorded, and what is known about a recording. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.domain.consoles.model import (
    ConsoleSession,
    ConsoleTarget,
    PersonRef,
    SessionMode,
)
from gateway.domain.recordings.records import Record


class RecordingPolicy(Enum):
    """Whether the consoles of an account are recorded."""

    NEVER = "never"
    WHEN_POSSIBLE = "when_possible"
    """A session goes on without a recording, and its page says so."""
    REQUIRED = "required"
    """Invariant 12: no screen data reaches the browser before it is written."""


class PartState(Enum):
    OPEN = "open"
    """A process writes it, or closes it."""
    LEFT = "left"
    """Its process has died, or could not close it, and no other has closed it yet."""
    CLOSED = "closed"
    CUT = "cut"
    """Closed after its process had died: the last moment may be missing."""
    DAMAGED = "damaged"
    """Its file does not begin or end like one that the gateway wrote."""


@dataclass(frozen=True, slots=True)
class RecordingDetails:
    """Who was recorded, where and when: written once, when a recording begins."""

    id: str
    """The ID of the session."""
    target: ConsoleTarget
    person: PersonRef
    mode: SessionMode
    started_at: float
    """Seconds since the epoch, of the session."""
    policy: RecordingPolicy
    has_keystrokes: bool
    client_address: str
    request_id: str

    @classmethod
    def of(
        cls, session: ConsoleSession, policy: RecordingPolicy, *, has_keystrokes: bool
    ) -> "RecordingDetails":
        return cls(
            id=session.id,
            target=session.target,
            person=PersonRef.of(session.person),
            mode=session.mode,
            started_at=session.started_at,
            policy=policy,
            has_keystrokes=has_keystrokes,
            client_address=session.client_address,
            request_id=session.request_id,
        )


PartId = tuple[str, int]
"""The host that recorded a part, and its number: each host counts for itself."""


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One connection to the cloud's console."""

    number: int
    started_at: float
    """Seconds since the epoch."""
    ended_at: float | None
    """None: open or left."""
    end: str
    """Name of the SessionEnd; "": the page's connection was lost, or the part is open or cut."""
    state: PartState
    size: int
    """Bytes of its file."""
    host: str
    """The host that recorded it."""


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """A recording as it is listed."""

    details: RecordingDetails
    parts: tuple[PartInfo, ...]
    on_hold: bool
    """Retention keeps it."""
    problems: tuple[str, ...] = ()
    """What does not match the index; only where that was checked."""
    is_here: bool = True
    """False: only another host has its files."""
    elsewhere: tuple[str, ...] = ()
    """The other hosts that have parts of it, which this one cannot read."""
    gone: tuple[str, ...] = ()
    """Those of `elsewhere` from which no gateway reports any more."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a viewer must know: the recording is not intact, or not all of it is here."""
        if not self.elsewhere:
            return self.problems
        what = "more of it is" if self.is_here else "its files are"
        where = f"{what} on {', '.join(self.elsewhere)}, which this replica cannot read"
        if self.gone:
            where += f"; no gateway reports from {', '.join(self.gone)}: is the host gone?"
        return (*self.problems, where)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def is_open(self) -> bool:
        """Return whether a part is not closed."""
        return any(part.state in (PartState.OPEN, PartState.LEFT) for part in self.parts)

    @property
    def is_in_progress(self) -> bool:
        return any(part.state is PartState.OPEN for part in self.parts)

    @property
    def state(self) -> str:
        if self.is_in_progress:
            return "in_progress"
        return "not_closed" if self.is_open else "ended"

    @property
    def hosts(self) -> list[str]:
        """The hosts that recorded its parts."""
        return sorted({one.host for one in self.parts if one.host})

    @property
    def ended_at(self) -> float | None:
        """Seconds since the epoch; None while a part is not closed."""
        if self.is_open:
            return None
        return max((part.ended_at or 0.0 for part in self.parts), default=self.details.started_at)

    @property
    def end(self) -> str:
        """Why the last part ended."""
        return self.parts[-1].end if self.parts else ""


@dataclass(frozen=True, slots=True)
class RecordingQuery:
    """Which recordings to list; None: any."""

    project: str | None = None
    server: str | None = None
    subject: str | None = None
    since: float | None = None
    """Sessions that started at this time or later, in seconds since the epoch."""
    until: float | None = None
    """Sessions that started before this time."""

    def matches(self, details: RecordingDetails) -> bool:
        return (
            (self.project is None or self.project == details.target.project)
            and (self.server is None or self.server == details.target.server)
            and (self.subject is None or self.subject == details.person.subject)
            and (self.since is None or details.started_at >= self.since)
            and (self.until is None or details.started_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class RecordingPage:
    """Some of the recordings that match a query, the newest first."""

    recordings: Sequence[RecordingInfo]
    until: float | None = None
    """The others started before this time; None: there are no others."""
    is_complete: bool = True
    """False: those of other hosts are not known at the moment."""


@dataclass(frozen=True, slots=True)
class ChunkTimes:
    """One chunk of a part: the unit that a player reads. Times in ms since the part's start."""

    first_ms: int
    last_ms: int
    plain_bytes: int


@dataclass(frozen=True, slots=True)
class PartTimes:
    """A closed part as a player needs it."""

    info: PartInfo
    chunks: tuple[ChunkTimes, ...]
    marks: tuple[Record, ...]
    """The records but screen data and keys; without `omitted_marks` of the last."""
    keystroke_chunks: int = 0
    omitted_marks: int = 0

    @property
    def duration_ms(self) -> int:
        return self.chunks[-1].last_ms if self.chunks else 0
