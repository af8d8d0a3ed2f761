"""LabeledHistogram: exemplars with the last trace of each bucket."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.drivers.telemetry.metric_types import LabeledHistogram

A, B = "a" * 32, "b" * 32


def histogram() -> tuple[LabeledHistogram, CollectorRegistry]:
    registry = CollectorRegistry()
    made = LabeledHistogram(
        "spent_seconds", "Time", ("kind",), registry=registry, buckets=(0.1, 1.0)
    )
    return made, registry


def exemplars(registry: CollectorRegistry) -> dict[str, tuple[str, float]]:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    (family,) = text_string_to_metric_families(encode(registry).decode())
    return {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_last_trace_of_each_bucket_is_exported() -> None:
    some, registry = histogram()
    some.observe(("x",), 0.05, A)
    some.observe(("x",), 0.06, B)
    some.observe(("x",), 7.0, A)
    assert exemplars(registry) == {"0.1": (B, 0.06), "+Inf": (A, 7.0)}


def test_observation_without_trace_keeps_last_exemplar() -> None:
    some, registry = histogram()
    some.observe(("x",), 0.05, A)
    some.observe(("x",), 0.07)
    assert exemplars(registry) == {"0.1": (A, 0.05)}
    assert registry.get_sample_value("spent_seconds_bucket", {"kind": "x", "le": "0.1"}) == 2


def test_prometheus_text_format_has_no_exemplars() -> None:
    some, registry = histogram()
    some.observe(("x",), 0.05, A)
    encode, _ = choose_encoder("text/plain")
    assert A.encode() not in encode(registry)
