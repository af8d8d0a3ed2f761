"""Errors in the config and in the policy: each names the file, the line and the key."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Step = str | int
"""A key of a mapping, or an index of a list."""
KeyPath = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One error; `line` is 0 and `key` is empty if they are unknown."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """Something valid that is probably not what was meant."""

    code: str
    """A key of `WARNINGS` in gateway/config/warnings.py."""
    at: ConfigError

    def __str__(self) -> str:
        return f"{self.at} [{self.code}]"


class InvalidConfig(Exception):
    """A file has errors; `errors` lists all of them."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = tuple(errors)


class InvalidKey(ValueError):
    """An error at a key below the value that a validator checks."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def reject_duplicates(values: Iterable[tuple[KeyPath, str]]) -> None:
    """Raise InvalidKey at the second key that has a value of another key."""
    seen: set[str] = set()
    for path, value in values:
        if value in seen:
            raise InvalidKey(path, f"duplicate: {value}")
        seen.add(value)
