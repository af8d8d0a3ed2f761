"""When the session of one connection ends by itself, and what its page learns of it before."""

import math
from collections.abc import Callable
from typing import Final

from gateway.domain.consoles import ends, page_messages
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import SessionMode
from gateway.domain.consoles.page_messages import ExpectedEnd, MoreTime
from gateway.domain.consoles.rules import SessionRules
from gateway.domain.consoles.session_times import CONTROL, SessionTimes
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_rights import RightUntil
from gateway.flow.consoles.console_store import Attached

CLOCK_NOISE_S: Final = 1.0
"""A time that differs by less is not worth a write or a message."""
_BY_RIGHT: Final = frozenset({ends.RIGHT_ENDED.name, CONTROL})


class SessionTimer:
    def __init__(
        self, attached: Attached, rules: SessionRules, clock: Clock, send: Callable[[str], None]
    ) -> None:
        """`send` sends a message to the page soon."""
        self._rules = rules
        self._clock = clock
        self._send = send
        self._more: MoreTime | None = None
        self._warned: dict[str, float] = {}
        """When it ends, by the reason of each warning that the page shows."""
        self._reported: ExpectedEnd | None = None
        session, monotonic, now = attached.session, clock.monotonic(), clock.now()
        elapsed_s = max(0.0, now - session.started_at)
        input_at = max(session.input_at, session.started_at)
        unused_s = max(0.0, now - input_at) if attached.attempt else 0.0
        self._times = SessionTimes(
            limit_at=monotonic + rules.time_limit(session.mode) - elapsed_s,
            idle_s=None,  # until the console is live
            input_at=monotonic - unused_s,
        )

    def expected_end(self) -> ExpectedEnd:
        """Return what `attached` reports to the page; from now on, the page learns of changes."""
        self._reported = self._expected_end()
        return self._reported

    def set_right(self, until: RightUntil) -> None:
        """Note until when the rules in force let the session go on."""
        self._times.right_ends_at = until.console
        self._times.control_ends_at = until.control
        self._more = until.more
        self._report_change()

    def set_mode(self, mode: SessionMode) -> None:
        self._times.idle_s = self._rules.idle(mode)
        limit_at = self._clock.monotonic() + self._rules.time_limit(mode)
        self._times.limit_at = min(self._times.limit_at, limit_at)

    def start_idle(self, mode: SessionMode, *, waited_s: float) -> None:
        """Count the idle time of a console that is live now; `waited_s` for it do not count."""
        self._times.input_at += waited_s
        self._times.start_idle(self._rules.idle(mode), self._clock.monotonic())

    def note_input(self) -> None:
        """Note that the person has used the console."""
        self._times.input_at = self._clock.monotonic()

    @property
    def input_at(self) -> float | None:
        """Wall clock: the last input; None while idle time does not count."""
        if self._times.idle_s is None:
            return None
        return self._clock.now() - (self._clock.monotonic() - self._times.input_at)

    def is_quiet(self, now: float, monotonic: float) -> bool:
        """Return whether `tick` has nothing to do: cheap, for each tick of each session."""
        return not self._warned and self._times.is_quiet(now, monotonic)

    def tick(self, now: float, monotonic: float, token_ends_at: float) -> SessionEnd | None:
        """Return the end of a session whose time is over; warn before."""
        self._times.token_ends_at = token_ends_at
        times = self._times.check(now, monotonic)
        if times.end is not None:
            return times.end
        warnings = {reason: now + left_s for reason, left_s in times.warnings.items()}
        for reason, ends_at in warnings.items():
            if abs(ends_at - self._warned.get(reason, math.inf)) > CLOCK_NOISE_S:
                self._warn(reason, ends_at)
        for reason in self._warned.keys() - warnings.keys():
            self._send(page_messages.warning_over(reason))
            del self._warned[reason]
        return None

    def _warn(self, reason: str, ends_at: float) -> None:
        self._warned[reason] = ends_at
        more = self._more if reason in _BY_RIGHT else None
        self._send(page_messages.warning(reason, ends_at, more))

    def _expected_end(self) -> ExpectedEnd:
        limit_ends_at = self._clock.now() + self._times.limit_at - self._clock.monotonic()
        if self._times.right_ends_at < limit_ends_at:
            return ExpectedEnd(self._times.right_ends_at, ends.RIGHT_ENDED)
        return ExpectedEnd(limit_ends_at, ends.TIME_LIMIT)

    def _report_change(self) -> None:
        reported, expected = self._reported, self._expected_end()
        if reported is None:
            return
        if reported.end is not expected.end or abs(reported.at - expected.at) > CLOCK_NOISE_S:
            self._reported = expected
            self._send(page_messages.expected_end(expected))
