"""Read a JSON request body only if every parser reads it in the same way. Pure.

The policy decides on what the gateway reads in a body; the cloud acts on what it reads there. The
two must not differ by encoding, duplicate members, or names that only a lenient parser matches.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from unicodedata import normalize

from gateway.domain.errors import BadRequest, UnsupportedMediaType

JSON_MEDIA_TYPE: Final = "application/json"
_JSON_IN_UTF8: Final = re.compile(
    r'application/json(?:[ \t]*;(?:[ \t]*charset=(?:utf-?8|"utf-?8"))?)*[ \t]*', re.IGNORECASE
)
_DEPTH_MAX = 32


def require_json(content_types: Iterable[str]) -> None:
    """Accept JSON in UTF-8 (RFC 8259, 8.1), declared or undeclared; else UnsupportedMediaType.

    The cloud could decode a body with another `charset` to other IDs than the gateway.
    """
    declared = tuple(content_types)
    if len(declared) > 1 or not all(map(_JSON_IN_UTF8.fullmatch, declared)):
        raise UnsupportedMediaType


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the object in the body; raise BadRequest."""
    document = parse_json(body)
    if not isinstance(document, dict):
        raise BadRequest("The request body must be a JSON object.")
    return document


def parse_json(body: bytes) -> dict[str, Any] | list[Any]:
    """Return the object or array in the body; raise BadRequest."""
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_unambiguous, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict | list):
        return document
    raise BadRequest(
        "The request body must be JSON in UTF-8, without duplicate members and without control"
        " characters in their names."
    )


def member_at(document: Mapping[str, Any], path: str) -> Any:
    """Return the member that a path with dots leads to; None without one."""
    found: Any = document
    for step in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(step)
    return found


def member_names(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the name of each member at any depth; raise BadRequest beyond the deepest."""
    if depth > _DEPTH_MAX:
        raise BadRequest("The request body is nested too deeply.")
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from member_names(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from member_names(inner, depth + 1)


def reject_lookalikes(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise BadRequest for a name that a lenient parser could take for one of `known`."""
    exact = set(known)
    by_form = {lenient_form(name): name for name in exact}
    for name in names:
        if name not in exact and (meant := by_form.get(lenient_form(name))) is not None:
            raise BadRequest(f"A member of the body must be named exactly `{meant}`.")


def lenient_form(name: str) -> str:
    """Return letters and digits only, without case, accents and compatibility forms.

    fastjson, for example, takes `serverIdSet` and `server-id-set` for `server_id_set`. Upper case
    comes first because it turns the dotless i into the same letter as i, as in Java.
    """
    folded = normalize("NFKD", normalize("NFKD", name).upper().casefold())
    return "".join(filter(str.isalnum, folded))


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 8259, 4: of two members with one name, some parsers use the first, others the last.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate member")
    if not all(map(str.isprintable, found)):
        raise ValueError("control character")
    return found


def _reject_constant(name: str) -> None:
    raise ValueError(name)
