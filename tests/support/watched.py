"""What is watched in a running gateway: the expressions, and what they read."""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.prometheus import Prometheus, QueryFailed
from tests.support.promql import Selector, selectors_in


@dataclass(frozen=True, slots=True)
class WatchedExpression:
    """One expression, and where it stands."""

    where: str
    expression: str

    @property
    def selectors(self) -> list[Selector]:
        return selectors_in(self.expression)


def rule_expressions(file: Path) -> list[WatchedExpression]:
    """Return the expressions of a file of recording rules or alerts; `where` is the rule's name."""
    groups = yaml.safe_load(file.read_text())["groups"]
    rules = (rule for group in groups for rule in group["rules"])
    return [WatchedExpression(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules]


def dashboard_expressions(folder: Path, *, window: str, range_: str) -> list[WatchedExpression]:
    """Return the expressions of all panels, with all instances and accounts chosen."""
    chosen = {"$__rate_interval": window, "$__range": range_, "$instance": ".*", "$account": ".*"}
    found = []
    for file in sorted(folder.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for variable, value in chosen.items():
                    expression = expression.replace(variable, value)
                found.append(WatchedExpression(f"{file.stem}: {panel['title']}", expression))
    return found


def query_errors(prometheus: Prometheus, watched: Iterable[WatchedExpression]) -> list[str]:
    """Evaluate each at this moment, and say which Prometheus cannot evaluate."""
    errors = []
    for one in watched:
        try:
            prometheus.query(one.expression)
        except QueryFailed as error:
            errors.append(f"{one.where}: {error}")
    return errors


def samples(prometheus: Prometheus, expression: str, *, since: float) -> list[tuple[float, float]]:
    """Return when the expression returned what, from that instant to now."""
    last_s = time.time() - since
    found = prometheus.query_range(expression, last_s=last_s, step_s=0.5)
    return [point for series in found for point in series.values]


def returned_nonzero(prometheus: Prometheus, expression: str, *, since: float) -> bool:
    """Tell whether it returned a value that is not zero: a mistake in it may show zeros, too."""
    found = samples(prometheus, expression, since=since)
    return any(value != 0 and not math.isnan(value) for _, value in found)
