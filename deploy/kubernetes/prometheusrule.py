"""Print the rules in deploy/prometheus as a PrometheusRule, for monitoring/prometheusrule.yaml.

python deploy/kubernetes/prometheusrule.py > deploy/kubernetes/monitoring/prometheusrule.yaml
"""

import sys
from pathlib import Path
from typing import Any

import yaml

PROMETHEUS = Path(__file__).parents[1] / "prometheus"


def prometheus_rule() -> dict[str, Any]:
    files = [PROMETHEUS / "rules.yml", PROMETHEUS / "alerts.yml"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "console-gateway"},
        "spec": {
            "groups": [
                group
                for file in files
                if file.exists()
                for group in yaml.safe_load(file.read_text())["groups"]
            ]
        },
    }


if __name__ == "__main__":
    yaml.safe_dump(prometheus_rule(), sys.stdout, sort_keys=False, width=100)
