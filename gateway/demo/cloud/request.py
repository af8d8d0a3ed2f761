"""What one call to the physical-servers API asks for, read with the service's own refusals.

An operation is a plain function of it. It returns what its answer says as JSON, or a whole
answer where the status is not 200, or a Download; it refuses by raising Refused.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.demo.cloud import refusals
from gateway.demo.cloud.fleet import Instance, Project, Server
from gateway.demo.cloud.refusals import Refusal

IDS_MAX = 100
"""How many ids a comma list of a query may have."""
_ABSENT = object()


class Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Asked:
    project: Project
    path: Mapping[str, str]
    """What stands in the template's places."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    def server(self, name: str = "id") -> Server:
        return self.servers([self.path[name]])[0]

    def servers(self, ids: Sequence[str]) -> list[Server]:
        _all_known(ids, self.project.servers, refusals.SERVER_UNKNOWN, "physical servers")
        return [self.project.servers[one] for one in ids]

    def instance(self) -> Instance:
        return self.instances([self.path["id"]])[0]

    def instances(self, ids: Sequence[str]) -> list[Instance]:
        _all_known(ids, self.project.instances, refusals.INSTANCE_UNKNOWN, "instances")
        return [self.project.instances[one] for one in ids]

    def whole(self, name: str, default: int) -> int:
        """Read a query parameter that is a whole number, not below 0."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal()):
            raise invalid(name)
        return int(text)

    def limit(self, least: int, most: int, default: int) -> int:
        """Smaller counts as `least`, larger as `most` (dossier 1.4)."""
        return min(most, max(least, self.whole("limit", default)))

    def span(self) -> tuple[int, int] | None:
        """Read `from` and `to`; None where neither is there."""
        if not self.query.get("from") and not self.query.get("to"):
            return None
        since, until = self.whole("from", 0), self.whole("to", 1 << 62)
        if since >= until:
            raise invalid("from")
        return since, until

    def listed(self, name: str) -> list[str] | None:
        """Read a comma list of a query; None where it is absent or empty."""
        ids = [one for one in self.query.get(name, "").split(",") if one]
        if len(ids) > IDS_MAX:
            raise invalid(name)
        return ids or None

    def given(self, name: str, kind: type, default: Any = _ABSENT) -> Any:
        """Read a member of the body; without a default it must be there."""
        if not isinstance(self.body, dict):
            raise invalid("body")
        value = self.body.get(name)
        if value is None:
            if default is _ABSENT:
                raise missing(name)
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            raise invalid(name)
        return value

    def id_set(self, name: str, most: int, *, required: bool = True) -> list[str]:
        """Read a set of ids from the body, each once; empty only where it is not required."""
        ids = self.given(name, list, default=[])
        if not ids and required:
            raise missing(name)
        if len(ids) > most or not all(isinstance(one, str) for one in ids):
            raise invalid(name)
        return list(dict.fromkeys(ids))


Operation = Callable[[Asked], Any]


def invalid(name: str) -> Refused:
    return Refused(refusals.PARAMETER_INVALID.about(f"Invalid parameter: {name}."))


def missing(name: str) -> Refused:
    return Refused(refusals.PARAMETER_MISSING.about(f"Missing parameter: {name}."))


def page(ids: Sequence[str], marker: str, limit: int) -> tuple[Sequence[str], dict[str, Any]]:
    """Cut the page after `marker` out of sorted ids, with its page_info."""
    start = bisect_right(ids, marker) if marker else 0
    cut = ids[start : start + limit]
    info = {
        "next_marker": cut[-1] if start + len(cut) < len(ids) else None,
        "previous_marker": ids[start - limit] if start >= limit else None,
        "current_count": len(cut),
    }
    return cut, info


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _all_known(ids: Iterable[str], known: Mapping[str, Any], refusal: Refusal, what: str) -> None:
    if unknown := [one for one in ids if one not in known]:
        raise Refused(refusal.about(f"The {what} [{', '.join(unknown)}] are not found."))
