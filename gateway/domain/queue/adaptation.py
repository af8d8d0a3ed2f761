"""Adaptive rate: learn the cloud's limit from its 429s. Pure; seconds, and calls per second.

The cloud is seen as a token bucket: its limit, and a burst of unknown size. After a 429 and the
pause that follows, the rate stays flat just below the estimate of the limit, for a time that
doubles whenever a further 429 confirms the estimate. Then it grows with the cube of time, to find
out whether the limit has risen.

A 429 soon after the last one measures the limit. The bucket was empty at both, so the cloud
accepted what it refilled in between: during the active time all of it, during the pause only what
the bucket can hold. Counting the pause fully gives a lower bound, the present rate is an upper
bound. A second interval, longer than the first and after a pause of the same length, gives the
limit itself: the calls of the pause cancel out.

`drivers/valkey/lua/fair_queue.lua` implements the same in Redis; a test holds the two equal.
"""

from dataclasses import dataclass, replace
from math import sqrt

_MARGIN = 0.96
"""The flat rate as a fraction of the estimated limit."""
_NAMED_MARGIN = 0.97
"""The same for a limit that the text of the 429 names."""
_CUT = 0.9
"""Factor of a cut without a measurement. botocore's 0.7 wastes a third beside another client."""
_FLAT_GUESS_S, _FLAT_S, _FLAT_MAX_S = 3.0, 10.0, 40.0
"""How long the rate stays flat: after a guess, after a measurement, and when often confirmed."""
_GROWTH_GUESS_S, _GROWTH_S = 4.0, 9.0
"""Time after the flat part in which the rate grows by the estimated limit."""
_GROWN = 0.06
"""A rate that grew by less than this fraction of the estimate counts as flat."""
_RISEN = 1.2
"""A rate at the 429 above that of the last growth by this factor means that the limit rose."""
_STEP = 1.15
"""Maximum factor by which growth that ended as before raises the estimate."""
_SAME = 0.16
"""A new estimate within this fraction of the last one confirms it; includes one step."""
_CERTAIN_RATIO, _CERTAIN_S = 1.8, 1.5
"""A measurement is certain if its bounds are this close, or its longer interval this long."""
_CERTAIN_PAUSE_S = 2.0
"""Bounds are never certain after a longer pause: most buckets cannot hold what refills in it."""
_LONGER = 1.3
"""The second interval must be longer than the first by this factor, for a difference to count."""
_SATURATED = 0.8
"""With fewer calls than this fraction of the flat rate, the calls measure demand, not the limit."""
_STALE_S = 120.0
"""After this time without a 429, the next one begins anew."""
_FLOOR = 0.01
"""Lower bound, as a fraction of the ceiling: a rate of 0 could never recover."""
_PAUSE_S, _PAUSE_KNOWN_S = 3.0, 1.0
"""Pauses for a 429 that names no time. The vendor recommends 2 to 5 s (upstream-api.md#2.5)."""
_ACCEPTED_MIN = 2
"""The shorter pause requires this many calls since the last 429."""


@dataclass(frozen=True, slots=True)
class LearnedRate:
    """The learned rate of one budget. Times are on the clock that all replicas share."""

    goal: float
    """Estimate of the cloud's limit."""
    flat_s: float
    """How long the rate stays just below it, from the end of the pause."""
    cut_at: float
    epoch_until: float
    """End of the pause. Until then further 429s belong to the same event and do not cut again."""
    calls: int = 0
    """Calls granted since the last cut."""
    last_calls: int = 0
    """Accepted calls in the last interval that measured the limit."""
    last_s: float = 0.0
    """Its length without the pause; 0: there is none."""
    probe: float = 0.0
    """The rate at the last 429 that ended a growth; 0: unknown."""

    def scaled(self, factor: float) -> "LearnedRate":
        """Return the same for a share of the budget, or for several shares together."""
        return replace(
            self,
            goal=self.goal * factor,
            calls=round(self.calls * factor),
            last_calls=round(self.last_calls * factor),
            probe=self.probe * factor,
        )


def rate(learned: LearnedRate | None, ceiling: float, now: float) -> float:
    """Return the rate at `now`. Without a 429 so far it is the ceiling."""
    if learned is None:
        return ceiling
    past_s = max(0.0, now - learned.epoch_until - learned.flat_s)
    growth = past_s / (_GROWTH_GUESS_S if learned.flat_s < _FLAT_S else _GROWTH_S)
    grown = learned.goal * (_MARGIN + growth * growth * growth)
    return min(ceiling, max(_FLOOR * ceiling, grown))


