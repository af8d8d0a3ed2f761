"""Plain technical English: the prose meter, and the glossary's rejected words.

`prose.py` counts the habits of mannered prose. The glossary test rejects words that have a
standard term (docs/reference/glossary.md), in identifiers, in public names and in prose.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import parser
from gateway.commands.arguments import CommandParser
from gateway.config.settings import Settings
from gateway.drivers.telemetry.metrics_contract import METRIC_FAMILIES
from gateway.edge.docs.openapi import openapi
from gateway.flow.admin import messages
from tests.tidy.prose import of_markdown, of_python

ROOT = Path(__file__).parents[2]
LIMIT = 5
"""Marker phrases per 1,000 words; httpx and structlog have 1.0 to 1.3."""

# Words of an identifier that have a standard term, with that term.
REJECTED_WORDS = {
    "told": "report, notify, describe",
    "tell": "report, notify, describe",
    "tells": "report, notify, describe",
    "teller": "reporter",
    "telling": "report, notify, describe",
    "ask": "request",
    "asks": "request",
    "asked": "request",
    "asking": "request",
    "flight": "fetch, single_flight",
    "flights": "fetches",
    "land": "finish",
    "lands": "finishes",
    "landed": "finished",
    "landing": "finishing",
    "journal": "audit_log",
    "trail": "audit_log",
    "recorder": "request_audit",
    "fly": "run",
    "flies": "runs",
    "flying": "running",
    "demand": "queue_request",
    "hurt": "throttled",
    "news": "update",
    "hear": "on_update",
    "hears": "on_update",
    "heard": "received",
    "lend": "priority inheritance",
    "lends": "priority inheritance",
    "lender": "priority inheritance",
    "sendings": "attempts",
    "places": "paths",
    "placed": "resolved",
    "kept": "snapshot, persisted",
    "held": "cached",
    "away": "unavailable",
    "mistake": "error",
    "mistakes": "errors",
    "flaw": "problem",
    "flaws": "problems",
    "box": "simulated cloud",
    "cloudbox": "simulated cloud",
    "travelling": "request headers",
    "returning": "response headers",
    "obey": "apply",
    "obeys": "applies",
    "obeyed": "applied",
    "expose": "register",
    "pulse": "watchdog",
    "patience": "timeout",
    "patiently": "with timeout",
    "why": "describe_error, reason",
    "dossier": "upstream-api.md",
    "nowhere": "enabled: false",
    "nobody": "the thing",
    "somebody": "the thing",
    "whose": "the thing",
    "whoever": "the thing",
    "orders": "overrides, revocations",
}
REJECTED_PHRASES = (
    "passed_on",
    "under_way",
    "used_here",
    "used_once",
    "when_unknown",
    "standing_order",
    "there_are",
    "left_out",
    "every_process",
    "own_view",
)
ALLOWED = {
    "on_demand": "a standard term",
    "single_flight": "the standard term: request coalescing",
    "in_flight": "the standard term: sent, and not answered yet",
    "lease_held": "a lease is held; a cached value is not meant",
    "is_held": "the same",
}
"""Identifiers with a rejected word in its ordinary meaning, each with the reason."""
# Left out, because their ordinary use is frequent: given, joined, lift (a lock is lifted), parts
# (of a recording, of a path), record, reach, rate ceiling, unknown.

REJECTED_IN_PROSE = {
    r"standing orders?": "revocations and overrides",
    r"dossier": "docs/explanation/upstream-api.md",
    r"sendings": "attempts",
    r"cloud in a box|the box": "simulated cloud",
    r"mistakes?|flaws?": "error, problem",
    r"audit trails?|journals?": "audit log",
    r"obeys?|obeyed": "apply",
    r"patience": "timeout",
    r"lends?|lender": "priority inheritance",
    r"nobody|somebody|whoever": "name the thing",
    r"nowhere": "name the state",
    r"tellers?": "reporter",
    r"tells?|told|telling": "report, notify, describe",
    r"(?<!in )(?<!single-)flights?": "fetch, single-flight",
    r"under way": "in progress, outstanding",
    r"hears?|heard": "receive",
    r"for ever|, forever": "without end, never removed, until cancelled",
    r"passed on": "propagated",
}
"""Words without an ordinary use in this project's prose."""
_TEXTS = (".md", ".yml", ".yaml", ".toml", ".lua", ".sh", ".js", ".css", ".html")


def words_of(name: str) -> list[str]:
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [part.lower() for part in parts]


