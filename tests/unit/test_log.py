"""Log lines: request and trace IDs, levels, and no secrets."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from gateway.domain.model import LogFormat, Logger
from gateway.domain.timestamps import rfc3339
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


def a_record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord("gateway.policy", logging.INFO, "", 0, "said", None, None)
    record.__dict__.update(fields)
    return record


def line() -> dict[str, object]:
    found: dict[str, object] = json.loads(logs.LineFormatter("json").format(a_record()))
    return found


def a_request_line(log_format: LogFormat, **fields: object) -> bytes:
    written: list[bytes] = []
    assert logs.RequestLines(written.append, log_format).write(1_796_000_000.25, fields)
    return written[0]


def test_all_lines_begin_with_time_level_logger_event() -> None:
    logs.set_levels({"gateway": "info"})
    of_event, of_request = line(), json.loads(a_request_line("json", status=200))
    assert [*of_event][:4] == [*of_request][:4] == ["time", "level", "logger", "event"]
    assert (of_event["level"], of_event["logger"]) == ("info", "gateway.policy")
    assert of_request == {
        "time": "2026-11-30T00:53:20.250000Z",
        "level": "info",
        "logger": "gateway.request",
        "event": "request",
        "status": 200,
    }


def test_whole_second_has_the_fraction_of_other_times() -> None:
    assert rfc3339(1_796_000_000.0) == "2026-11-30T00:53:20.000000Z"


def test_text_format_has_the_same_fields() -> None:
    logs.set_levels({"gateway": "info"})
    written = a_request_line("text", status=200, servers=["a", "b"], subject="ann b")
    assert written == (
        b"2026-11-30T00:53:20.250000Z info    gateway.request request status=200"
        b' servers=["a", "b"] subject="ann b"\n'
    )
    record = a_record(created=1_796_000_000.25, version="4a", reason="")
    assert logs.LineFormatter("text").format(record) == (
        '2026-11-30T00:53:20.250000Z info    gateway.policy said version=4a reason=""'
    )


@pytest.mark.parametrize("char", ["\n", "\r", "\x1b", "\x9b", "\u202e", "\u2028"])
def test_text_format_escapes_control_characters(char: str) -> None:
    """A name or an error text must not steer a terminal or imitate a line."""
    logs.set_levels({"gateway": "info"})
    written = a_request_line("text", subject=f"a{char}b", servers=[f"a{char}b"]).decode()
    assert char not in written.removesuffix("\n")
    assert written.count("\n") == 1


def test_request_lines_follow_the_level_of_their_logger() -> None:
    logs.set_levels({"gateway": "info", "gateway.request": "warning"})
    written: list[bytes] = []
    assert not logs.RequestLines(written.append, "json").write(0.0, {})
    assert written == []


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
    written = [json.loads(logs.LineFormatter("json").format(one)) for one in caplog.records]
    assert [one["event"] for one in written] == [
        "cannot read %r",
        "Task exception was never retrieved",
    ]
    assert written[1]["exception"] == "ValueError"
    assert "canary" not in json.dumps(written)


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("seconds", [0.000012, 0.25, 3.0])
def test_prepared_line_equals_the_whole_one(log_format: LogFormat, seconds: float) -> None:
    logs.set_levels({"gateway": "info"})
    written: list[bytes] = []
    lines = logs.RequestLines(written.append, log_format)
    varying = {"request_id": "ab-1f", "status": 200, "seconds": seconds}
    rest = {"client": "-time-", "subject": 'ann "-request-id-" 123456789.25', "servers": ("a",)}
    lines.write(1_796_000_000.9999997, {**varying, **rest})
    lines.write_prepared(1_796_000_000.9999997, b"ab-1f", seconds, lines.prepare(rest))
    duration = re.compile(rb'(?<=seconds)"?[=:]([0-9.e-]+)')
    assert duration.sub(b"", written[0], 1) == duration.sub(b"", written[1], 1)
    assert [float(duration.findall(line)[0]) for line in written] == [seconds, seconds]
