"""docs/reference/metrics.md lists the metrics that the code exports."""

import re
from typing import get_args

from gateway.domain.errors import UpstreamBroken, UpstreamSlow, UpstreamUnreachable
from gateway.domain.upstream.verdicts import Verdict
from gateway.drivers.telemetry.metric_family import MetricKind
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.telemetry.metrics_contract import (
    BY_NAME,
    METRIC_FAMILIES,
    UPSTREAM_OUTCOMES,
)

_LIBRARY_PREFIXES = ("python_", "process_")


def test_exported_metrics_match_the_contract() -> None:
    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if not family.name.startswith(_LIBRARY_PREFIXES)
    }
    assert exported == BY_NAME.keys() | {"gateway_build"}


def test_upstream_outcomes_match_verdicts_and_errors() -> None:
    kinds = (*get_args(Verdict), UpstreamUnreachable, UpstreamSlow, UpstreamBroken)
    names = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower() for kind in kinds}
    assert set(UPSTREAM_OUTCOMES) == names | {"cancelled"}


def test_metric_names_use_base_units() -> None:
    for family in METRIC_FAMILIES:
        assert family.name.endswith("_total") == (family.kind is MetricKind.COUNTER)
        assert not family.name.endswith(("_ms", "_milliseconds", "_minutes", "_hours"))
        assert bool(family.buckets) == (family.kind is MetricKind.HISTOGRAM)
        assert family.buckets == tuple(sorted(family.buckets))
