"""Port of the store of tickets and live sessions, which all replicas share.

Each method is one atomic step on the store's clock. Times that the store returns are durations, so
that the clocks of store and replicas may differ.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from gateway.domain.consoles.model import (
    ConsoleSession,
    ConsoleTarget,
    PersonRef,
    SessionLimits,
    Ticket,
)
from gateway.domain.model import Principal

LEASE_S: Final = 15.0
"""How long a session belongs to the process that renewed it last."""
RENEW_EVERY_S: Final = 5.0
COMMANDS_EVERY_S: Final = 0.4
"""How often an owner takes its commands: they are executed within 1 s (invariant 11)."""
ENDED_REMEMBERED_S: Final = 3_600.0
"""How long the store remembers that a session has ended, so that nothing registers it again."""
REJECTION_REMEMBERED_S: Final = 86_400.0
"""How long the store remembers that a rejection is recorded."""
IN_TOUCH_S: Final = 3.0
"""The time since an owner's last call in which the store has its sessions' newest keys.

An owner with connections calls every COMMANDS_EVERY_S."""
CALM_S: Final = 300.0
"""A session without a new connection in this time starts to count its resumes again."""


@dataclass(frozen=True, slots=True)
class FoundTicket:
    ticket: Ticket
    left_s: float
    """Its remaining life."""


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The ticket is spent and the session exists, without an owner for RESUME_WITHIN_S at most."""

    ended: tuple[ConsoleSession, ...] = ()
    """Sessions that were taken over and had no owner: they ended in the same step.

    The caller writes the audit record of their end.
    """
    commanded: tuple[ConsoleSession, ...] = ()
    """Sessions that were taken over and have an owner, which found a command `taken_over`."""


@dataclass(frozen=True, slots=True)
class WouldEnd:
    """The redemption would take these sessions over; the store is unchanged.

    The caller records the take-over of each, and calls again with their IDs.
    """

    sessions: tuple[ConsoleSession, ...]


@dataclass(frozen=True, slots=True)
class TicketGone:
    """No such ticket: spent, expired, or lapsed because of newer ones."""


@dataclass(frozen=True, slots=True)
class ConsoleInUse:
    """The server has its number of sessions with keyboard; the ticket is not spent."""

    session: ConsoleSession
    """The oldest of them."""


class TakeOver(Enum):
    """The sessions with keyboard on a server that a redemption may end."""

    NONE = "none"
    OWN = "own"
    """The same person's sessions; if one of another person has to end: ConsoleInUse."""
    ANY = "any"


class SessionLimit(Enum):
    """The limit that forbids one more session. `SERVER` is ConsoleInUse."""

    PERSON = "person"
    VIEWERS = "viewers"
    ACCOUNT = "account"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The ticket is not spent."""

    limit: SessionLimit


@dataclass(frozen=True, slots=True)
class Attached:
    session: ConsoleSession
    previous_owner: str
    """"": it had none. Another process than `owner` found a command `replaced`."""
    attempt: int
    """0 for the first connection; then the number of resumes, counted anew after CALM_S."""


@dataclass(frozen=True, slots=True)
class StaleKey:
    """Cookie or resume key are not the current ones; nothing has changed."""

    session: ConsoleSession | None = None
    """The session if the cookie is its own, and only the resume key is not the current one."""


@dataclass(frozen=True, slots=True)
class SessionGone:
    """The session has ended, or was without its page for too long."""


@dataclass(frozen=True, slots=True)
class SessionUnknown:
    """The store may lack the session, or its newest key; nothing has changed.

    Its owner may not have registered it again after the store was unavailable or lost its data.
    """


class CommandKind(Enum):
    END = "end"
    WATCHERS = "watchers"
    """Look again who watches the session."""
    RENEW = "renew"
    """Follow a newer token of the session's person."""


@dataclass(frozen=True, slots=True)
class SessionCommand:
    """A command to the owner of a session."""

    session_id: str
    kind: CommandKind
    end: str = ""
    """For END: the name of a SessionEnd."""
    by: PersonRef | None = None
    """For END: who gave it."""
    person: Principal | None = None
    """For RENEW: the person, by the newer token."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of `command`."""

    is_found: bool
    """False: no such session; nothing has happened."""
    ended: ConsoleSession | None = None
    """The session had no owner and ended in this step; the caller writes the audit record."""


@dataclass(frozen=True, slots=True)
class RenewedLeases:
    lost: frozenset[str]
    """Sessions that another process owns, or that have ended: this process stops them silently."""
    missing: frozenset[str]
    """Sessions that the store does not know, because it lost its data: `register` them."""
    commands: tuple[SessionCommand, ...]
    """As of `take_commands`."""


class Registered(Enum):
    """The result of `register`."""

    REGISTERED = "registered"
    OLDER_SESSION = "older_session"
    """The server has its number of older sessions with keyboard: end this one with `limit`."""
    ENDED = "ended"
    """The session has ended, or another process owns it: stop it silently."""


@dataclass(frozen=True, slots=True)
class ListedSession:
    session: ConsoleSession
    owner: str
    """"": it has no connection and waits for its page."""


@dataclass(frozen=True, slots=True)
class SessionListing:
    sessions: tuple[ListedSession, ...]
    """Oldest first."""
    is_complete: bool
    """False: without Redis, sessions of other processes are missing."""


