"""Runbook dashboard: one text panel per section of deploy/runbook.md."""

import re
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import page, to_runbook, words


def runbook() -> Dashboard:
    text = (Path(__file__).parents[1] / "runbook.md").read_text()
    head, *parts = re.split(r"^## (\w+)\n+", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    _, _, intro = head.partition("\n")
    index = " · ".join(map(to_runbook, sections))
    made = page(
        "Runbook",
        "Effect on users, confirmation and action per alert, from deploy/runbook.md at the time when the dashboards were generated.",
        accounts=False,
    ).with_panel(words("What to do when an alert fires", f"{index}\n{intro}", height=16))
    for alert, content in sections.items():
        made = made.with_panel(words(alert, content))
    return made
