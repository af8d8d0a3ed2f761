"""Port of the store of logins, which all replicas share."""

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.domain.login.model import BrowserSession, LoginAttempt

SESSIONS_PER_PERSON_MAX: Final = 50
"""Above it, the oldest session of the person ends."""
PAGE_MAX: Final = 200
"""Sessions in one page."""


@dataclass(frozen=True, slots=True)
class SessionIndex:
    """The sessions of one person, or of one session at the provider: one of the names is set."""

    issuer: str
    """The issuer's name in the config."""
    provider_session: str = ""
    provider_subject: str = ""
    """Used where `provider_session` is empty."""
    subject: str = ""
    """Of the person, as the policy names it; used where both others are empty."""
    lineage: str = ""
    """`BrowserSession.lineage`; used where the others are empty."""


@dataclass(frozen=True, slots=True)
class ListedLogin:
    session: BrowserSession
    used_at: float
    """Time of the last activity, in seconds since the epoch."""
    idle_ends_at: float
    """When the session ends without another activity."""


@dataclass(frozen=True, slots=True)
class LoginPage:
    logins: tuple[ListedLogin, ...]
    """The newest first."""
    next: str
    """Where the next page begins; "" for the last one."""


@dataclass(frozen=True, slots=True)
class LapsedLogin:
    """A session that has ended by a time limit."""

    session: BrowserSession
    ended_at: float
    """In seconds since the epoch."""
    limit: str
    """`idle` or `absolute`."""


@dataclass(frozen=True, slots=True)
class LapsedLogins:
    logins: tuple[LapsedLogin, ...]
    is_last: bool
    """No other session was due."""


class LoginStore(Protocol):
    """Attempts and sessions of browsers. Every method raises StoreUnavailable.

    The texts of states and cookies never reach the store, only hashes.
    """

    async def add_attempt(self, key: bytes, attempt: LoginAttempt, *, lifetime_s: float) -> None:
        """Store an attempt under the hash of state and cookie."""

    async def take_attempt(self, key: bytes) -> LoginAttempt | None:
        """Return an attempt and forget it."""

    async def add_session(
        self, session: BrowserSession, *, lifetime_s: float, idle_s: float
    ) -> tuple[BrowserSession, ...]:
        """Store a session; return those that ended because the person had too many."""

    async def find_session(self, session_id: str, *, is_activity: bool) -> BrowserSession | None:
        """Return a session that has not ended. `is_activity`: its idle time begins anew."""

    async def replace_session(self, session: BrowserSession) -> bool:
        """Replace the content of a session; False: it has ended."""

    async def end_session(self, session_id: str) -> BrowserSession | None:
        """End a session; return it to exactly one caller."""

    async def end_lapsed(self, *, limit: int) -> LapsedLogins:
        """Return sessions that have ended by a time limit, each to exactly one caller.

        `limit` bounds the work. A session that no caller takes within a day is lost.
        """

    async def sessions(self, index: SessionIndex) -> tuple[BrowserSession, ...]:
        """Return the sessions of an index, oldest first."""

    async def page(self, index: SessionIndex | None, *, before: str, limit: int) -> LoginPage:
        """Return the newest sessions of an index, or of all.

        `before` is `next` of the page before, or "". A page may have fewer than `limit`.
        """

    async def lease_refresh(self, session_id: str, *, lease_s: float) -> bool:
        """Return whether this caller may refresh the session's tokens now."""
