"""The dashboards are what their code makes, and Grafana can read them."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.promql import selectors_in

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
METRICS = ROOT / "docs" / "reference" / "metrics.md"
NAMES = ("service", "upstream", "links", "security", "runbook")
EVERY = pytest.mark.parametrize("name", NAMES)
SECTION = re.compile(r"\[(\w+)\]\(d/console-gateway-runbook\?viewPanel=panel-(\d+)\)")


@cache
def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text())
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in read(name)["panels"] if panel["type"] != "row"]


def sections() -> dict[str, int]:
    """Return the runbook's sections on alerts, and the panel that Grafana shows each in."""
    return {panel["title"]: panel["id"] for panel in panels("runbook")[1:]}


@cache
def alerts() -> dict[str, list[dict[str, str]]]:
    """Return the annotations of each alert's rules."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    found: dict[str, list[dict[str, str]]] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        found.setdefault(rule["alert"], []).append(rule["annotations"])
    return found


def test_what_is_stored_is_what_the_code_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GRAFANA / "dashboards.py", tmp_path], check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    stored = {file.name: file.read_text() for file in (GRAFANA / "dashboards").iterdir()}
    assert made == stored, "make docs"


@EVERY
def test_grafanas_own_model_reads_it_and_loses_nothing(name: str) -> None:
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(read(name)), cls=JSONEncoder))
    assert again == read(name)


@EVERY
def test_each_panel_asks_a_question_has_a_unit_and_says_what_it_shows(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len(set(titles)) == len(titles) > 0
    for panel in panels(name):
        if panel["type"] == "text":
            continue
        assert panel["title"].endswith("?"), panel["title"]
        assert len(panel["description"]) >= 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        targets = panel["targets"]
        assert [target["refId"] for target in targets] == list("ABCDE"[: len(targets)])
        assert all(target["legendFormat"] for target in targets), panel["title"]
        for part in (panel, *targets):
            assert part["datasource"] == {"type": "prometheus", "uid": "prometheus"}


@EVERY
def test_panels_lie_side_by_side_in_the_grid(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in read(name)["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in read(name)["panels"]]
    assert len(set(ids)) == len(ids)


def test_links_lead_from_each_dashboard_to_the_others_and_to_the_runbook() -> None:
    uids = {read(name)["uid"] for name in NAMES}
    assert len(uids) == len(NAMES)
    for name in NAMES:
        links = read(name)["links"]
        assert {link["url"].removeprefix("/d/") for link in links} == uids - {read(name)["uid"]}
        assert all(link["keepTime"] and link["includeVars"] for link in links)


def test_alerts_lead_to_dashboards_that_there_are() -> None:
    uids = {read(name)["uid"] for name in NAMES}
    for note in (note for notes in alerts().values() for note in notes):
        assert note["dashboard_url"].rpartition("/")[2] in uids


def test_each_alert_leads_to_its_section_in_grafana_and_where_the_markdown_is_shown() -> None:
    assert list(sections()) == list(alerts())
    runbook = '{{ or $externalLabels.runbook "deploy/runbook.md" }}'
    for name, panel in sections().items():
        wanted = f"{runbook}?viewPanel=panel-{panel}#{name.lower()}"
        assert {note["runbook_url"] for note in alerts()[name]} == {wanted}


def test_the_runbook_begins_with_links_to_all_its_sections() -> None:
    index, *shown = panels("runbook")
    found = {alert: int(panel) for alert, panel in SECTION.findall(index["options"]["content"])}
    assert list(found.items()) == list(sections().items())
    text = (ROOT / "deploy" / "runbook.md").read_text()
    for panel in shown:
        assert f"## {panel['title']}\n\n{panel['options']['content']}" in text


@EVERY
def test_what_a_panel_says_of_the_runbook_leads_to_a_section(name: str) -> None:
    for panel in panels(name):
        said = panel.get("description", "")
        for alert, number in SECTION.findall(said):
            assert sections()[alert] == int(number)
        assert "ConsoleGateway" not in SECTION.sub("", said), panel["title"]


def units_of(expression: str) -> set[str]:
    """Return the units that what this expression tells may be drawn in."""
    told = (
        (r"histogram_quantile", {"s"}),
        (r" / ", {"percentunit", "short"}),
        (r"\brate\(\w+_seconds_total\b", {"percentunit"}),
        (r"\brate\(", {"reqps", "cps"}),
        (r"_seconds(:max)?\{", {"s"}),
        (r":ratio_", {"percentunit"}),
        (r"_rate\{|_ceiling\{", {"reqps"}),
        (r"_bytes\{", {"bytes"}),
        (r"_ratio\{", {"percentunit"}),
        (r"", {"short"}),
    )
    return next(units for pattern, units in told if re.search(pattern, expression))


@EVERY
def test_what_a_panel_draws_on_its_one_axis_is_of_its_unit(name: str) -> None:
    for panel in panels(name):
        for target in panel.get("targets", ()):
            unit = panel["fieldConfig"]["defaults"]["unit"]
            assert unit in units_of(target["expr"]), f"{panel['title']} {target['expr']}"


@EVERY
def test_variables_choose_instances_and_accounts(name: str) -> None:
    variables = {one["name"]: one for one in read(name)["templating"]["list"]}
    assert set(variables) == {"instance", "account"}, "or a link on the way would lose the choice"
    of_accounts = name in ("upstream", "links")
    assert (variables["account"].get("hide", 0) == 0) == of_accounts
    for one in variables.values():
        assert (one["multi"], one["includeAll"], one["type"]) == (True, True, "query")
    asked = " ".join(
        target["expr"] for panel in panels(name) for target in panel.get("targets", ())
    )
    assert "INSTANCE" not in asked
    assert "ACCOUNT" not in asked
    if name != "runbook":
        assert "$instance" in asked
        assert ("$account" in asked) == of_accounts


@pytest.mark.parametrize("name", ["upstream", "links"])
def test_a_panel_shows_the_accounts_that_the_reader_chose(name: str) -> None:
    of_account = {
        row.split("`")[1] for row in METRICS.read_text().splitlines() if "`account`:" in row
    }
    for panel in panels(name):
        for target in panel["targets"]:
            for selector in selectors_in(target["expr"]):
                level = selector.name.partition(":")[0].split("_")
                if of_account & {selector.name, selector.family} or "account" in level:
                    assert ("account", "=~", "$account") in selector.matchers, panel["title"]


def test_the_data_source_is_the_one_that_panels_name() -> None:
    file = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert (source["uid"], source["type"], source["isDefault"]) == (
        "prometheus",
        "prometheus",
        True,
    )
