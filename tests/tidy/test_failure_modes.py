"""docs/explanation/failure-modes.md names only metrics, events, alerts and files that exist."""

import re
from pathlib import Path

import yaml

from gateway.domain.audit.events import RECORDS
from gateway.domain.consoles.ends import SESSION_ENDS
from gateway.domain.recordings.model import RecordingPolicy
from gateway.drivers.telemetry.log_events import BY_EVENT
from gateway.drivers.telemetry.metrics_contract import BY_NAME

_ROOT = Path(__file__).parents[2]
_TEXT = (_ROOT / "docs" / "explanation" / "failure-modes.md").read_text()
_QUOTED = set(re.findall(r"`([^`]+)`", _TEXT))
_ALERT_LISTS = re.findall(r"[Aa]lerts?:\s+((?:[A-Z]\w+,?\s*)+)\.", _TEXT)


def test_metrics_on_the_page_exist() -> None:
    metrics = {text.partition("{")[0] for text in _QUOTED if text.startswith("gateway_")}
    assert metrics
    assert metrics <= BY_NAME.keys()


def test_log_events_on_the_page_exist() -> None:
    named = {text for text in _QUOTED if re.fullmatch(r"[a-z]+(_[a-z]+)+", text)}
    events = {text for text in named if not text.startswith("gateway_")}
    known = BY_EVENT.keys() | {"renew_before_s", "audit_records_missing"}
    known |= {end.name for end in SESSION_ENDS} | {one.value for one in RecordingPolicy}
    known |= {record.name for record in RECORDS}
    assert len(events) > 10
    assert events <= known


def test_alerts_on_the_page_exist() -> None:
    groups = yaml.safe_load((_ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    named = {name for names in _ALERT_LISTS for name in re.split(r",\s*", names.strip())}
    assert len(named) > 20
    assert {f"ConsoleGateway{name}" for name in named} <= alerts


def test_test_files_on_the_page_exist() -> None:
    for path in (text for text in _QUOTED if text.startswith("tests/")):
        assert (_ROOT / path).exists(), path
