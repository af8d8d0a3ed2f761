"""Plain YAML documents, built from libyaml's events three times faster than through nodes.

Plain is a document of mappings with distinct text keys, lists and scalars, without anchors, aliases
and explicit tags. Any other document is left to the complete reader, which also describes errors.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import yaml
from yaml.events import (
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

_TEXT: Final = "tag:yaml.org,2002:str"


class PlainDocument(NamedTuple):
    data: Any
    item_lines: Mapping[str, Sequence[int]]
    """The line of each item of the lists in the top mapping, by the key of the list."""


def read_plain(loader: Any) -> PlainDocument | None:
    """Return the document of a loader; None if it is not plain, not valid, or not alone."""
    try:
        return _Builder(loader).document()
    except (_NotPlain, yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):
        return None


class _NotPlain(Exception):
    pass


class _Builder:
    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._next: Callable[[], Any] = loader.get_event
        self._resolved: Collection[str | None] = loader.yaml_implicit_resolvers
        """First characters of unquoted scalars that may be other than text."""
        self._scalars: dict[str, Any] = {}
        """Values of unquoted scalars."""
        self._item_lines: dict[str, list[int]] = {}

    def document(self) -> PlainDocument:
        self._expect(StreamStartEvent)
        self._expect(DocumentStartEvent)
        first = self._expect(MappingStartEvent)
        _require_plain(first)
        data = self._mapping(is_top=True)
        self._expect(DocumentEndEvent)
        self._expect(StreamEndEvent)
        return PlainDocument(data, self._item_lines)

    def _expect(self, kind: type[yaml.Event]) -> Any:
        event = self._next()
        if type(event) is not kind:
            raise _NotPlain
        return event

    def _mapping(self, *, is_top: bool = False) -> dict[str, Any]:
        data: dict[str, Any] = {}
        get = self._next
        while True:
            event = get()
            if type(event) is not ScalarEvent:
                if type(event) is MappingEndEvent:
                    return data
                raise _NotPlain
            key = self._scalar(event)
            if type(key) is not str or key in data:
                raise _NotPlain
            event = get()
            if type(event) is ScalarEvent:
                data[key] = self._scalar(event)
            elif type(event) is SequenceStartEvent:
                _require_plain(event)
                lines = self._item_lines.setdefault(key, []) if is_top else None
                data[key] = self._sequence(lines)
            else:
                data[key] = self._inner_mapping(event)

    def _sequence(self, lines: list[int] | None = None) -> list[Any]:
        data: list[Any] = []
        get = self._next
        while True:
            event = get()
            if type(event) is SequenceEndEvent:
                return data
            if lines is not None:
                lines.append(event.start_mark.line + 1)
            if type(event) is ScalarEvent:
                data.append(self._scalar(event))
            elif type(event) is SequenceStartEvent:
                _require_plain(event)
                data.append(self._sequence())
            else:
                data.append(self._inner_mapping(event))

    def _inner_mapping(self, event: yaml.Event) -> dict[str, Any]:
        if type(event) is not MappingStartEvent:
            raise _NotPlain  # an alias
        _require_plain(event)
        return self._mapping()

    def _scalar(self, event: Any) -> Any:
        if event.anchor is not None or event.tag is not None:
            raise _NotPlain
        text = event.value
        if not event.implicit[0]:
            return text  # quoted
        if text[:1] not in self._resolved and None not in self._resolved:
            return text
        if text in self._scalars:
            return self._scalars[text]
        loader = self._loader
        tag = loader.resolve(yaml.ScalarNode, text, event.implicit)
        value = text
        if tag != _TEXT:
            value = loader.construct_object(yaml.ScalarNode(tag, text, event.start_mark))
            if not isinstance(value, int | float | None):
                raise _NotPlain
        self._scalars[text] = value
        return value


def _require_plain(event: Any) -> None:
    if event.anchor is not None or event.tag is not None:
        raise _NotPlain
