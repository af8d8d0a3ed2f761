"""Every module and class that the architecture page names exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
FLOW = ROOT / "gateway" / "flow"
TYPES = {"GatewayError", "Protocol"}


def code_names() -> list[str]:
    return re.findall(r"`([^`\s]+)`", PAGE.read_text())


def definitions() -> Iterator[str]:
    for file in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node.name
                yield from (
                    f"{node.name}.{member.name}"
                    for member in node.body
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                )


def test_named_files_exist() -> None:
    named = [
        name
        for name in code_names()
        if re.fullmatch(r"[\w/]+\.(py|lua|yaml|toml)|[\w]+/[\w/]+", name)
    ]
    assert len(named) > 40
    rooms = (ROOT, FLOW, ROOT / "gateway" / "drivers" / "valkey" / "lua")
    assert [name for name in named if not any((room / name).exists() for room in rooms)] == []


def test_named_classes_and_methods_exist() -> None:
    named = {name for name in code_names() if re.fullmatch(r"[A-Z]\w*[a-z]\w*(\.[a-z_]+)?", name)}
    known = set(definitions()) | TYPES
    allowed = {"Authorization", "ShowPermissions", "X-Auth-Token"}
    assert len(named) > 40
    assert sorted(named - known - allowed) == []
