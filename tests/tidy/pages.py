"""The documents that are generated from the code. `make docs` writes them, a test compares them."""

from collections.abc import Callable
from pathlib import Path

from gateway.commands.reference import cli_page
from gateway.config.reference import config_page, policy_page
from gateway.domain.audit import events
from gateway.domain.consoles import ends
from gateway.domain.login import model as logins
from gateway.drivers.telemetry import metrics_contract
from gateway.drivers.telemetry.log_events import render_log_events
from gateway.edge.admin.reference import admin_api_page
from gateway.edge.docs.reference import errors_page, operations_page

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "admin-api.md": admin_api_page,
    "audit-records.md": events.render_page,
    "cli.md": cli_page,
    "config.md": config_page,
    "console-ends.md": ends.render_page,
    "errors.md": errors_page,
    "log-events.md": render_log_events,
    "logins.md": logins.render_page,
    "metrics.md": metrics_contract.render_page,
    "operations.md": operations_page,
    "policy.md": policy_page,
}


def main() -> None:
    for name, render in PAGES.items():
        (REFERENCE / name).write_text(render())


if __name__ == "__main__":
    main()
