"""One metric: its kind, name, text, labels and buckets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

ACCOUNT: Final = {"account": "configured accounts"}
"""The label of metrics for each account."""


class MetricKind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricFamily:
    kind: MetricKind
    name: str
    text: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """The possible values, by label name."""
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        if self.name.startswith("gateway_budget_rate"):
            return "calls per second"
        suffix = self.name.removesuffix("_total").rpartition("_")[2]
        if self.name.endswith("_timestamp_seconds"):
            return "seconds since the epoch"
        return suffix if suffix in ("seconds", "bytes", "ratio") else ""


def counter(name: str, text: str, **labels: str) -> MetricFamily:
    return MetricFamily(MetricKind.COUNTER, name, text, labels)


def gauge(name: str, text: str, **labels: str) -> MetricFamily:
    return MetricFamily(MetricKind.GAUGE, name, text, labels)


def histogram(name: str, text: str, buckets: tuple[float, ...], **labels: str) -> MetricFamily:
    return MetricFamily(MetricKind.HISTOGRAM, name, text, labels, buckets)
