"""When a session ends by itself: idle, time limit, the end of its token. Pure."""

import math
from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd

WARNED_BEFORE_S: Final = 60.0
RIGHT_WARNED_BEFORE_S: Final = 300.0
"""Time for another request, and for its approval."""
CONTROL: Final = "control"
"""The warning that a session becomes view-only."""


@dataclass(frozen=True, slots=True)
class TimesNow:
    end: SessionEnd | None
    """The session ends now."""
    warnings: dict[str, float]
    """Seconds that are left, by the name of the end, or CONTROL."""


class SessionTimes:
    """Durations count on the monotonic clock, so that a stepped wall clock changes none.

    The end of a token and those of rights are instants of the wall clock.
    """

    def __init__(self, *, limit_at: float, idle_s: float | None, input_at: float) -> None:
        """Take monotonic seconds; `idle_s`: None ends no session."""
        self.limit_at = limit_at
        self.idle_s = idle_s
        self.input_at = input_at
        """The last key, pointer or clipboard message of the person."""
        self.token_ends_at = -math.inf
        """Wall clock: when a session of the token ends; it may be later, never earlier."""
        self.right_ends_at = math.inf
        """Wall clock: when the rules end the session. They decide; this is for warnings."""
        self.control_ends_at = math.inf
        """Wall clock: when the rules make the session view-only; infinity if they do not."""

    def start_idle(self, idle_s: float | None, monotonic: float) -> None:
        """Count the idle time of a console that is live now; it has time for the warning."""
        self.idle_s = idle_s
        if idle_s is not None:
            warned_at = monotonic - idle_s + min(WARNED_BEFORE_S, idle_s)
            self.input_at = max(self.input_at, warned_at)

    def is_quiet(self, now: float, monotonic: float) -> bool:
        """Return whether no warning is due yet: cheap, for each tick of each session."""
        before = monotonic + WARNED_BEFORE_S
        if now + WARNED_BEFORE_S >= self.token_ends_at or before >= self.limit_at:
            return False
        if now + RIGHT_WARNED_BEFORE_S >= min(self.right_ends_at, self.control_ends_at):
            return False
        return self.idle_s is None or before < self.input_at + self.idle_s

    def check(self, now: float, monotonic: float) -> TimesNow:
        left = {ends.TIME_LIMIT: self.limit_at - monotonic}
        if self.idle_s is not None:
            left[ends.IDLE] = self.input_at + self.idle_s - monotonic
        left[ends.TOKEN] = self.token_ends_at - now
        over = [end for end, left_s in left.items() if left_s <= 0]
        warnings = {end.name: left_s for end, left_s in left.items() if left_s <= WARNED_BEFORE_S}
        rights = {ends.RIGHT_ENDED.name: self.right_ends_at, CONTROL: self.control_ends_at}
        for name, ends_at in rights.items():
            if ends_at - now <= RIGHT_WARNED_BEFORE_S:
                warnings[name] = ends_at - now
        return TimesNow(over[0] if over else None, warnings)