@dataclass(frozen=True, slots=True)
class DeadSession:
    session: ConsoleSession
    end: str
    """`owner_lost`: its lease ended without a release. `abandoned`: its page did not come back.
    `limit`: an older session on the server displaced it while it waited for its page."""


class ConsoleStore(Protocol):
    """Tickets and sessions. Every method raises StoreUnavailable; the effect is then unknown.

    A ticket's and a resume key's text never reaches the store, only their SHA-256.
    """

    async def add_ticket(
        self, ticket_hash: bytes, ticket: Ticket, *, per_person_max: int, lifetime_s: float
    ) -> None:
        """Store a ticket for `lifetime_s`; above the number, the oldest unspent one lapses."""

    async def find_ticket(self, ticket_hash: bytes) -> FoundTicket | None:
        """Return an unspent ticket without spending it."""

    async def claim_rejection(self, name: str) -> bool:
        """Return whether the caller is the first, over all replicas, to record a rejection."""

    async def replace_ticket(
        self,
        ticket_hash: bytes,
        new_hash: bytes,
        ticket: Ticket,
        *,
        per_person_max: int,
        lifetime_s: float,
    ) -> bool:
        """Spend a ticket and store another: both or neither; False: it was spent or has expired."""

    async def redeem(
        self,
        ticket_hash: bytes,
        session: ConsoleSession,
        resume_hash: bytes,
        limits: SessionLimits,
        *,
        take_over: TakeOver,
        recorded: frozenset[str] = frozenset(),
    ) -> Redeemed | WouldEnd | TicketGone | ConsoleInUse | LimitReached:
        """Spend the ticket and create the session: both or neither.

        With `session.mode` CONTROL the limits `server`, `person`, `account` and `total` apply; with
        VIEW `viewers` replaces `server`. `take_over` ends the oldest sessions with keyboard of the
        server, as many as the limit `server` needs, by a command `taken_over` of `session.person`;
        they do not count in the limits. It ends only sessions in `recorded`, the IDs of
        those with a take-over in the audit log; if it needs others, the result is WouldEnd.
        """

    async def attach(  # noqa: PLR0913 - the session, its keys, and the owner
        self,
        session_id: str,
        cookie_hash: bytes,
        resume_hash: bytes,
        next_resume_hash: bytes,
        *,
        owner: str,
        lease_s: float,
        is_settled: bool = True,
    ) -> Attached | StaleKey | SessionGone | SessionUnknown:
        """Make `owner` the owner, and offer the page its next resume key.

        `resume_hash` stays good until `confirm_key`, or until the next key is used: a page whose
        connection is lost before the next key arrives has only this one.
        An owner of before, if it is another process, finds a command to end with `replaced`.
        A session without owner for longer than RESUME_WITHIN_S is gone. StaleKey for a genuine
        cookie is final, so it needs a last owner that is the caller, or has called within
        IN_TOUCH_S. `is_settled`: False while `owner` has to register other sessions again.
        """

    async def confirm_key(self, session_id: str, resume_hash: bytes, *, owner: str) -> None:
        """Note that the page has the key that `attach` offered: the key before is good no longer.

        Without effect unless `owner` owns the session and this key was the last one offered.
        """

    async def renew(
        self, owner: str, session_ids: frozenset[str], *, lease_s: float
    ) -> RenewedLeases:
        """Renew the leases of all sessions of a process, also of those whose lease has ended."""

    async def register(
        self,
        session: ConsoleSession,
        resume_hash: bytes,
        *,
        next_resume_hash: bytes = b"",
        owner: str,
        lease_s: float,
        server_max: int,
    ) -> Registered:
        """Store a running session again after the store lost it, or lost touch with its owner.

        No limit applies, except that of the sessions with keyboard on one server the `server_max`
        oldest stay (`started_at`, then the ID). One too many finds a command to end with `limit`;
        without owner it ends and counts as dead (`claim_dead`, `abandoned`). Session and keys
        replace what the store has, if `owner` or no other process owns it there.
        `next_resume_hash` is of a key that was offered and is not confirmed; b"" for none.
        """

    async def take_commands(self, owner: str) -> tuple[SessionCommand, ...]:
        """Return the commands to a process, and forget them."""

    async def command(self, command: SessionCommand) -> CommandResult:
        """Pass a command to the session's owner. END ends a session without owner in this step."""

    async def detach(self, session_id: str, *, owner: str) -> None:
        """Give the session up because its connection is lost: resumable for RESUME_WITHIN_S.

        Without effect unless `owner` owns it.
        """

    async def remove(self, session_id: str, *, owner: str) -> bool:
        """End a session of this owner; True: the caller writes the audit record of the end.

        Exactly one call of `remove`, `command`, `redeem` or `claim_dead` ends a session.
        """

    async def update(self, session: ConsoleSession, *, owner: str) -> bool:
        """Replace mode and person (a newer token) of a session; False: `owner` does not own it."""

    async def claim_dead(self) -> tuple[DeadSession, ...]:
        """End and return the sessions that can no longer be resumed, each to one caller only."""

    async def sessions(
        self, *, person: str | None = None, target: ConsoleTarget | None = None
    ) -> tuple[ListedSession, ...]:
        """Return the sessions, oldest first: all, or those of a `Principal.key`, or on a server."""

    async def find(self, session_id: str) -> ListedSession | None:
        """Return a session by its ID."""
