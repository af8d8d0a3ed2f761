"""docs/reference/log-events.md lists the events that the code logs."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from gateway.domain.model import Logger
from gateway.drivers.telemetry.log_events import BY_EVENT, LOG_EVENTS

_ROOT = Path(__file__).parents[2]
_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
_COMMON_FIELDS = {"time", "level", "logger", "event", "request_id", "trace_id"}
_REQUEST_LOG = _ROOT / "gateway" / "edge" / "public" / "request_log.py"


@dataclass
class LoggedEvent:
    levels: set[str] = field(default_factory=set)
    loggers: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def _text_of(node: ast.AST | None) -> str:
    assert isinstance(node, ast.Constant), ast.dump(node) if node else "missing"
    assert isinstance(node.value, str)
    return node.value


def _loggers_in(module: ast.Module) -> dict[str, str]:
    """Return logger names by the variables that hold the loggers."""
    return {
        ast.unparse(node.targets[0]): _text_of(node.value.args[0])
        for node in ast.walk(module)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "logging.getLogger"
        and node.value.args
    }


def _functions(module: ast.Module) -> Iterator[ast.AST]:
    yield from (
        n for n in ast.walk(module) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _keys(value: ast.expr, scope: ast.AST, module: ast.Module) -> set[str]:
    """Return the keys of an expression that is a dict, or a name or property that holds one."""
    if isinstance(value, ast.Dict):
        return {
            key
            for name, item in zip(value.keys, value.values, strict=True)
            for key in ({_text_of(name)} if name is not None else _keys(item, scope, module))
        }
    if isinstance(value, ast.Attribute):  # a property of a class in this module
        (function,) = (
            one
            for one in _functions(module)
            if isinstance(one, ast.FunctionDef) and one.name == value.attr
        )
        (returned,) = (n.value for n in ast.walk(function) if isinstance(n, ast.Return))
        assert returned is not None
        return _keys(returned, function, module)
    assert isinstance(value, ast.Name), ast.unparse(value)
    return _keys_assigned_to(value.id, scope, before=value.lineno)


def _keys_assigned_to(name: str, scope: ast.AST, *, before: int = 10**6) -> set[str]:
    """Return the keys that a variable has in the lines before `before`."""
    keys: set[str] = set()
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.lineno >= before:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if ast.unparse(target) == name and isinstance(node.value, ast.Dict):
                keys |= {_text_of(key) for key in node.value.keys}
            elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                keys.add(_text_of(target.slice))
    return keys


def _collect(module: ast.Module, found: dict[str, LoggedEvent]) -> None:
    loggers = _loggers_in(module)
    for scope in _functions(module):
        for call in ast.walk(scope):
            if not (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in _METHODS
            ):
                continue
            logger = ast.unparse(call.func.value)
            if logger not in loggers and logger != "self._log":
                continue
            event = found[_text_of(call.args[0])]
            method = call.func.attr
            event.levels.add("error" if method == "exception" else method)
            event.loggers.add(loggers.get(logger, ""))
            options = {option.arg: option.value for option in call.keywords}
            if "extra" in options:
                event.fields |= _keys(options["extra"], scope, module)
            if method == "exception" or "exc_info" in options:
                event.fields |= {"exception", "where"}


def _logged_events() -> dict[str, LoggedEvent]:
    found: dict[str, LoggedEvent] = defaultdict(LoggedEvent)
    for file in sorted((_ROOT / "gateway").rglob("*.py")):
        _collect(ast.parse(file.read_text()), found)
    return found


def _fields_of_the_request_line() -> set[str]:
    module = ast.parse(_REQUEST_LOG.read_text())
    keys = {
        _text_of(key)
        for node in ast.walk(module)
        if isinstance(node, ast.Dict)
        for key in node.keys
    }
    return keys | _keys_assigned_to("line", module) | _keys_assigned_to("fields", module)


def test_logged_events_match_the_table() -> None:
    logged = _logged_events()
    assert len(logged) > 40
    assert logged.keys() | {"request"} == BY_EVENT.keys()
    assert len(BY_EVENT) == len(LOG_EVENTS)


def test_levels_loggers_and_fields_match_the_table() -> None:
    for name, logged in _logged_events().items():
        event = BY_EVENT[name]
        assert logged.levels == {event.level}, name
        assert logged.loggers <= {event.logger, ""}, name
        assert logged.fields - _COMMON_FIELDS == set(event.fields), name


def test_request_line_fields_match_the_table() -> None:
    assert _fields_of_the_request_line() - _COMMON_FIELDS == set(BY_EVENT["request"].fields)


def test_loggers_have_configurable_levels() -> None:
    for event in LOG_EVENTS:
        assert set(event.logger.split(", ")) <= set(get_args(Logger)), event.name


def test_every_event_has_a_meaning_and_an_action() -> None:
    for event in LOG_EVENTS:
        for text in (event.meaning, event.action):
            assert text[0].isupper(), event.name
            assert text.endswith("."), event.name
