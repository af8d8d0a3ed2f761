"""Live consoles: targets, tickets and sessions. Pure."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.domain.model import Principal, ProjectId, ServerId

TICKET_LIFETIME_S: Final = 60.0
"""Invariant 10: a ticket opens at most one session, within this time."""
PARKED_LIFETIME_S: Final = 600.0
"""How long a spent ticket waits in its browser for the login of its person."""
TICKETS_PER_PERSON_MAX: Final = 10
"""Unspent tickets of one person; the oldest lapses when another is issued."""
RESUME_WITHIN_S: Final = 30.0
"""How long a session without a connection waits for its page."""


class SessionMode(Enum):
    CONTROL = "control"
    """Screen, keyboard and mouse: permission `console:open`."""
    VIEW = "view"
    """Screen only: permission `console:view`."""


class Clipboard(Enum):
    """The directions in which clipboard text may pass."""

    BOTH = "both"
    TO_SERVER = "to_server"
    FROM_SERVER = "from_server"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PersonRef:
    """A person, as the page and the audit log name them."""

    subject: str
    issuer: str
    """The issuer's name in the config; "" for an operator of the admin API without a token."""

    @classmethod
    def of(cls, person: Principal) -> "PersonRef":
        return cls(person.subject, person.issuer)


@dataclass(frozen=True, slots=True)
class ConsoleTarget:
    """The server whose console is opened."""

    account: str
    project: ProjectId
    server: ServerId


@dataclass(frozen=True, slots=True)
class Ticket:
    """The person and the server of a one-time ticket, without the ticket's secret."""

    person: Principal
    target: ConsoleTarget
    mode: SessionMode
    """The greatest mode that the policy allowed when the ticket was issued."""
    issued_at: float
    """Seconds since the epoch."""
    request_id: str
    client_address: str
    """The address that requested the ticket."""
    parked_fingerprint: str = ""
    """Of the ticket's text, if the ticket is parked: it waits for the login of its person."""


@dataclass(frozen=True, slots=True)
class BrowserLogin:
    """The person who is logged in in the browser that presents a ticket."""

    person: Principal
    lineage: str
    """ID that sessions of the same person in this browser share."""
    is_fresh: bool
    """The login is recent enough to open a console."""


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """A session: one person, one server, one page. Its process may change, its ID does not."""

    id: str
    """32 hex digits; not a secret."""
    person: Principal
    target: ConsoleTarget
    mode: SessionMode
    started_at: float
    """Seconds since the epoch: when the ticket was redeemed."""
    cookie_hash: bytes = field(repr=False)
    """SHA-256 of the cookie's value."""
    client_address: str
    """The address that redeemed the ticket."""
    ticket_address: str
    """The address that requested the ticket."""
    request_id: str
    """Of the redemption."""
    input_at: float = 0.0
    """Seconds since the epoch: the last input that is stored, so that a resume goes on from it."""
    login: str = ""
    """`BrowserLogin.lineage` of the browser that redeemed the ticket; "" without a login."""


@dataclass(frozen=True, slots=True)
class InUse:
    """Another session has the console that a ticket is for."""

    since: float
    """Seconds since the epoch."""
    by: PersonRef | None
    """None: the reader may not know."""
    may_take_over: bool
    may_view: bool
    is_own: bool
    """It is a session of the reader, who may take it over without `console:takeover`."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions may exist at once."""

    person: int
    """Of one person."""
    server: int
    """With keyboard, on one server."""
    viewers: int
    """View-only, on one server."""
    account: int
    """On the servers of one account."""
    total: int
    """Over all accounts."""

    def share(self, processes: int) -> "SessionLimits":
        """Return one process's share, while processes cannot count together; at least 1 each."""

        def part(limit: int) -> int:
            return max(1, limit // max(1, processes))

        return SessionLimits(
            part(self.person),
            part(self.server),
            part(self.viewers),
            part(self.account),
            part(self.total),
        )
