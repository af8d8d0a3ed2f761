"""Changed copies of plain data, to test parsers and schemas."""

from collections.abc import Iterator
from typing import Any


def every_change(data: Any, value: object) -> Iterator[Any]:
    """Yield copies of the data, each with `value` in place of one part."""
    yield value
    keys = data if isinstance(data, dict) else range(len(data) if isinstance(data, list) else 0)
    for key in keys:
        for part in every_change(data[key], value):
            copy = data.copy()
            copy[key] = part
            yield copy
