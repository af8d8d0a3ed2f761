"""One call to the simulated physical-servers API, with validated access to its parameters.

An operation is a function of an OperationCall. It returns a JSON body, a complete response for a
status other than 200, or a LogDownload. It raises OperationFailed with a CloudError.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.demo.cloud import cloud_errors
from gateway.demo.cloud.cloud_errors import CloudError
from gateway.demo.cloud.fleet import CloudProject, Instance, Server

IDS_MAX = 100
"""Maximum number of IDs in a comma-separated query parameter."""
_ABSENT = object()


class OperationFailed(Exception):
    def __init__(self, error: CloudError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class OperationCall:
    project: CloudProject
    path: Mapping[str, str]
    """Path parameters by name."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    def server(self, name: str = "id") -> Server:
        return self.servers([self.path[name]])[0]

    def servers(self, ids: Sequence[str]) -> list[Server]:
        _require_known(ids, self.project.servers, cloud_errors.SERVER_UNKNOWN, "physical servers")
        return [self.project.servers[one] for one in ids]

    def instance(self) -> Instance:
        return self.instances([self.path["id"]])[0]

    def instances(self, ids: Sequence[str]) -> list[Instance]:
        _require_known(ids, self.project.instances, cloud_errors.INSTANCE_UNKNOWN, "instances")
        return [self.project.instances[one] for one in ids]

    def integer(self, name: str, default: int) -> int:
        """Return a query parameter as an integer, at least 0."""
        text = self.query.get(name, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal()):
            raise invalid_parameter(name)
        return int(text)

    def limit(self, least: int, most: int, default: int) -> int:
        """Return `limit`, clamped to `least` and `most` (upstream-api.md#1.4)."""
        return min(most, max(least, self.integer("limit", default)))

    def time_range(self) -> tuple[int, int] | None:
        """Return `from` and `to`, or None if both are absent."""
        if not self.query.get("from") and not self.query.get("to"):
            return None
        since, until = self.integer("from", 0), self.integer("to", 1 << 62)
        if since >= until:
            raise invalid_parameter("from")
        return since, until

    def comma_list(self, name: str) -> list[str] | None:
        """Return a comma-separated query parameter, or None if it is absent or empty."""
        ids = [one for one in self.query.get(name, "").split(",") if one]
        if len(ids) > IDS_MAX:
            raise invalid_parameter(name)
        return ids or None

    def member(self, name: str, kind: type, default: Any = _ABSENT) -> Any:
        """Return a member of the body; it is required unless `default` is given.

        Names match as in fastjson: by letters and digits, without case. The last match wins.
        """
        if not isinstance(self.body, dict):
            raise invalid_parameter("body")
        value = {_matched_form(key): found for key, found in self.body.items()}.get(
            _matched_form(name)
        )
        if value is None:
            if default is _ABSENT:
                raise missing_parameter(name)
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            raise invalid_parameter(name)
        return value

    def id_set(self, name: str, most: int, *, required: bool = True) -> list[str]:
        """Return a set of IDs from the body without duplicates; `required` rejects an empty set."""
        ids = self.member(name, list, default=[])
        if not ids and required:
            raise missing_parameter(name)
        if len(ids) > most or not all(isinstance(one, str) for one in ids):
            raise invalid_parameter(name)
        return list(dict.fromkeys(ids))


Operation = Callable[[OperationCall], Any]


def invalid_parameter(name: str) -> OperationFailed:
    return OperationFailed(
        cloud_errors.PARAMETER_INVALID.with_message(f"Invalid parameter: {name}.")
    )


def missing_parameter(name: str) -> OperationFailed:
    return OperationFailed(
        cloud_errors.PARAMETER_MISSING.with_message(f"Missing parameter: {name}.")
    )


def paginate(ids: Sequence[str], marker: str, limit: int) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the page after `marker` of sorted IDs, and its page_info."""
    start = bisect_right(ids, marker) if marker else 0
    cut = ids[start : start + limit]
    info = {
        "next_marker": cut[-1] if start + len(cut) < len(ids) else None,
        "previous_marker": ids[start - limit] if start >= limit else None,
        "current_count": len(cut),
    }
    return cut, info


def _matched_form(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def as_tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _require_known(
    ids: Iterable[str], known: Mapping[str, Any], error: CloudError, what: str
) -> None:
    if unknown := [one for one in ids if one not in known]:
        raise OperationFailed(
            error.with_message(f"The {what} [{', '.join(unknown)}] are not found.")
        )
