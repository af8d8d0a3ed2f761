"""The stored dashboards match their code, and Grafana can load them."""

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
    """Return the runbook's sections by alert, and the ID of each one's panel."""
    return {panel["title"]: panel["id"] for panel in panels("runbook")[1:]}


@cache
def alerts() -> dict[str, list[dict[str, str]]]:
    """Return the annotations of each alert's rules."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    found: dict[str, list[dict[str, str]]] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        found.setdefault(rule["alert"], []).append(rule["annotations"])
    return found


def test_stored_dashboards_match_their_code(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GRAFANA / "dashboards.py", tmp_path], check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    stored = {file.name: file.read_text() for file in (GRAFANA / "dashboards").iterdir()}
    assert made == stored, "make docs"


@EVERY
def test_grafana_model_round_trips_the_dashboard(name: str) -> None:
    """The model lacks two fields of annotations."""
    register_default_plugins()
    wanted = json.loads(json.dumps(read(name)))
    for annotation in wanted["annotations"].get("list", ()):
        del annotation["titleFormat"], annotation["step"]
    assert json.loads(json.dumps(Dashboard.from_json(wanted), cls=JSONEncoder)) == wanted


@EVERY
def test_panels_have_question_unit_and_description(name: str) -> None:
    titles = [panel["title"] for panel in panels(name)]
    assert len(set(titles)) == len(titles) > 0
    for panel in panels(name):
        if panel["type"] == "text":
            continue
        assert (panel["title"].endswith("?")) or panel["type"] == "stat", panel["title"]
        assert len(panel["description"]) >= 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        targets = panel["targets"]
        assert [target["refId"] for target in targets] == list("ABCDE"[: len(targets)])
        assert all(target["legendFormat"] for target in targets), panel["title"]
        for part in (panel, *targets):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@EVERY
def test_titles_fit_at_1440_pixels(name: str) -> None:
    """A column is 58 pixels wide, a character of a title about 8; the icon needs 30."""
    for panel in panels(name):
        if panel["type"] != "text":
            room = panel["gridPos"]["w"] * 58 - 2 * 12 - 30
            assert len(panel["title"]) * 8 <= room, panel["title"]


@EVERY
def test_states_are_shown_in_words(name: str) -> None:
    """A panel of a metric that is 0 or 1 names both states, unless it counts processes."""
    states = {
        row.split("`")[1]
        for row in METRICS.read_text().splitlines()
        if re.search(r"\| (1 while|1 once|1 if|0\.5)", row)
    }
    for panel in panels(name):
        for target in panel.get("targets", ()):
            expression = re.sub(r"\{[^}]*\}", "", target["expr"])
            shown = re.fullmatch(
                r"(?:(?:min|max)(?: by \([^)]*\))? )?\(?(\w+)\)?( > 0)?", expression
            )
            if shown and shown[1] in states:
                words = panel["fieldConfig"]["defaults"].get("mappings", ())
                assert words, panel["title"]
                assert {"0", "1"} <= words[0]["options"].keys(), panel["title"]


@EVERY
def test_annotations_show_deploys_reloads_and_alerts(name: str) -> None:
    found = {one["name"]: one for one in read(name)["annotations"].get("list", ())}
    if name == "runbook":  # without graphs
        assert not found
        return
    assert set(found) == {"Deploys", "Process starts", "Policy reloads", "Alerts"}
    for one in found.values():
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert one["enable"]
        assert one["titleFormat"]
        assert 'job=~"$job"' in one["expr"]


@EVERY
def test_every_selector_follows_the_job_variable(name: str) -> None:
    for panel in panels(name):
        for target in panel.get("targets", ()):
            for selector in selectors_in(target["expr"]):
                assert ("job", "=~", "$job") in selector.matchers, panel["title"]


@EVERY
def test_panels_do_not_overlap(name: str) -> None:
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


def test_dashboards_link_to_each_other() -> None:
    uids = {read(name)["uid"] for name in NAMES}
    assert len(uids) == len(NAMES)
    for name in NAMES:
        links = read(name)["links"]
        assert {link["url"].removeprefix("/d/") for link in links} == uids - {read(name)["uid"]}
        assert all(link["keepTime"] and link["includeVars"] for link in links)


def test_alerts_link_to_existing_dashboards() -> None:
    uids = {read(name)["uid"] for name in NAMES}
    for note in (note for notes in alerts().values() for note in notes):
        assert note["dashboard_url"].rpartition("/")[2] in uids


def test_alerts_link_to_their_runbook_section() -> None:
    """As a panel in Grafana and as an anchor in Markdown."""
    assert list(sections()) == list(alerts())
    runbook = '{{ or $externalLabels.runbook "deploy/runbook.md" }}'
    for name, panel in sections().items():
        wanted = f"{runbook}?viewPanel=panel-{panel}#{name.lower()}"
        assert {note["runbook_url"] for note in alerts()[name]} == {wanted}


def test_runbook_dashboard_links_to_its_sections() -> None:
    index, *shown = panels("runbook")
    found = {alert: int(panel) for alert, panel in SECTION.findall(index["options"]["content"])}
    assert list(found.items()) == list(sections().items())
    text = (ROOT / "deploy" / "runbook.md").read_text()
    for panel in shown:
        assert f"## {panel['title']}\n\n{panel['options']['content']}" in text


@EVERY
def test_runbook_links_of_panels_exist(name: str) -> None:
    for panel in panels(name):
        description = panel.get("description", "")
        for alert, number in SECTION.findall(description):
            assert sections()[alert] == int(number)
        assert "ConsoleGateway" not in SECTION.sub("", description), panel["title"]


def units_of(expression: str) -> set[str]:
    """Return the units that fit the value of an expression."""
    patterns = (
        (r"histogram_quantile", {"s"}),
        (r" / ", {"percentunit", "short"}),
        (r"\brate\(\w+_seconds_total\b", {"percentunit"}),
        (r"\brate\(\w+_bytes_total\b", {"Bps"}),
        (r"\brate\(", {"reqps", "cps"}),
        (r"_seconds(:max)?\{", {"s"}),
        (r":ratio_", {"percentunit"}),
        (r"_rate\{|_ceiling\{", {"reqps"}),
        (r"_bytes\{", {"bytes"}),
        (r"_days\{", {"d"}),
        (r"_ratio\{", {"percentunit"}),
        (r"", {"short"}),
    )
    return next(units for pattern, units in patterns if re.search(pattern, expression))


@EVERY
def test_expressions_fit_the_unit_of_their_panel(name: str) -> None:
    for panel in panels(name):
        for target in panel.get("targets", ()):
            unit = panel["fieldConfig"]["defaults"]["unit"]
            assert unit in units_of(target["expr"]), f"{panel['title']} {target['expr']}"


@EVERY
def test_variables_select_source_job_instance_and_account(name: str) -> None:
    variables = {one["name"]: one for one in read(name)["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "account"], "links keep them"
    of_accounts = name in ("upstream", "links")
    assert (variables["account"].get("hide", 0) == 0) == of_accounts
    source = variables.pop("datasource")
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    for one in variables.values():
        assert (one["multi"], one["includeAll"], one["type"]) == (True, True, "query")
        assert one["allValue"] == ".+"
        assert one["datasource"]["uid"] == "${datasource}"
        assert 'job=~"$job"' in one["query"] or one["name"] == "job"
    expressions = " ".join(
        target["expr"] for panel in panels(name) for target in panel.get("targets", ())
    )
    assert "INSTANCE" not in expressions
    assert "ACCOUNT" not in expressions
    if name != "runbook":
        assert "$instance" in expressions
        assert ("$account" in expressions) == of_accounts


@pytest.mark.parametrize("name", ["upstream", "links"])
def test_panels_filter_by_selected_accounts(name: str) -> None:
    of_account = {
        row.split("`")[1] for row in METRICS.read_text().splitlines() if "`account`:" in row
    }
    for panel in panels(name):
        for target in panel["targets"]:
            for selector in selectors_in(target["expr"]):
                level = selector.name.partition(":")[0].split("_")
                if of_account & {selector.name, selector.family} or "account" in level:
                    assert ("account", "=~", "$account") in selector.matchers, panel["title"]


def test_provisioned_data_source_matches_the_panels() -> None:
    file = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert (source["uid"], source["type"], source["isDefault"]) == (
        "prometheus",
        "prometheus",
        True,
    )
