"""Log lines on stdout: all have time, level, logger and event, as JSON or as text."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

import orjson

from gateway.domain.model import LogFormat, Logger
from gateway.domain.timestamps import rfc3339
from gateway.drivers.telemetry.line_writer import LineWriter
from gateway.flow import context

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

LogFields = dict[str, Any]
"""`time`, `level`, `logger`, `event`, then the event's own fields."""


def json_line(fields: LogFields) -> bytes:
    return orjson.dumps(fields, default=repr, option=orjson.OPT_APPEND_NEWLINE)


def text_line(fields: LogFields) -> bytes:
    """Return the line for a terminal; control characters in values are escaped."""
    time, level, logger, event, *values = fields.items()
    head = f"{time[1]} {level[1]:7} {logger[1]} {_text(event[1])}"
    return " ".join([head, *(f"{name}={_text(value)}" for name, value in values)]).encode() + b"\n"


def _text(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        is_plain = value and not any(char in value for char in ' "=')
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, default=repr)


_ENCODERS: Final[Mapping[LogFormat, Callable[[LogFields], bytes]]] = {
    "json": json_line,
    "text": text_line,
}


class LineFormatter(logging.Formatter):
    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._encode = _ENCODERS[log_format]

    def format(self, record: logging.LogRecord) -> str:
        return self.line(record).decode().rstrip("\n")

    def line(self, record: logging.LogRecord) -> bytes:
        fields = _common_fields(
            record.created, record.levelname.lower(), record.name, _event(record)
        )
        if request_id := context.request_id.get():
            fields["request_id"] = request_id
        trace = context.trace.get()
        if trace is not None and trace.trace_id:
            fields["trace_id"] = trace.trace_id
        fields.update(
            (name, value) for name, value in record.__dict__.items() if name not in _STANDARD
        )
        if record.exc_info and record.exc_info[0] is not None:
            # Only the type and the stack: the text of a library's exception may quote a secret.
            fields["exception"] = record.exc_info[0].__name__
            fields["where"] = _where(record.exc_info[2])
        return self._encode(fields)


def _common_fields(at: float, level: str, logger: str, event: str) -> LogFields:
    return {"time": rfc3339(at), "level": level, "logger": logger, "event": event}


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


_TIME: Final = "-time-"
_REQUEST_ID: Final = "-request-id-"
_SECONDS: Final = 123456789.25
"""Stand for the values in which prepared lines differ."""


class RequestLines:
    """Writes request log lines at level info of `gateway.request`, without logging's overhead."""

    def __init__(self, write: Callable[[bytes], object], log_format: LogFormat) -> None:
        self._write = write
        self._encode = _ENCODERS[log_format]
        self._logger = logging.getLogger("gateway.request")
        self._before_time, *between, _ = self._cut({})
        before_id, before_seconds = (part.replace(b"%", b"%%") for part in between)
        self._form = b"%b.%06dZ" + before_id + b"%b" + before_seconds + b"%.6f%b"
        """A prepared line, of the values that differ."""
        self._second = (0, b"")

    def write(self, at: float, fields: Mapping[str, Any]) -> bool:
        """Write the line; return False if the logger's level excludes it."""
        if not self._logger.isEnabledFor(logging.INFO):
            return False
        line = _common_fields(at, "info", self._logger.name, "request")
        line.update(fields)
        self._write(self._encode(line))
        return True

    def prepare(self, fields: Mapping[str, Any]) -> bytes:
        """Return what follows the duration in the line of a request with status 200."""
        return self._cut(fields)[-1]

    def write_prepared(self, at: float, request_id: bytes, seconds: float, prepared: bytes) -> bool:
        """Write a line of which `prepare` returned the end; `request_id` is plain ASCII text."""
        if not self._logger.isEnabledFor(logging.INFO):
            return False
        second, micros = divmod(round(at * 1e6), 1_000_000)
        if second != self._second[0]:
            until_second = rfc3339(second).partition(".")[0].encode()
            self._second = second, self._before_time + until_second
        self._write(self._form % (self._second[1], micros, request_id, seconds, prepared))
        return True

    def _cut(self, fields: Mapping[str, Any]) -> list[bytes]:
        """Return the parts of a line around its time, request ID and duration."""
        line = _common_fields(0.0, "info", self._logger.name, "request")
        line |= {"time": _TIME, "request_id": _REQUEST_ID, "status": 200, "seconds": _SECONDS}
        rest, parts = self._encode({**line, **fields}), []
        for value in (_TIME, _REQUEST_ID, str(_SECONDS)):
            part, _, rest = rest.partition(value.encode())
            parts.append(part)
        return [*parts, rest]


def set_levels(levels: Mapping[str, str]) -> None:
    """Set the levels of the gateway's loggers; a logger without one inherits its parent's."""
    for name in get_args(Logger):
        level = levels.get(name)
        logging.getLogger(name).setLevel(logging.NOTSET if level is None else level.upper())


class _LineHandler(logging.Handler):
    def __init__(self, lines: LineWriter, formatter: LineFormatter) -> None:
        super().__init__()
        self._lines = lines
        self._formatter = formatter

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.write(self._formatter.line(record), hurry=True)


def set_up(
    levels: Mapping[str, str], log_format: LogFormat, lines: LineWriter | None = None
) -> None:
    """Log to `lines`, or to stdout without buffering, with these levels by logger."""
    formatter = LineFormatter(log_format)
    handler: logging.Handler
    if lines is None:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(formatter)
    else:
        handler = _LineHandler(lines, formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    set_levels(levels)
    # aiohttp logs the bytes of an invalid request, which may hold a token.
    logging.getLogger("aiohttp").setLevel("CRITICAL")
