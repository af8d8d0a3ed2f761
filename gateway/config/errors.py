"""Errors in the config and in the policy: each names the file, the line and the key."""

from collections.abc import Sequence
from dataclasses import dataclass

Step = str | int
"""A key of a mapping, or an index of a list."""
KeyPath = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class ConfigError:
    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class InvalidConfig(Exception):
    """Everything that is wrong with a file, not only the first thing."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = tuple(errors)


class InvalidKey(ValueError):
    """A mistake in one part of what a validator looks at."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
