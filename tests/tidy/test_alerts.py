"""Alerts, recording rules, their tests, the runbook and the metrics page are consistent."""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import SHOW_PERMISSIONS
from gateway.domain.consoles.ends import SESSION_ENDS
from gateway.domain.errors import Rejection
from gateway.edge.error_table import ERROR_SPECS
from tests.support.prometheus import JOB, NOT_HERE, PROMTOOL
from tests.support.promql import Selector, labels_grouped_by, selectors_in
from tests.support.watched import dashboard_expressions

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "deploy" / "runbook.md"
METRICS = ROOT / "docs" / "reference" / "metrics.md"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=NOT_HERE)

SCRAPE_LABELS = {"job", "instance", "le"}
FOREIGN_METRICS = {
    "ALERTS",
    "up",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
"""Metrics of Prometheus and its client, which the page does not list."""


@cache
def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def cases() -> list[dict[str, Any]]:
    files = sorted((PROMETHEUS / "tests").glob("*.yml"))
    return [one for file in files for one in yaml.safe_load(file.read_text())["tests"]]


@cache
def sections() -> dict[str, str]:
    """Return the runbook's sections on alerts."""
    parts = re.split(r"^## (ConsoleGateway\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def queries_of_the_runbook() -> list[tuple[str, str]]:
    """Return each query with its section; a line is a query."""
    return [
        (name, query)
        for name, text in sections().items()
        for block in re.findall(r"```promql\n(.*?)\n```", text, re.DOTALL)
        for query in block.splitlines()
    ]


def expressions() -> list[tuple[str, str]]:
    """Return each expression with the name of its rule, section or panel."""
    return [
        *((rule["record"], rule["expr"]) for rule in rules("rules.yml")),
        *((rule["alert"], rule["expr"]) for rule in rules("alerts.yml")),
        *queries_of_the_runbook(),
        *(
            (one.where, one.expression)
            for one in dashboard_expressions(DASHBOARDS, window="5m", range_="3h")
        ),
    ]


@cache
def page() -> dict[str, dict[str, str]]:
    """Return each metric of the page with its labels and the description of their values."""
    found: dict[str, dict[str, str]] = {}
    for row in METRICS.read_text().splitlines():
        if row.startswith("| `"):
            _, name, _, _, labels, _, _ = (cell.strip() for cell in row.split("|"))
            parts = re.split(r"(?:^|; )`(\w+)`(?:: |$)", labels)
            found[name.strip("`")] = dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


def buckets() -> dict[str, list[str]]:
    """Return the bounds of each histogram of the page."""
    found = re.findall(r"^- `(\w+)`: (.*)$", METRICS.read_text(), re.MULTILINE)
    return {name: bounds.split(", ") for name, bounds in found}


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    environ = {**os.environ, "GOGC": "400"}  # a quarter of its time is garbage collection
    done = subprocess.run(
        [PROMTOOL, *arguments], env=environ, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_rules_and_config() -> None:
    promtool("check", "rules", PROMETHEUS / "rules.yml", PROMETHEUS / "alerts.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
def test_rule_tests_pass() -> None:
    files = sorted((PROMETHEUS / "tests").glob("*.yml"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda file: promtool("test", "rules", file), files))


@needs_promtool
def test_promtool_accepts_the_runbook_queries(tmp_path: Path) -> None:
    checked = [
        {"record": f"query:{i}", "expr": q} for i, (_, q) in enumerate(queries_of_the_runbook())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": checked}]}))
    promtool("check", "rules", file)


def test_alerts_are_tested_firing_and_silent() -> None:
    checks = [check for test in cases() for check in test.get("alert_rule_test", ())]
    for rule in rules("alerts.yml"):
        name, labels = rule["alert"], rule["labels"].items()
        expected = [check["exp_alerts"] for check in checks if check["alertname"] == name]
        fires = [any(labels <= one["exp_labels"].items() for one in alerts) for alerts in expected]
        assert True in fires, f"{name} {dict(labels)} never fires"
        assert False in fires, f"{name} {dict(labels)} is never silent"


def test_recording_rules_are_tested() -> None:
    checked = " ".join(
        check["expr"]
        for test in cases()
        for check in test.get("promql_expr_test", ())
        if check["exp_samples"]
    )
    for rule in rules("rules.yml"):
        assert rule["record"] in checked, rule["record"]


def test_rules_of_one_metric_differ_only_in_window() -> None:
    seen: dict[str, set[str]] = {}
    for rule in rules("rules.yml"):
        figure, of_window, window = re.fullmatch(
            r"(.*?)(?:(rate)(\d+[mhd]))?", rule["record"]
        ).groups()
        if of_window and window != "30d":  # computed from the other rules
            seen.setdefault(figure, set()).add(
                re.sub(rf"\b(rate)?{window}\b", r"\1WINDOW", rule["expr"])
            )
    assert {len(expressions) for expressions in seen.values()} == {1}


def test_alerts_have_summary_description_and_links() -> None:
    for rule in rules("alerts.yml"):
        name, notes = rule["alert"], rule["annotations"]
        assert re.fullmatch(r"ConsoleGateway[A-Z]\w+", name)
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"}
        assert notes["summary"].endswith("."), name
        assert "{{" not in notes["summary"], name
        assert notes["description"][-1] in ".)", name
        assert re.search(
            r"/d/console-gateway-(service|upstream|links|security)$", notes["dashboard_url"]
        )


def test_descriptions_use_labels_of_their_alert() -> None:
    for test in cases():
        for check in test.get("alert_rule_test", ()):
            for alert in check["exp_alerts"]:
                (rule, *_) = (
                    one for one in rules("alerts.yml") if one["alert"] == check["alertname"]
                )
                named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
                assert named <= alert["exp_labels"].keys(), check["alertname"]


def test_runbook_sections_match_the_alerts() -> None:
    assert list(sections()) == list(dict.fromkeys(rule["alert"] for rule in rules("alerts.yml")))
    for name, text in sections().items():
        for part in ("**Users:** ", "**Confirm:** ", "**Do:** "):
            assert text.count(part) == 1, f"{name} needs one {part}"


def test_expressions_use_existing_metrics_and_labels() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    for where, expression in expressions():
        labels = set(SCRAPE_LABELS)
        for selector in selectors_in(expression):
            if selector.name in recorded:
                labels |= set(selector.name.partition(":")[0].split("_"))
                continue
            if selector.name in FOREIGN_METRICS:
                labels.add("alertname")
                check_foreign_selector(where, expression, selector)
                continue
            labels |= check_selector(where, selector)
        assert labels_grouped_by(expression) <= labels, f"{where}: {expression}"


def check_foreign_selector(where: str, expression: str, selector: Selector) -> None:
    """Check that a series which other programs export too is limited to the gateway."""
    ours = {("job", "=", JOB), ("alertname", "=~", "ConsoleGateway.*")}
    variables = {("job", "=~", ".+"), ("instance", "=~", ".+")}
    assert {*ours, *variables, ("alertstate", "=", "firing")} >= set(selector.matchers), where
    assert ours & set(selector.matchers) or re.search(
        r"(and|-) on \(job, instance\)", expression
    ), where


def check_selector(where: str, selector: Selector) -> set[str]:
    name = selector.name if selector.name in page() else selector.family
    assert name in page(), f"{where}: {selector.name} does not exist"
    values = page()[name]
    for label, operator, value in selector.matchers:
        if operator == "=~" and value == ".+":  # a variable of the dashboard
            continue
        if label == "le":
            assert value in buckets()[name], f"{where}: {name} has no bound {value}"
            continue
        assert label in values, f"{where}: {name} has no label {label}"
        for one in value.split("|") if "~" in operator else [value]:
            assert is_documented(one, values[label]), f"{where}: {label} of {name} is never {one}"
    return set(values)


def is_documented(value: str, documented: str) -> bool:
    words = {*re.findall(r"\w+", documented), *(one.value for one in Rejection)}
    words |= {spec.code for spec in ERROR_SPECS} | {end.name for end in SESSION_ENDS}
    words |= {row.name for row in (*built_in_operations(), SHOW_PERMISSIONS)}
    words |= {str(spec.status) for spec in ERROR_SPECS} | {"200"}
    pattern = re.compile(value.replace("..", r"\d\d"))
    return any(pattern.fullmatch(word) for word in words)


def test_runbook_names_existing_metrics() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    for name in set(re.findall(r"(?<![:\w])gateway_[a-z_]+\w", RUNBOOK.read_text())):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert {name, family} & page().keys() or any(name in one for one in recorded), name


def test_pages_name_existing_alerts() -> None:
    """By the full name, or without its prefix in a list after `Alerts:`."""
    names = {rule["alert"] for rule in rules("alerts.yml")}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    found = 0
    for file in pages:
        text = file.read_text()
        named = set(re.findall(r"\bConsoleGateway[A-Z]\w+", text))
        for listed in re.findall(r"\bAlerts?: (\w+(?:,\s+\w+)*)", text):
            named |= {f"ConsoleGateway{one}" for one in re.split(r",\s+", listed)}
        assert named <= names, f"{file.name}: {named - names}"
        found += len(named)
    assert found > len(names)


def test_runbook_names_existing_log_events() -> None:
    source = "\n".join(file.read_text() for file in (ROOT / "gateway").rglob("*.py"))
    for event in set(re.findall(r'"event":"(\w+)"', RUNBOOK.read_text())):
        assert f'"{event}"' in source, event
