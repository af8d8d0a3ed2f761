"""PromQL expressions of dashboards and alerts, and their results on a running gateway."""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.prometheus import Prometheus, QueryFailed
from tests.support.promql import Selector, selectors_in

STEP_S = 0.5


@dataclass(frozen=True, slots=True)
class WatchedExpression:
    """One expression and its place."""

    where: str
    expression: str

    @property
    def selectors(self) -> list[Selector]:
        return selectors_in(self.expression)


def rule_expressions(file: Path) -> list[WatchedExpression]:
    """Return the expressions of recording rules or alerts; `where` is the name of the rule."""
    groups = yaml.safe_load(file.read_text())["groups"]
    rules = (rule for group in groups for rule in group["rules"])
    return [WatchedExpression(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules]


def dashboard_expressions(folder: Path, *, window: str, range_: str) -> list[WatchedExpression]:
    """Return the expressions of all panels and annotations, for all jobs and accounts."""
    chosen = {"$__rate_interval": window, "$__range": range_}
    chosen |= dict.fromkeys(("$job", "$instance", "$account"), ".+")
    found = []
    for file in sorted(folder.glob("*.json")):
        dashboard = json.loads(file.read_text())
        expressions = [
            (panel["title"], target["expr"])
            for panel in dashboard["panels"]
            for target in panel.get("targets", ())
        ]
        expressions += [
            (one["name"], one["expr"]) for one in dashboard["annotations"].get("list", ())
        ]
        for where, expression in expressions:
            for variable, value in chosen.items():
                expression = expression.replace(variable, value)  # noqa: PLW2901
            found.append(WatchedExpression(f"{file.stem}: {where}", expression))
    return found


def query_errors(prometheus: Prometheus, watched: Iterable[WatchedExpression]) -> list[str]:
    """Evaluate each expression now; return the errors of Prometheus."""
    errors = []
    for one in watched:
        try:
            prometheus.query(one.expression)
        except QueryFailed as error:
            errors.append(f"{one.where}: {error}")
    return errors


def samples(prometheus: Prometheus, expression: str, *, since: float) -> list[tuple[float, float]]:
    """Return the results of an expression from `since` to now, as pairs of time and value."""
    last_s = time.time() - since
    found = prometheus.query_range(expression, last_s=last_s, step_s=STEP_S)
    return [point for series in found for point in series.values]


def returned_nonzero(prometheus: Prometheus, expression: str, *, since: float) -> bool:
    """Return whether a result was not zero; a wrong expression may return zeros."""
    found = samples(prometheus, expression, since=since)
    return any(value != 0 and not math.isnan(value) for _, value in found)
