"""When a session ends by itself: idle, time limit, the end of its token. Pure."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd

WARNED_BEFORE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class TimesNow:
    end: SessionEnd | None
    """The session ends now."""
    warnings: dict[str, float]
    """Seconds that are left, by the name of the end, from WARNED_BEFORE_S on."""
    quiet_s: float
    """Without input and token, nothing changes for this time; negative while one is near."""


class SessionTimes:
    """Durations count on the monotonic clock, so that a stepped wall clock changes none.

    Only the end of a token is an instant of the wall clock.
    """

    def __init__(self, *, limit_at: float, idle_s: float | None, input_at: float) -> None:
        """Take monotonic seconds; `idle_s`: None ends no session."""
        self.limit_at = limit_at
        self.idle_s = idle_s
        self.input_at = input_at
        """The last key, pointer or clipboard message of the person."""

    def check(self, monotonic: float, *, token_left_s: float) -> TimesNow:
        left = {ends.TIME_LIMIT: self.limit_at - monotonic}
        if self.idle_s is not None:
            left[ends.IDLE] = self.input_at + self.idle_s - monotonic
        quiet_s = min(left.values()) - WARNED_BEFORE_S
        left[ends.TOKEN] = token_left_s
        over = [end for end, left_s in left.items() if left_s <= 0]
        return TimesNow(
            over[0] if over else None,
            {end.name: left_s for end, left_s in left.items() if left_s <= WARNED_BEFORE_S},
            quiet_s,
        )
