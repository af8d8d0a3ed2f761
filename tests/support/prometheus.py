"""A Prometheus server (Debian's package) that scrapes the processes of a test."""

import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.support.stack import Response, fetch
from tests.support.valkey import free_port

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
NOT_HERE = "Debian's package prometheus (prometheus, promtool) is not installed"

JOB = "console-gateway"
WITHIN_S = 60.0


class QueryFailed(Exception):
    """Prometheus rejected an expression or could not evaluate it."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a result; `value` is the last of its `values`."""

    labels: Mapping[str, str]
    """With `__name__`, if the expression keeps it."""
    values: tuple[tuple[float, float], ...]
    """Seconds since the epoch, and the value."""

    @property
    def value(self) -> float:
        return self.values[-1][1]


class Prometheus:
    """One server on loopback with temporary storage.

    `targets` are host:port and become the label `instance`.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        rule_files: Sequence[Path] = (),
        scrape_interval_s: float = 0.5,
        evaluation_interval_s: float = 1.0,
    ) -> None:
        self.targets = tuple(targets)
        self.port = free_port()
        self._dir = Path(tempfile.mkdtemp(prefix="prometheus-test-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.config = {
            "global": {
                "scrape_interval": f"{scrape_interval_s * 1000:.0f}ms",
                "scrape_timeout": f"{scrape_interval_s * 1000:.0f}ms",
                "evaluation_interval": f"{evaluation_interval_s * 1000:.0f}ms",
            },
            "rule_files": [str(file) for file in rule_files],
            "scrape_configs": [
                {"job_name": JOB, "static_configs": [{"targets": list(self.targets)}]}
            ],
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Prometheus":
        assert PROMETHEUS is not None, NOT_HERE
        config = self._dir / "prometheus.yml"
        config.write_text(yaml.safe_dump(self.config))
        with (self._dir / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._dir / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--enable-feature=exemplar-storage",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        self._until(self._is_ready, "Prometheus did not start")
        return self

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)

    def log_text(self) -> str:
        return (self._dir / "log").read_text()

    def wait_for_scrapes(self, count: int = 2) -> None:
        """Wait until each target was scraped more than `count` times from now on."""
        began = time.time()

        def all_were_read() -> bool:
            elapsed_s = max(1, math.ceil(time.time() - began))
            read = self.query(f'count_over_time(up{{job="{JOB}"}}[{elapsed_s}s])')
            return len(read) == len(self.targets) and all(
                # The range may start slightly before this call.
                series.value > count
                for series in read
            )

        self._until(all_were_read, "some targets were not scraped")

    def wait_until_read(self) -> None:
        """Wait until a scrape of each target that began after this call was successful."""
        began = time.time()
        up = f'up{{job="{JOB}"}}'

        def all_were_read() -> bool:
            read = self.query(f"timestamp({up}) and {up} == 1")
            return len(read) == len(self.targets) and all(one.value > began for one in read)

        self._until(all_were_read, "some targets were not read")

    def wait_for(self, expression: str) -> list[Series]:
        """Wait until the expression returns series, and return them."""
        found: list[Series] = []

        def returns() -> bool:
            found[:] = self.query(expression)
            return bool(found)

        self._until(returns, f"no series: {expression}")
        return found

    def query(self, expression: str) -> list[Series]:
        """Evaluate now; a number becomes one series without labels."""
        data = self._get("query", query=expression)
        if data["resultType"] in ("scalar", "string"):
            return [Series({}, (_point(data["result"]),))]
        return [
            Series(one["metric"], (_point(one["value"]),))
            for one in data["result"]
            if "value" in one
        ]

    def query_range(
        self, expression: str, *, last_s: float = 60.0, step_s: float = 1.0
    ) -> list[Series]:
        """Evaluate over the last `last_s` seconds, at multiples of the step, as a panel does."""
        now = time.time()
        start = math.ceil((now - last_s) / step_s) * step_s
        if start > now:
            return []
        parameters = {"start": f"{start:.3f}", "end": f"{now:.3f}", "step": f"{step_s:g}"}
        data = self._get("query_range", query=expression, **parameters)
        return [
            Series(one["metric"], tuple(_point(point) for point in one["values"]))
            for one in data["result"]
        ]

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules with name, health, lastError and state."""
        groups = self._get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alerts_firing(self) -> set[str]:
        found = self._get("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    def exemplars(self, selector: str, *, last_s: float = 60.0) -> list[dict[str, Any]]:
        now = time.time()
        parameters = {"start": f"{now - last_s:.3f}", "end": f"{now:.3f}"}
        found: list[dict[str, Any]] = self._get("query_exemplars", query=selector, **parameters)
        return found

    def label_values(self, label: str) -> set[str]:
        return set(self._get(f"label/{label}/values"))

    def _get(self, endpoint: str, **parameters: str) -> Any:
        answer: Response = fetch(self.url, "GET", f"/api/v1/{endpoint}?{urlencode(parameters)}")
        try:
            result = json.loads(answer.body)
        except ValueError:
            raise QueryFailed(f"{answer.status}: {answer.body!r}") from None
        if result.get("status") != "success" or result.get("warnings"):
            raise QueryFailed(f"{parameters.get('query', endpoint)}: {result.get('error', result)}")
        return result["data"]

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_text()
        try:
            return fetch(self.url, "GET", "/-/ready").status == 200
        except OSError:
            return False

    def _until(self, is_so: Callable[[], bool], failing: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            if is_so():
                return
            time.sleep(0.1)
        raise AssertionError(f"{failing}: {self.log_text()}")


def _point(point: Sequence[Any]) -> tuple[float, float]:
    at, value = point
    return float(at), float(value)
