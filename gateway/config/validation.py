"""Conversion of pydantic's validation errors to ConfigErrors with file, line and key.

Messages contain no values: a value may be a secret.
"""

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.errors import ConfigError, InvalidKey, KeyPath
from gateway.config.located_yaml import Document, hint

_LIST, _MAPPING, _WHOLE = "must be a list", "must be a mapping", "must be a whole number"
_NUMBER, _BOOL, _TEXT = "must be a number", "must be true or false", "must be text (in quotes)"
_MESSAGES = {
    "bool_parsing": _BOOL,
    "bool_type": _BOOL,
    "dataclass_type": _MAPPING,
    "dict_type": _MAPPING,
    "enum": "must be {expected}",
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "frozen_set_type": _LIST,
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "ip_any_network": "must be a network, for instance 10.0.0.0/8",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "list_type": _LIST,
    "literal_error": "must be {expected}",
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "path_type": _TEXT,
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": _TEXT,
    "too_long": "must have at most {max_length} entries",
    "too_short": "must not be empty",
    "tuple_type": _LIST,
    "unexpected_keyword_argument": "unknown key",
}
"""Message by pydantic's error type; the braces refer to the error's context."""


def config_errors(
    error: ValidationError, document: Document, root: type[BaseModel]
) -> list[ConfigError]:
    """Return the errors of a document that should be a `root`, sorted by line."""
    findings = error.errors(include_url=False, include_input=False)
    errors = {
        document.error(*_describe(finding, document.data, root))
        for finding in findings
        if not _follows_from_another(finding, findings)
    }
    return sorted(errors, key=lambda error: (error.line, error.key))


def _follows_from_another(finding: ErrorDetails, findings: list[ErrorDetails]) -> bool:
    """Return whether a list is too short only because its entry has another error."""
    loc = finding["loc"]
    return finding["type"] == "too_short" and any(
        other is not finding and other["loc"][: len(loc)] == loc for other in findings
    )


def _describe(finding: ErrorDetails, data: object, root: type[BaseModel]) -> tuple[KeyPath, str]:
    """Return the path of the error and its message."""
    path, context = _path_in_file(finding["loc"], data), finding.get("ctx", {})
    match finding["type"]:
        case "extra_forbidden":
            return path, f"unknown key; {hint(path[-1], _known_keys(root, path[:-1]))}"
        case "missing":
            return path[:-1], f"`{path[-1]}` is missing"
        case "union_tag_not_found":
            (key,) = _quoted(context["discriminator"])
            return path, f"`{key}` is missing"
        case "union_tag_invalid":
            (key,), known = _quoted(context["discriminator"]), _quoted(context["expected_tags"])
            return (*path, key), f"unknown {key}; {hint(context['tag'], known)}"
        case "literal_error" if finding["loc"][-1] == _KEY:
            return path, f"unknown key; {hint(path[-1], _quoted(context['expected']))}"
        case "value_error":
            cause = context["error"]
            return (*path, *cause.path) if isinstance(cause, InvalidKey) else path, str(cause)
        case kind if kind in _MESSAGES:
            return path, _MESSAGES[kind].format(**context)
        case _:
            return path, finding["msg"]


_KEY = "[key]"
"""Pydantic's last path step for an error in a mapping's key."""


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _known_keys(root: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys of the section at `path`; for a union, those of all members."""
    sections = {root}
    for step in path:
        if isinstance(step, str):
            sections = {
                part
                for section in sections
                if step in section.model_fields
                for part in _sections_in(section.model_fields[step].annotation)
            }
    return sorted({key for section in sections for key in section.model_fields})


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _path_in_file(loc: tuple[str | int, ...], data: object) -> KeyPath:
    # Pydantic adds steps that the file does not have: the name of a union's member, and an index
    # for a single rate that became a list.
    unions = (("accounts", "login"), ("issuers", "keys"), ("store", "redis"))
    path: list[str | int] = []
    for i, step in enumerate(loc):
        is_index_of_single = isinstance(step, int) and isinstance(data, dict)
        if (i > 0 and (loc[0], loc[i - 1]) in unions) or is_index_of_single or step == _KEY:
            continue
        path.append(step)
        try:
            data = data[step]  # type: ignore[index]
        except (TypeError, LookupError):
            data = None
    return tuple(path)
