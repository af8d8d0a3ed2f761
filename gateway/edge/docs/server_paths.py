"""The paths of a person's servers in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any, Final

from gateway.edge.docs.path_parts import error_responses, json_response

Json = dict[str, Any]

TAG: Final = "my-servers"
_TEXT: Final[Json] = {"type": "string"}
_OPTIONAL: Final[Json] = {"type": ["string", "null"]}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}


def _object(required: Iterable[str] = (), /, **properties: Json) -> Json:
    return {"type": "object", "required": [*required], "properties": properties}


def _array(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


_SERVER: Final = _object(
    ("id", "name", "permissions"),
    id=_TEXT,
    name=_OPTIONAL,
    location=_object(("dc", "rack", "unit"), dc=_OPTIONAL, rack=_OPTIONAL, unit=_OPTIONAL),
    model=_OPTIONAL,
    power_state=_OPTIONAL,
    health_state=_OPTIONAL,
    tags={
        "type": ["array", "null"],
        "items": _object(("key", "value"), key=_TEXT, value=_TEXT),
    },
    permissions=_array(_TEXT, description="The caller's permissions on it now."),
)
_LIST: Final = _object(
    ("projects",),
    projects=_array(
        _object(
            ("project_id", "project_name", "account", "region", "delivery", "servers"),
            project_id=_TEXT,
            project_name=_TEXT,
            account=_TEXT,
            region=_OPTIONAL,
            delivery={"type": "string", "enum": ["direct", "proxied"]},
            servers=_array(_SERVER),
        )
    ),
)
_ON_SERVER: Final[Json] = {"project_id": _TEXT, "server_id": _TEXT}
_STATE: Final = _object(
    ("list", "projects", "power", "consoles"),
    list={**_TEXT, "description": "Changes with the list of `/servers`."},
    projects=_array(
        _object(
            ("project_id", "account", "region", "listed_at", "is_current", "problem"),
            project_id=_TEXT,
            account=_TEXT,
            region=_OPTIONAL,
            listed_at={"type": ["string", "null"], "format": "date-time"},
            is_current={"type": "boolean"},
            problem={"enum": ["busy", "unavailable", "rejected", None]},
        )
    ),
    power=_array(
        _object(
            ("project_id", "server_id", "power_state", "health_state", "read_at"),
            **_ON_SERVER,
            power_state=_OPTIONAL,
            health_state=_OPTIONAL,
            read_at=_TIME,
        ),
        description="Servers that were read after their list.",
    ),
    consoles={
        "description": "Null without `console:view`, or without live consoles.",
        "type": ["object", "null"],
        "required": ["age_max_s", "complete", "sessions"],
        "properties": {
            "age_max_s": {"type": "number"},
            "complete": {"type": "boolean"},
            "sessions": _array(
                _object(
                    ("project_id", "server_id", "person", "mode", "since"),
                    **_ON_SERVER,
                    person=_object(("subject", "issuer"), subject=_TEXT, issuer=_TEXT),
                    mode={"type": "string", "enum": ["control", "view"]},
                    since=_TIME,
                )
            ),
        },
    },
)
_EXISTS: Final = " Exists with `page.enabled`. Takes no query. Answers 304 if unchanged."


def server_paths(statuses: Iterable[int]) -> dict[str, Json]:
    """Return the paths; `statuses` are those of errors, which the document describes."""
    errors = error_responses(statuses)
    paths: dict[str, Json] = {}
    for path, name, summary, description, schema in (
        (
            *("/servers", "ListVisibleServers", "List visible servers"),
            "Returns the servers that the caller may see or open, over all accounts.",
            _LIST,
        ),
        (
            *("/servers/state", "ShowServersState", "Show state of visible servers"),
            "Returns the age of each list, changed power states, and the people on consoles.",
            _STATE,
        ),
    ):
        response = json_response(summary, schema)
        operation: Json = {
            "operationId": name,
            "summary": summary,
            "description": description + _EXISTS,
            "tags": [TAG],
            "responses": {"200": response, "304": {"description": "Unchanged."}, **errors},
        }
        paths[path] = {"get": operation}
    return paths
