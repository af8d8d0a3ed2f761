"""A plain document is read as the complete reader reads it, and any other is left to that one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import located_yaml
from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import Document, parse
from gateway.config.plain_yaml import read_plain

FILE = Path("policy.yaml")
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
)
_WORDS = r"""on yes no ~ null true 1 0x1f 1_000 1:30 .5 - = << 2026-01-01 é ' " # [ { !x &x *x %"""
WORDS = st.sampled_from([*_WORDS.split(" "), "", "a b", "a: b", "- a", "\t"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
)
DOCUMENTS = st.dictionaries(st.sampled_from(["grants", "roles", "on"]), VALUES, max_size=3)


def outcome(content: bytes) -> Any:
    """Return data and lines, or the errors."""
    try:
        document = parse(FILE, content)
    except InvalidConfig as invalid:
        return invalid.errors
    return document.data, [document.line(path) for path in paths(document)]


def paths(document: Document) -> list[tuple[str | int, ...]]:
    data = document.data if isinstance(document.data, dict) else {}
    below = [(key, i) for key, some in data.items() if isinstance(some, list) for i in range(9)]
    return [(), *((key,) for key in data), *below, *((*path, "to") for path in below)]


def assert_reads_alike(content: bytes) -> bool:
    """Return whether the document is plain."""
    text = content.decode("utf-8-sig", "replace")
    is_plain = read_plain(located_yaml._Loader(text)) is not None if text else False
    quick = outcome(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(located_yaml, "read_plain", lambda _: None)
        complete = outcome(content)
    assert quick == complete or repr(quick) == repr(complete)
    return is_plain


@given(DOCUMENTS, st.sampled_from([True, False, None]), st.booleans())
def test_written_document_is_read_alike(
    data: dict[str, Any],
    flow: bool | None,  # noqa: FBT001
    canonical: bool,  # noqa: FBT001
) -> None:
    text = yaml.safe_dump(
        data, default_flow_style=flow, allow_unicode=True, sort_keys=False, canonical=canonical
    )
    assert_reads_alike(text.encode())


@given(st.lists(WORDS | st.sampled_from(["\n", "  ", ": ", "- ", ", ", "]", "}"]), max_size=12))
def test_any_text_is_read_alike(parts: list[str]) -> None:
    assert_reads_alike("".join(parts).encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "a: &x 1\nb: *x",
        "a: &x {b: 1}",
        "a: !!str 1",
        "a: !!binary aGVsbG8=",
        "a: !x {}",
        "a: {<<: {b: 1}}",
        "a: {1: b}",
        "a: {b: 1, b: 2}",
        "a: {? [b] : c}",
        "a: =",
        "a: 0o9\n---\nb: 1",
        "a: [",
    ],
)
def test_document_that_is_not_plain_is_left_to_the_complete_reader(text: str) -> None:
    assert not assert_reads_alike(text.encode())


def test_policy_is_plain() -> None:
    text = 'roles: {op: [a, "b"]}\ngrants:\n  - role: op\n    on: {servers: [1, ~, 1e3]}\n  - []\n'
    assert assert_reads_alike(text.encode())
    assert parse(FILE, text.encode()).line(("grants", 1)) == 5