def bare_pause_s(learned: LearnedRate | None, now: float) -> float:
    """Return the pause after a 429 that names no time.

    It is short where the limit is known and calls were accepted since the last 429. A cloud that
    counts in fixed windows accepts none before the window ends.
    """
    if learned is None or now - learned.epoch_until > _STALE_S:
        return _PAUSE_S
    is_same_event = now < learned.epoch_until
    return _PAUSE_KNOWN_S if is_same_event or learned.calls >= _ACCEPTED_MIN else _PAUSE_S


def after_429(
    learned: LearnedRate | None,
    ceiling: float,
    now: float,
    *,
    pause_s: float,
    named_rate: float | None,
) -> LearnedRate:
    """Return the learned rate after a 429; `named_rate` is the limit named in its text."""
    if learned is not None and now < learned.epoch_until:
        # This call was counted in the interval that the first 429 of the event ended.
        counted = learned.last_s > 0
        return replace(learned, last_calls=learned.last_calls - 1) if counted else learned
    current = rate(learned, ceiling, now)
    cut = LearnedRate(current * _CUT / _MARGIN, _FLAT_GUESS_S, now, now + pause_s)
    if named_rate is not None and named_rate * _NAMED_MARGIN < current:
        found = replace(cut, goal=named_rate * _NAMED_MARGIN / _MARGIN, flat_s=_FLAT_S)
    elif learned is None or now - learned.epoch_until > _STALE_S:
        found = cut
    else:
        found = _estimated(learned, cut, current)
    return replace(found, goal=max(_FLOOR * ceiling, found.goal))


def _estimated(learned: LearnedRate, cut: LearnedRate, current: float) -> LearnedRate:
    """Return `cut` with an estimate of the limit from the rate `current` and the last 429."""
    is_flat = current <= learned.goal * (_MARGIN + _GROWN)
    found = (_measured if is_flat else _probed)(learned, cut, current)
    if found is None:
        return cut
    if abs(found.goal - learned.goal) <= _SAME * learned.goal:
        found = replace(found, flat_s=min(_FLAT_MAX_S, max(_FLAT_S, 2 * learned.flat_s)))
    return found


def _measured(learned: LearnedRate, cut: LearnedRate, current: float) -> LearnedRate | None:
    """Return `cut` with the limit measured since the last 429; None without enough calls."""
    active_s = cut.cut_at - learned.epoch_until
    calls = learned.calls - 1  # the one that got this 429 was not accepted
    if calls < 1 or learned.calls < _SATURATED * _MARGIN * learned.goal * active_s:
        return None
    least = min(current, calls / (cut.cut_at - learned.cut_at))
    if 0 < _LONGER * learned.last_s < active_s:
        difference = (calls - learned.last_calls) / (active_s - learned.last_s)
        goal, certain = min(current, max(least, difference)), active_s > _CERTAIN_S
    else:
        goal = sqrt(least * current)
        is_short = learned.epoch_until - learned.cut_at <= _CERTAIN_PAUSE_S
        certain = is_short and current < _CERTAIN_RATIO * least
    return replace(
        cut,
        goal=goal,
        flat_s=_FLAT_S if certain else _FLAT_GUESS_S,
        last_calls=calls,
        last_s=active_s,
        probe=learned.probe,
    )


def _probed(learned: LearnedRate, cut: LearnedRate, current: float) -> LearnedRate:
    """Return `cut` with an estimate after the rate grew until this 429.

    The rate at the 429 is above the limit by an unknown amount, because the cloud's burst is used
    up first. The mean rate of the growth is close to the limit if the growth began there.
    """
    flat = _MARGIN * learned.goal
    mean = flat + (current - flat) / 4
    is_guess = learned.flat_s < _FLAT_S
    if is_guess or 0 < _RISEN * learned.probe < current:
        return replace(cut, goal=sqrt(mean * current))
    middle = mean if learned.probe > 0 else sqrt(learned.goal * current)
    goal = max(learned.goal, min(middle, _STEP * learned.goal))
    return replace(cut, goal=goal, flat_s=_FLAT_S, probe=max(current, learned.probe))


def after_calls(learned: LearnedRate | None, calls: int) -> LearnedRate | None:
    return learned if learned is None else replace(learned, calls=learned.calls + calls)