def is_rejected(name: str) -> bool:
    flat = "_".join(words_of(name))
    for allowed in ALLOWED:
        flat = flat.replace(allowed, "")
    return any(word in REJECTED_WORDS for word in flat.split("_")) or any(
        phrase in flat for phrase in REJECTED_PHRASES
    )


def python_files() -> Iterator[Path]:
    for room in ("gateway", "tests", "deploy"):
        yield from sorted((ROOT / room).rglob("*.py"))


def is_file_name_rejected(file: Path) -> bool:
    """Return whether the name of a file, or of a folder on the way to it, has a rejected word."""
    return any(is_rejected(part) for part in file.relative_to(ROOT).with_suffix("").parts)


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every name that the code defines, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case _:
                pass


def tracked(*endings: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.splitlines() if name.endswith(endings)]


def test_prose_is_plain() -> None:
    paths = ["gateway", "tests", "deploy", *(str(path) for path in tracked(".md"))]
    for path in ("gateway", "tests", None):
        command = [sys.executable, "tests/tidy/prose.py", "--limit", str(LIMIT), "--worst", "20"]
        run = subprocess.run(
            [*command, *([path] if path else paths[2:])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout


def test_identifiers_use_the_glossary() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in python_files()
        for line, name in identifiers(ast.parse(file.read_text()))
        if is_rejected(name)
    ]
    assert not found, "\n".join(found)


def test_file_names_use_the_glossary() -> None:
    found = [str(file.relative_to(ROOT)) for file in tracked("") if is_file_name_rejected(file)]
    assert not found, "\n".join(found)


def config_keys(model: Any, path: str = "") -> Iterator[str]:
    schema = model.model_json_schema()
    for definition in (schema, *schema.get("$defs", {}).values()):
        yield from definition.get("properties", {})


def commands(found: argparse.ArgumentParser) -> Iterator[str]:
    if isinstance(found, CommandParser):
        found.load()
    for action in found._actions:
        yield from (option.lstrip("-") for option in action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield name
                yield from commands(sub)
        elif not action.option_strings:
            yield action.dest


def log_events() -> Iterator[str]:
    """Yield the constant first argument of each call of a logger."""
    for file in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name | ast.Attribute)
                and ast.unparse(node.func.value).strip("_").endswith("log")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                yield str(node.args[0].value)


def members(schema: Any) -> Iterator[str]:
    """Yield the names of all properties in a JSON schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from members(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from members(value)


def test_public_names_use_the_glossary() -> None:
    public = {
        "config key": set(config_keys(Settings)),
        "command": set(commands(parser.build_parser())),
        "metric": {name for family in METRIC_FAMILIES for name in (family.name, *family.labels)},
        "log event": set(log_events()),
        "JSON field": set(members(json.loads(json.dumps(openapi([]))))),
        "admin field": {
            name
            for kind in vars(messages).values()
            if hasattr(kind, "__struct_fields__")
            for name in kind.__struct_fields__
        },
    }
    found = [
        f"{kind}: {name}" for kind, names in public.items() for name in names if is_rejected(name)
    ]
    assert all(public.values())
    assert not found, found


def prose(file: Path) -> Iterator[tuple[int, str]]:
    if file.suffix == ".py":
        yield from of_python(file)
    elif file.suffix == ".md":
        yield from of_markdown(file)
    else:
        yield from enumerate(file.read_text().splitlines(), 1)


def test_prose_uses_the_glossary() -> None:
    pattern = re.compile(rf"\b({'|'.join(REJECTED_IN_PROSE)})\b", re.IGNORECASE)
    found = [
        f"{file.relative_to(ROOT)}:{line}: {match.group()}"
        for file in tracked(".py", *_TEXTS)
        if file not in (Path(__file__), ROOT / "tests" / "tidy" / "prose.py")
        for line, text in prose(file)
        for match in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name",
    [
        "orders_file",
        "KeptFile",
        "left_out",
        "heard_at",
        "_box",
        "test_who_is_told",
        "FlightResult",
        "_flights",
        "landed_at",
        "places",
        "keep_asking",
    ],
)
def test_rejected_names_are_found(name: str) -> None:
    assert is_rejected(name)


@pytest.mark.parametrize("name", ["flow/flight_messages.py", "told/model.py", "docs/why.md"])
def test_rejected_file_names_are_found(name: str) -> None:
    assert is_file_name_rejected(ROOT / name)


@pytest.mark.parametrize(
    "name", ["links_in_flight", "SingleFlight", "override_id", "held_out_of_word"]
)
def test_ordinary_names_pass(name: str) -> None:
    assert is_rejected(name) == name.startswith("held")
