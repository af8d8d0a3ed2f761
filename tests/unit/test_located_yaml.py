"""Located YAML: each value has a line, and ambiguous documents are rejected."""

from pathlib import Path

import pytest

from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import Document, dotted, load

NESTED = """\
# a comment
top:
  list:
    - name: one
      deep: {a: 1,
             b: 2}
    - two
  last: x
"""


def read(tmp_path: Path, text: str | bytes) -> Document:
    file = tmp_path / "some.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(file)


def rejected(tmp_path: Path, text: str | bytes) -> list[ConfigError]:
    with pytest.raises(InvalidConfig) as found:
        read(tmp_path, text)
    return list(found.value.errors)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 2),
        (("top",), 2),
        (("top", "list"), 3),
        (("top", "list", 0), 4),
        (("top", "list", 0, "deep"), 5),
        (("top", "list", 0, "deep", "a"), 5),
        (("top", "list", 0, "deep", "b"), 6),
        (("top", "list", 1), 7),
        (("top", "last"), 8),
    ],
)
def test_line_of_value(tmp_path: Path, path: tuple[str | int, ...], line: int) -> None:
    assert read(tmp_path, NESTED).line(path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top", "missing"), 2),
        (("top", "list", 9), 3),
        (("top", "list", 0, "deep", "c", "d"), 5),
        (("top", "last", "below text"), 8),
        (("nowhere",), 2),
    ],
)
def test_missing_value_has_line_of_nearest_parent(
    tmp_path: Path, path: tuple[str | int, ...], line: int
) -> None:
    assert read(tmp_path, NESTED).line(path) == line


def test_error_prints_file_line_and_key(tmp_path: Path) -> None:
    document = read(tmp_path, NESTED)
    text = str(document.error(("top", "list", 0, "deep"), "is wrong"))
    assert text == f"{tmp_path / 'some.yaml'}:5: top.list[0].deep: is wrong"
    assert str(ConfigError("f", 0, "", "cannot be read")) == "f: cannot be read"
    assert dotted((0, "a", 1)) == "[0].a[1]"


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_empty_file_has_no_data_at_line_one(tmp_path: Path, text: str) -> None:
    document = read(tmp_path, text)
    assert document.data is None
    assert document.line(("any",)) == 1


def test_on_off_and_instants_are_text(tmp_path: Path) -> None:
    text = "on: yes\noff: No\nuntil: 2026-11-27T18:00:00+01:00\nday: 2026-11-27\n"
    assert read(tmp_path, text).data == {
        "on": "yes",
        "off": "No",
        "until": "2026-11-27T18:00:00+01:00",
        "day": "2026-11-27",
    }


@pytest.mark.parametrize("word", ["true-believers", "falsetto", "trues", "True", "null-ops"])
def test_name_that_resembles_a_boolean_is_text(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, f"groups: [{word}]\n").data == {"groups": [word]}


@pytest.mark.parametrize("text", ["ok: 1\n{a: 1}: b\n", "ok: 1\n[a, b]: c\n"])
def test_structured_key_is_rejected(tmp_path: Path, text: str) -> None:
    errors = rejected(tmp_path, text)
    assert [(one.line, one.message) for one in errors] == [(2, "a key must be text")]


@pytest.mark.parametrize("key", ["43", "1.5", "true", "null", "~", "<<"])
def test_key_of_other_type_is_rejected(tmp_path: Path, key: str) -> None:
    (error,) = rejected(tmp_path, f"ok: 1\n{key}: {{}}\n")
    assert (error.line, error.key) == (2, key)
    assert error.message == "a key must be text (put it in quotes)"
    assert read(tmp_path, f"'{key}': 1\n").data == {key: 1}


def test_booleans_numbers_and_null_are_values(tmp_path: Path) -> None:
    text = "a: true\nb: false\nc: 42\nd: 0.5\ne: null\nf: 'true'\n"
    data = read(tmp_path, text).data
    assert data == {"a": True, "b": False, "c": 42, "d": 0.5, "e": None, "f": "true"}
    assert data["a"] is True


def test_duplicate_key_is_rejected_at_second_line(tmp_path: Path) -> None:
    errors = rejected(tmp_path, "a: 1\nb: {c: 1,\n  c: 2}\na: 3\n")
    assert {(one.line, one.key) for one in errors} == {(3, "c"), (4, "a")}


def test_same_key_in_two_mappings_is_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, "- {a: 1}\n- {a: 1}\n").data == [{"a": 1}, {"a": 1}]


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "a: &x {k: 1}\nb:\n  <<: *x\n",
        "a: &x [*x]\n",  # recursive
        "? &x a\n: 1\n? b\n: *x\n",
        "a: &x k\n*x : 1\n",
        "a: &x [1]\n? *x\n: 1\n",
    ],
)
def test_aliases_are_rejected(tmp_path: Path, text: str) -> None:
    assert any("aliases" in one.message for one in rejected(tmp_path, text))


def test_alias_bomb_is_rejected_before_expansion(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert any("aliases" in one.message for one in rejected(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 'open\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: !!python/object:os.system x\n", 1),
        ("a: \x00\n", 0),
        ("a: !!int x\n", 0),
        ("a: !!bool x\n", 0),
        ("a: !!timestamp x\n", 0),
    ],
)
def test_invalid_yaml_is_rejected_with_line(tmp_path: Path, text: str, line: int) -> None:
    (error,) = rejected(tmp_path, text)
    assert error.message.startswith("is not valid YAML")
    assert error.line == line


def test_other_encoding_is_rejected(tmp_path: Path) -> None:
    (error,) = rejected(tmp_path, "name: Jürgen".encode("latin-1"))
    assert error.message == "is not UTF-8"


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_unreadable_file_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidConfig) as found:
        load(tmp_path / name)
    (error,) = found.value.errors
    assert error.message.startswith("cannot be read: ")
    assert error.file == str(tmp_path / name)
