"""One JSON line per event on stdout, through the standard library's logging."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import orjson

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(
            (name, value) for name, value in record.__dict__.items() if name not in _STANDARD
        )
        if record.exc_info and record.exc_info[0] is not None:
            # The type and the place, never the text: a library's message may quote a secret.
            line["exception"] = record.exc_info[0].__name__
            line["where"] = _where(record.exc_info[2])
        return orjson.dumps(line, default=repr).decode()


def _where(traceback: Any) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-8:]


_levels_set: set[str] = set()


def set_levels(levels: Mapping[str, str]) -> None:
    """Set the level of each logger by its name; those set before and not named go by others."""
    for name in _levels_set - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level.upper())
    _levels_set.clear()
    _levels_set.update(levels)


def set_up(level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    logging.getLogger("gateway").setLevel(level.upper())
    # aiohttp logs a parse error with the bytes that it could not read: those may hold a token.
    logging.getLogger("aiohttp").setLevel("CRITICAL")
