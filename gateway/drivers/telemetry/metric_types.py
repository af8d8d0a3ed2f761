"""Counters and histograms in plain dictionaries, exported through prometheus-client.

The library's own types cost four times as much per update, and each request updates several.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from functools import reduce
from itertools import accumulate, pairwise
from operator import add

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString


class LabeledCounter(Collector):
    """A counter; `values` are the label values in the order of `labels`."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], *, registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._counts: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        self.read: Callable[[], float] | None = None
        """If set, the value at each scrape."""
        registry.register(self)

    def inc(self, values: tuple[str, ...], by: float = 1.0) -> None:
        counts = self._counts
        counts[values] = counts.get(values, 0.0) + by

    def begin(self, values: tuple[str, ...]) -> None:
        """Export the series from now on, with the value 0."""
        self._counts.setdefault(values, 0.0)

    def describe(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        if self.read is not None:
            family.add_metric((), self.read())
        else:
            for values, count in tuple(self._counts.items()):
                family.add_metric(values, count)
        yield family


class LabeledHistogram(Collector):
    """A histogram of seconds; `values` are the label values in the order of `labels`."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        *,
        registry: CollectorRegistry,
        buckets: tuple[float, ...],
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._buckets = buckets
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[tuple[str, ...], dict[int, Exemplar]] = {}
        if not labels:
            self.begin(())
        registry.register(self)

    def begin(self, values: tuple[str, ...]) -> list[int]:
        self._sums.setdefault(values, 0.0)
        self._exemplars.setdefault(values, {})
        return self._counts.setdefault(values, [0] * (len(self._buckets) + 1))

    def observe(self, values: tuple[str, ...], seconds: float, trace_id: str = "") -> None:
        """Count one observation; a `trace_id` becomes the exemplar of its bucket."""
        counts = self._counts.get(values)
        if counts is None:
            counts = self.begin(values)
        bucket = bisect_left(self._buckets, seconds)
        counts[bucket] += 1
        self._sums[values] += seconds
        if trace_id:
            self._exemplars[values][bucket] = Exemplar({"trace_id": trace_id}, seconds)

    def observe_all(self, values: tuple[str, ...], seconds: list[float]) -> None:
        """Count many observations, for a tenth of the time that `observe` takes for each."""
        counts = self.begin(values)
        # In their order, so that the sum is exactly that of single observations.
        self._sums[values] = reduce(add, seconds, self._sums[values])
        ordered = sorted(seconds)
        ends = [bisect_right(ordered, bound) for bound in self._buckets] + [len(ordered)]
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            counts[bucket] += end - start

    def observer(self, values: tuple[str, ...]) -> Callable[[float], None]:
        """Return a function that counts one observation of these label values."""
        buckets, sums = self._buckets, self._sums

        def observe(seconds: float) -> None:
            counts = self._counts.get(values)
            if counts is None:
                counts = self.begin(values)
            counts[bisect_left(buckets, seconds)] += 1
            sums[values] += seconds

        return observe

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        for values, counts in tuple(self._counts.items()):
            exemplars = self._exemplars[values].copy()
            cumulated = [
                (bound, count, exemplars[i]) if i in exemplars else (bound, count)
                for i, (bound, count) in enumerate(zip(bounds, accumulate(counts), strict=True))
            ]
            family.add_metric(values, cumulated, sum_value=self._sums[values])
        yield family
