"""JSON log lines on stdout, one per event, through the standard library's logging."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, get_args

import orjson

from gateway.domain.model import Logger
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.flow import context

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
        }
        if request_id := context.request_id.get():
            line["request_id"] = request_id
        trace = context.trace.get()
        if trace is not None and trace.trace_id:
            line["trace_id"] = trace.trace_id
        line.update(
            (name, value) for name, value in record.__dict__.items() if name not in _STANDARD
        )
        if record.exc_info and record.exc_info[0] is not None:
            # Only the type and the stack: the text of a library's exception may quote a secret.
            line["exception"] = record.exc_info[0].__name__
            line["where"] = _where(record.exc_info[2])
        return orjson.dumps(line, default=repr).decode()


def _event(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0] == "gateway":
        return record.getMessage()
    # Of a library's message only the format string's first line: arguments may hold a secret.
    return str(record.msg).partition("\n")[0]


def _where(traceback: Any) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-8:]


def set_levels(levels: Mapping[str, str]) -> None:
    """Set the levels of the gateway's loggers; a logger without one inherits its parent's."""
    for name in get_args(Logger):
        level = levels.get(name)
        logging.getLogger(name).setLevel(logging.NOTSET if level is None else level.upper())


class _LineHandler(logging.Handler):
    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.write(f"{self.format(record)}\n".encode(), hurry=True)


def set_up(levels: Mapping[str, str], lines: LineWriter | None = None) -> None:
    """Log to `lines`, or to stdout without buffering, with these levels by logger."""
    handler = logging.StreamHandler(sys.stdout) if lines is None else _LineHandler(lines)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    set_levels(levels)
    # aiohttp logs the bytes of an invalid request, which may hold a token.
    logging.getLogger("aiohttp").setLevel("CRITICAL")
