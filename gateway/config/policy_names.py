"""Names in a policy: the issuers, projects and accounts of the config, and names in rules. Pure.

A name that no token or server can have would make a denial ineffective without a sign. Such names
are errors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from unicodedata import category

NAME_CHARS_MAX: Final = 255
"""Longest subject or group of a token, and longest tag value."""
NAME_PATTERN: Final = r"^[^\s*?](?:[^*?]*[^\s*?])?$"
"""A name without wildcards and without blanks at the ends, for JSON Schema."""
WILDCARDS: Final = "*?"
ANY_ISSUER: Final = "any"
"""Value of `to.issuer` that means every issuer."""

_PLAIN: Final = re.compile(r"[!-)+->@-~](?:[ -)+->@-~]{0,126}[!-)+->@-~])?")
"""ASCII names that need no further check."""


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What a policy may refer to: names of the config."""

    issuers: tuple[str, ...]
    projects: tuple[str, ...]
    accounts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Projects by account."""
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Projects by region."""


def is_plain_name(name: object, chars_max: int) -> bool:
    """Return whether a value is a valid name: a fast check before `name_problem`."""
    return chars_max > 127 and isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def name_problem(name: str, *, chars_max: int = NAME_CHARS_MAX, is_pattern: bool = False) -> str:
    """Describe why no token or server can have this name; "" if one can.

    In a pattern, `*` is allowed.
    """
    if is_plain_name(name, chars_max):
        return ""
    if name != name.strip():
        return "must not begin or end with a blank"
    if len(name) > chars_max:
        return f"must have at most {chars_max} characters"
    if not all(char.isprintable() or category(char) == "Cf" for char in name):
        return "must not contain control characters"
    wildcards = WILDCARDS.replace("*", "") if is_pattern else WILDCARDS
    if any(char in name for char in wildcards):
        allowed = "only `*` is a wildcard" if is_pattern else "wildcards work in `names` only"
        return f"must not contain {' or '.join(f'`{char}`' for char in wildcards)}: {allowed}"
    return ""
