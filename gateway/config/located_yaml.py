"""YAML documents with the line of each value, for errors with file, line and key."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.config.errors import ConfigError, InvalidConfig, Step
from gateway.config.plain_yaml import read_plain

_VARIABLE = re.compile(rb"\$\{[^}\n]*\}|\$\([A-Za-z_]\w*\)|\{\{[^}\n]*\}\}")
"""A variable of a shell, of Kubernetes or of a template."""
_VARIABLE_STARTS = (b"${", b"$(", b"{{")
_NO_LINES: Mapping[str, Sequence[int]] = {}
_TEXT = "tag:yaml.org,2002:str"
_LEFT_AS_TEXT = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")

try:  # the C parser is ten times faster; PyYAML's wheels have it, its source builds may not
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class _Loader(_SafeLoader):
    """Reads `on`, `yes` and instants as text, as YAML 1.2 does (section 10.3.2).

    PyYAML implements YAML 1.1, where the key `on:` means True and a date is not text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared as PyYAML requires
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _LEFT_AS_TEXT]
        for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), list("tf"))


class Document:
    """A parsed file: plain data, and the line on which each value begins."""

    def __init__(
        self,
        file: str,
        data: Any,
        find_root: Callable[[], yaml.Node | None],
        item_lines: Mapping[str, Sequence[int]] = _NO_LINES,
    ) -> None:
        """`find_root` returns the nodes, which only lines other than `item_lines` require."""
        self.file = file
        self.data = data
        self._find_root = find_root
        self._item_lines = item_lines

    def line(self, path: Sequence[Step]) -> int:
        """Return the line of the value at `path`, or of its nearest parent in the file."""
        if len(path) == 2:
            key, index = path
            lines = self._item_lines.get(str(key))
            if lines is not None and isinstance(index, int) and index < len(lines):
                return lines[index]
        node = self._find_root()
        line = 1 if node is None else node.start_mark.line + 1
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            line, node = child
        return line

    def error(self, path: Sequence[Step], message: str) -> ConfigError:
        return ConfigError(self.file, self.line(path), dotted(path), message)


def dotted(path: Sequence[Step]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def hint(name: object, known: Collection[str]) -> str:
    """Suggest a known name for an unknown one, or list the known names."""
    near = get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"


def load(path: Path) -> Document:
    """Read and parse one YAML document; raise InvalidConfig."""
    return parse(path, read(path))


def read(path: Path) -> bytes:
    """Return the content of a file; raise InvalidConfig if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise InvalidConfig([ConfigError(str(path), 0, "", reason)]) from error


def parse(path: Path, content: bytes) -> Document:
    """Parse one YAML document; raise InvalidConfig if it is invalid or ambiguous.

    A variable is rejected: another program should have expanded it. Duplicate keys are rejected:
    YAML requires unique keys (section 3.2.1.3), and PyYAML silently keeps the last one. Aliases are
    rejected: they can expand a document without bounds.
    """
    file = str(path)
    try:
        text = content.decode("utf-8-sig")  # YAML 1.2, 5.2: a mark is allowed
    except UnicodeDecodeError as error:
        raise InvalidConfig([ConfigError(file, 0, "", "is not UTF-8")]) from error
    loader = _Loader(text)
    try:
        plain = read_plain(loader)
    finally:
        loader.dispose()
    if plain is None:
        document = _parse_any(file, text)
    else:
        root = cache(lambda: _compose(text))
        document = Document(file, plain.data, root, plain.item_lines)
    # It may be in a comment. The first search is ten times faster than the expression.
    if any(start in content for start in _VARIABLE_STARTS) and _VARIABLE.search(content):
        errors = list(_variable_errors(document, (), document.data))
        if errors:
            raise InvalidConfig(errors)
    return document


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _parse_any(file: str, text: str) -> Document:
    """Parse a document that is not plain, or describe why it is invalid."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(file, None, lambda: None)
        _reject_ambiguity(file, root)
        return Document(file, loader.construct_document(root), lambda: root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise InvalidConfig(
            [ConfigError(file, line, "", f"is not valid YAML: {error.problem}")]
        ) from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML does not wrap errors of its constructors: `!!bool x` raises KeyError.
        raise InvalidConfig([ConfigError(file, 0, "", "is not valid YAML")]) from error
    finally:
        loader.dispose()


def _variable_errors(
    document: Document, path: tuple[Step, ...], value: Any
) -> Iterator[ConfigError]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _variable_errors(document, (*path, key), inner)
        case list():
            for i, inner in enumerate(value):
                yield from _variable_errors(document, (*path, i), inner)
        case str() if found := _VARIABLE.search(value.encode(errors="replace")):
            message = (
                f"contains the variable {found[0].decode(errors='replace')[:40]}, which is not"
                " expanded; write the value, or for a secret {env: NAME}"
            )
            yield document.error(path, message)


def _reject_ambiguity(file: str, root: yaml.Node) -> None:
    errors: list[ConfigError] = []
    seen: set[int] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            line = node.start_mark.line + 1
            errors.append(ConfigError(file, line, "", "aliases (*name) are not allowed"))
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            todo.extend(part for pair in node.value for part in pair)
            errors.extend(_key_errors(file, node))
    if errors:
        raise InvalidConfig(errors)


def _key_errors(file: str, mapping: yaml.MappingNode) -> Iterator[ConfigError]:
    keys: set[str] = set()
    for key, _ in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield ConfigError(file, line, "", "a key must be text")
        elif key.tag != _TEXT:
            yield ConfigError(file, line, key.value, "a key must be text (put it in quotes)")
        elif key.value in keys:
            yield ConfigError(file, line, key.value, "duplicate key")
        else:
            keys.add(key.value)


def _child(node: yaml.Node | None, step: Step) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found = node.value[step]
        return found.start_mark.line + 1, found
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.line + 1, value
    return None
