"""The series and labels that a PromQL expression reads."""

import re
from dataclasses import dataclass

_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?(?!\s*\(|[\w:])")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_TEXT = re.compile(r'"[^"]*"')
_WORDS = frozenset(["and", "or", "unless", "offset", "bool", "group_left", "group_right"])
_NUMBER = re.compile(r"\[[^\]]*\]|\boffset\s+\w+|\b\d[\w.]*|\b(?:[Ii]nf|NaN)\b")
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True, slots=True)
class Selector:
    name: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator, value."""

    @property
    def family(self) -> str:
        """The metric of the series; a histogram has three series names."""
        return _SUFFIX.sub("", self.name)

    def __str__(self) -> str:
        inside = ",".join(f'{label}{operator}"{value}"' for label, operator, value in self.matchers)
        return self.name + ("{" + inside + "}" if inside else "")


def selectors_in(expression: str) -> list[Selector]:
    """Return the series that the expression reads, in order."""
    return [
        Selector(found[1], tuple(_MATCHER.findall(found[2] or "")))
        for found in _SELECTOR.finditer(_only_selectors(expression))
        if found[1] not in _WORDS
    ]


def labels_grouped_by(expression: str) -> set[str]:
    """Return the labels by which the expression groups, matches or joins."""
    lists = [found[2] for found in _GROUPING.finditer(expression)]
    return {label.strip() for one in lists for label in one.split(",") if label.strip()}


def _only_selectors(expression: str) -> str:
    """Remove numbers, durations, strings and label lists outside of selectors."""
    parts = re.split(r"(\{[^}]*\})", expression)
    for i in range(0, len(parts), 2):
        for other in (_TEXT, _GROUPING, _NUMBER):
            parts[i] = other.sub(" ", parts[i])
    return "".join(parts)
