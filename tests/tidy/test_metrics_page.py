"""deploy/metrics.md is what the code exports."""

import re
from pathlib import Path
from typing import get_args

from gateway.domain.errors import UpstreamBroken, UpstreamSlow, UpstreamUnreachable
from gateway.domain.upstream.verdicts import Verdict
from gateway.drivers.telemetry.metrics import Metrics
from gateway.drivers.telemetry.metrics_contract import (
    BY_NAME,
    METRIC_FAMILIES,
    UPSTREAM_OUTCOMES,
    MetricKind,
    render_page,
)

_OF_THE_LIBRARY = ("python_", "process_")
_PAGE = Path(__file__).parents[2] / "deploy" / "metrics.md"


def test_the_page_is_what_the_contract_says() -> None:
    assert _PAGE.read_text() == render_page(), "run `make docs`"


def test_the_code_exports_what_the_contract_names_and_nothing_else() -> None:
    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        if not family.name.startswith(_OF_THE_LIBRARY)
    }
    assert exported == BY_NAME.keys() | {"gateway_build"}


def test_every_outcome_of_a_call_is_in_the_contract() -> None:
    kinds = (*get_args(Verdict), UpstreamUnreachable, UpstreamSlow, UpstreamBroken)
    names = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower() for kind in kinds}
    assert set(UPSTREAM_OUTCOMES) == names | {"cancelled"}


def test_names_are_in_base_units() -> None:
    for family in METRIC_FAMILIES:
        assert family.name.endswith("_total") == (family.kind is MetricKind.COUNTER)
        assert not family.name.endswith(("_ms", "_milliseconds", "_minutes", "_hours"))
        assert bool(family.buckets) == (family.kind is MetricKind.HISTOGRAM)
        assert family.buckets == tuple(sorted(family.buckets))
