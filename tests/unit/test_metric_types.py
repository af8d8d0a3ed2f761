"""Observations of a histogram that are added up together."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from gateway.drivers.telemetry.metric_types import LabeledHistogram

_BUCKETS = (0.001, 0.01, 0.1, 1.0)


@given(st.lists(st.one_of(st.floats(0, 2), st.sampled_from(_BUCKETS)), max_size=50))
def test_observations_at_once_equal_single_ones(seconds: list[float]) -> None:
    pages = []
    for at_once in (True, False):
        registry = CollectorRegistry()
        histogram = LabeledHistogram("s", "t", ("a",), registry=registry, buckets=_BUCKETS)
        histogram.begin(("x",))
        histogram.observe(("x",), 0.1)
        if at_once:
            histogram.observe_all(("x",), seconds)
        else:
            for one in seconds:
                histogram.observe(("x",), one)
        pages.append(generate_latest(registry))
    assert pages[0] == pages[1]
