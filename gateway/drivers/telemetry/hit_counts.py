"""Counts of cache hits, which are added to the metrics for many hits at once."""

from collections.abc import Sequence
from operator import sub

from gateway.drivers.telemetry.metric_types import LabeledCounter, LabeledHistogram

_HITS_MAX = 500
"""Added up at the latest when so many hits are counted."""

Series = tuple[LabeledCounter, tuple[str, ...]]
Spans = tuple[LabeledHistogram, tuple[str, ...]]


class SummedHitCounts:
    """Implements HitCounts. Only the event loop may use it."""

    __slots__ = ("_at_begin", "_at_end", "_begun_count", "_duration", "_hits", "_stages")

    def __init__(
        self,
        *,
        at_begin: Sequence[Series],
        at_end: Sequence[Series],
        stages: Sequence[Spans],
        duration: Spans,
    ) -> None:
        """Count each hit in all of these; `stages` are the time spans of consecutive stages."""
        self._at_begin, self._at_end = at_begin, at_end
        self._stages, self._duration = stages, duration
        self._begun_count = 0
        self._hits: list[tuple[float, ...]] = []

    def begin(self) -> None:
        self._begun_count += 1

    def serve(self, *instants: float) -> None:
        self._hits.append(instants)
        if len(self._hits) >= _HITS_MAX:
            self.add_up()

    def add_up(self) -> None:
        """Add to the metrics what was counted since the last call."""
        begun, self._begun_count = self._begun_count, 0
        hits, self._hits = self._hits, []
        for counted, series in ((begun, self._at_begin), (len(hits), self._at_end)):
            for counter, values in series if counted else ():
                counter.inc(values, counted)
        if not hits:
            return
        began, *ends, ended = zip(*hits, strict=True)
        start = began
        for (histogram, values), end in zip(self._stages, ends, strict=True):
            histogram.observe_all(values, list(map(sub, end, start)))
            start = end
        histogram, values = self._duration
        histogram.observe_all(values, list(map(sub, ended, began)))
