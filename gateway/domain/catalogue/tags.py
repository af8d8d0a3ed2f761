"""Tags in request bodies: which keys a call writes, because rules of the policy use tags. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.domain.catalogue.json_body import lenient_form
from gateway.domain.errors import BadRequest

_TAG: Final = frozenset({"key", "value"})
_TAG_MEMBERS: Final = frozenset(
    {"tag", "tags", "taglist", "tagset", "servertag", "servertags", "resourcetag", "resourcetags"}
    | {"systag", "systags", "metadatatags", "tagspecification", "tagspecifications"}
)
"""Usual names of tags, in their lenient form."""


def keys_of_tags(document: Mapping[str, Any], member: str) -> frozenset[str]:
    """Return the keys of the tags in a body that contains nothing else; raise BadRequest.

    An empty list is rejected: the cloud may treat it as every tag.
    """
    tags = document.get(member)
    if set(document) != {member} or not isinstance(tags, list) or not tags:
        raise BadRequest(f"The body must contain only `{member}`, a list of tags.")
    for tag in tags:
        is_tag = isinstance(tag, dict) and "key" in tag and _TAG.issuperset(tag)
        if not is_tag or not isinstance(tag["key"], str):
            raise BadRequest("A tag must have a text `key`, and no other member than `value`.")
    return frozenset(tag["key"] for tag in tags)


def may_contain_tags(names: Iterable[str]) -> bool:
    """Return whether a body with these member names may write tags."""
    return any(lenient_form(name) in _TAG_MEMBERS for name in names)
