"""Settings of live consoles. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.domain.consoles.model import Clipboard, SessionLimits, SessionMode
from gateway.domain.recordings.model import RecordingPolicy


@dataclass(frozen=True, slots=True)
class AccountSessions:
    """The settings of one account."""

    clipboard: Clipboard
    sessions_max: int
    recording: RecordingPolicy = RecordingPolicy.NEVER
    record_keys: bool = False


@dataclass(frozen=True, slots=True)
class SessionRules:
    """The settings of all accounts; durations in seconds."""

    accounts: Mapping[str, AccountSessions]
    """The accounts whose consoles run through the gateway, by name."""
    time_limit_s: float
    view_time_limit_s: float
    idle_s: float
    person_max: int
    server_max: int
    viewers_max: int
    total_max: int
    connect_timeout_s: float
    """For each attempt to connect to the cloud's console."""
    link_timeout_s: float
    """Longest wait for a link in the queue."""

    def is_recorded(self, account: str) -> bool:
        """Whether sessions of the account are recorded, or should be."""
        return self.accounts[account].recording is not RecordingPolicy.NEVER

    def records_keys(self, account: str) -> bool:
        """Whether a recording of the account has what the person types."""
        return self.is_recorded(account) and self.accounts[account].record_keys

    def limits(self, account: str) -> SessionLimits:
        return SessionLimits(
            person=self.person_max,
            server=self.server_max,
            viewers=self.viewers_max,
            account=self.accounts[account].sessions_max,
            total=self.total_max,
        )

    def time_limit(self, mode: SessionMode) -> float:
        return self.time_limit_s if mode is SessionMode.CONTROL else self.view_time_limit_s

    def idle(self, mode: SessionMode) -> float | None:
        """Return the idle time; None in VIEW, in which no input arrives."""
        return self.idle_s if mode is SessionMode.CONTROL else None
