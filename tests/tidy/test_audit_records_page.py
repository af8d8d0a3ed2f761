"""docs/reference/audit-records.md describes every event that the code writes."""

import ast
from pathlib import Path

from gateway.domain.audit.events import CHAIN_LINES, FIELDS, LINE_FIELDS, RECORDS
from gateway.domain.audit.record import AuditRecord, WriteEnded, encode_record
from gateway.domain.model import WriteOutcome

_ROOT = Path(__file__).parents[2]
_RECORD_CALLS = {"about", "allowed", "_record", "_add_record"}
"""Methods with an event as the first argument."""


def _strings(node: ast.expr | None) -> set[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return set()


def _written_events() -> set[str]:
    found: set[str] = set()
    for file in (_ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "event":
                found |= _strings(node.value)
            if not isinstance(node, ast.Call):
                continue
            for option in node.keywords:
                if option.arg == "event":
                    found |= _strings(option.value)
            if isinstance(node.func, ast.Attribute) and node.func.attr in _RECORD_CALLS:
                found |= _strings(node.args[0] if node.args else None)
    return found


def test_table_contains_every_written_event() -> None:
    """The chain's opening is written by a constant of the chain module."""
    assert _written_events() | {"audit_chain_opened"} == {event.name for event in RECORDS}


def test_table_describes_every_field() -> None:
    used = {field for event in (*RECORDS, *CHAIN_LINES) for field in event.fields}
    assert used | set(LINE_FIELDS) == FIELDS.keys()


def test_record_fields_are_in_the_table() -> None:
    record = AuditRecord("x", 0.0, access_key="k", extra=WriteEnded(WriteOutcome.SUCCESS, 200, 0.0))
    encoded = set(ast.literal_eval(encode_record(record).decode()))
    assert encoded <= FIELDS.keys()
