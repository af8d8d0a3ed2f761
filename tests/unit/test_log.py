"""Log lines: whose request they are about, and which are written."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.drivers import log as logs
from gateway.edge.passed_on import TracesPassedOn
from gateway.flow import under_way
from gateway.rules.trace_context import TraceContext
from gateway.settings import LOGGERS

GATEWAY = Path(__file__).parents[2] / "gateway"


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    names = ["gateway", *(f"gateway.{one}" for one in LOGGERS)]
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def line() -> dict[str, object]:
    record = logging.LogRecord("gateway.policy", logging.INFO, "", 0, "said", None, None)
    found: dict[str, object] = json.loads(logs.JsonLines().format(record))
    return found


def test_a_line_inside_a_request_tells_its_request_and_its_trace() -> None:
    assert not {"request_id", "trace_id"} & line().keys()
    trace = TracesPassedOn().begin(TraceContext("a" * 32, "b" * 16, 1), "GET")
    tokens = under_way.request_id.set("r-1"), under_way.trace.set(trace)
    try:
        assert (line()["request_id"], line()["trace_id"]) == ("r-1", "a" * 32)
    finally:
        under_way.request_id.reset(tokens[0])
        under_way.trace.reset(tokens[1])


def test_a_level_of_one_module_changes_at_run_time_and_that_of_no_other() -> None:
    logs.set_levels({"gateway": "warning"})
    logs.set_levels({"gateway.policy": "debug"})
    assert logging.getLogger("gateway.policy").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("gateway.keys").isEnabledFor(logging.INFO)
    assert logs.levels()["gateway.policy"] == "debug"
    assert logs.levels()["gateway.keys"] == "warning"


@pytest.mark.parametrize(
    "wrong",
    [{"aiohttp": "debug"}, {"gateway.polcy": "debug"}, {"gateway": "verbose"}, {"": "info"}],
)
def test_a_wrong_level_changes_nothing(wrong: dict[str, str]) -> None:
    before = logs.levels()
    with pytest.raises(ValueError, match=r"logger|level"):
        logs.set_levels({"gateway.valkey": "error", **wrong})
    assert logs.levels() == before


def test_each_logger_of_ours_can_be_named() -> None:
    used = {
        name
        for file in GATEWAY.rglob("*.py")
        for name in re.findall(r"getLogger\(\"gateway\.(\w+)\"\)", file.read_text())
    }
    assert used == set(LOGGERS)
