"""Log lines: request and trace IDs, levels, and no secrets."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from gateway.domain.model import Logger
from gateway.domain.trace_context import TraceContext
from gateway.drivers.telemetry import log as logs
from gateway.drivers.telemetry.trace_propagation import PropagatedTracing
from gateway.flow import context

GATEWAY = Path(__file__).parents[2] / "gateway"


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    before = {name: logging.getLogger(name).level for name in get_args(Logger)}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def line() -> dict[str, object]:
    record = logging.LogRecord("gateway.policy", logging.INFO, "", 0, "said", None, None)
    found: dict[str, object] = json.loads(logs.JsonLines().format(record))
    return found


def test_line_has_request_id_and_trace_id() -> None:
    assert not {"request_id", "trace_id"} & line().keys()
    trace = PropagatedTracing().begin(TraceContext("a" * 32, "b" * 16, 1), "GET")
    tokens = context.request_id.set("r-1"), context.trace.set(trace)
    try:
        assert (line()["request_id"], line()["trace_id"]) == ("r-1", "a" * 32)
    finally:
        context.request_id.reset(tokens[0])
        context.trace.reset(tokens[1])


def test_levels_are_inherited_from_parent_loggers() -> None:
    logs.set_levels({"gateway": "warning", "gateway.policy": "debug", "gateway.keys": "error"})
    logs.set_levels({"gateway": "warning", "gateway.policy": "debug"})
    assert logging.getLogger("gateway.policy").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("gateway.keys").isEnabledFor(logging.WARNING)
    assert not logging.getLogger("gateway.keys").isEnabledFor(logging.INFO)


def test_level_of_unknown_logger_is_ignored() -> None:
    logs.set_levels({"gateway": "warning", "aiohttp": "debug", "gateway.polcy": "debug"})
    assert logging.getLogger("aiohttp").level != logging.DEBUG
    assert "gateway.polcy" not in logging.getLogger().manager.loggerDict


def test_every_gateway_logger_is_configurable() -> None:
    used = {
        name
        for file in GATEWAY.rglob("*.py")
        for name in re.findall(r"getLogger\(\"(gateway\.\w+)\"\)", file.read_text())
    }
    assert used == set(get_args(Logger)) - {"gateway"}


async def test_secret_in_library_message_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "https://console/?token=canary"
    logging.getLogger("somelib").warning("cannot read %r", secret)
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": ValueError(secret)}
    )
    written = [json.loads(logs.JsonLines().format(one)) for one in caplog.records]
    assert [one["event"] for one in written] == [
        "cannot read %r",
        "Task exception was never retrieved",
    ]
    assert written[1]["exception"] == "ValueError"
    assert "canary" not in json.dumps(written)
