"""Write the dashboards: `python deploy/grafana/dashboards.py [DIRECTORY]`, or `make docs`."""

import sys
from pathlib import Path

from links import links
from panels import to_json
from runbook import runbook
from security import security
from service import service
from upstream import upstream

HERE = Path(__file__).parent

DASHBOARDS = {
    "service": service,
    "upstream": upstream,
    "links": links,
    "security": security,
    "runbook": runbook,
}


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dashboards"
    for name, build in DASHBOARDS.items():
        (directory / f"{name}.json").write_text(to_json(build()))


if __name__ == "__main__":
    main()
