"""The paths of a person's own live consoles in the OpenAPI document."""

from collections.abc import Iterable
from typing import Any, Final

from gateway.edge.docs.path_parts import RESPONSE_HEADERS, error_responses, json_response

Json = dict[str, Any]

TAG: Final = "live-consoles"
_SESSION: Final[Json] = {
    "type": "object",
    "required": ["id", "project_id", "server_id", "mode", "started_at", "connected"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "project_id": {"type": "string"},
        "server_id": {"type": "string"},
        "mode": {"type": "string", "enum": ["control", "view"]},
        "started_at": {"type": "string", "format": "date-time"},
        "connected": {
            "type": "boolean",
            "description": "False while the page reconnects.",
        },
        "watchers": {
            "type": "array",
            "items": {"type": "object"},
            "description": "The people who watch it, each with `since`.",
        },
    },
}
_SESSIONS: Final[Json] = {
    "type": "object",
    "required": ["sessions", "complete"],
    "properties": {
        "sessions": {"type": "array", "items": _SESSION},
        "complete": {
            "type": "boolean",
            "description": "False: sessions of other processes are missing for the moment.",
        },
    },
}
_EXISTS: Final = " Exists if an account delivers live consoles."
_WHERE: Final = (
    f"{_EXISTS} Accepts the JWT, or, below the path of `listen.public_url`, the cookie of one of"
    " the person's sessions."
)
_SESSION_ID: Final[Json] = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}


_RECORDING_ID: Final[Json] = {**_SESSION_ID, "name": "recording_id"}
_RECORDED: Final = (
    " Requires `recording:view` on the server of the recording. Exists if the config has"
    " `recordings.directory`."
)


_FILTERS: Final[list[Json]] = [
    *(
        {"name": name, "in": "query", "schema": {"type": "string"}}
        for name in ("project", "server", "subject")
    ),
    *(
        {
            "name": name,
            "in": "query",
            "description": "RFC 3339, with a time zone.",
            "schema": {"type": "string", "format": "date-time"},
        }
        for name in ("since", "until")
    ),
    {"name": "limit", "in": "query", "schema": {"type": "integer", "default": 100}},
]
_ADDRESS: Final[Json] = {
    "type": "object",
    "required": ["url", "expires_in"],
    "properties": {"url": {"type": "string"}, "expires_in": {"type": "integer"}},
}


def _recording_operation(
    name: str, summary: str, description: str, content: Json, errors: Json
) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "description": f"{description}{_RECORDED}",
        "tags": [TAG],
        "responses": {
            "200": {"description": summary, "headers": RESPONSE_HEADERS, "content": content},
            **errors,
        },
    }


def recording_paths(statuses: Iterable[int]) -> dict[str, Json]:
    """Return the paths of recordings."""
    errors = error_responses(statuses)

    def operation(name: str, summary: str, description: str, content: Json) -> Json:
        return _recording_operation(name, summary, description, content, errors)

    json_object = {"application/json": {"schema": {"type": "object"}}}
    keys = {"type": "object", "properties": {"keys": {"type": "boolean", "default": False}}}
    return {
        "/console/recordings": {
            "get": {
                **operation(
                    "ListRecordings",
                    "List recordings",
                    "Returns the recordings that the caller may view, the newest first. `here` is"
                    " false where only another host has the files, which `hosts` names;"
                    " `problems` says what does not match the signed index, or is not here."
                    " `state` is `in_progress`, `ended`, or `not_closed`: no process writes it any"
                    " more, and none has closed it yet. With `more`, the next request repeats the"
                    " query with `until` of this response; it may repeat a recording."
                    " `may` has `keys` where the caller also sees the keystrokes."
                    " `complete` is false while those of other hosts are not known.",
                    json_object,
                ),
                "parameters": _FILTERS,
            }
        },
        "/console/recordings/{recording_id}": {
            "parameters": [_RECORDING_ID],
            "get": operation("ShowRecording", "Show recording", "Returns one.", json_object),
        },
        "/console/recordings/{recording_id}/views": {
            "parameters": [_RECORDING_ID],
            "post": {
                **operation(
                    "ViewRecording",
                    "View recording",
                    "Returns a one-time address of the player. `keys` adds the keystrokes and"
                    " requires `recording:keys`.",
                    {"application/json": {"schema": _ADDRESS}},
                ),
                "requestBody": {"content": {"application/json": {"schema": keys}}},
            },
        },
        "/console/recordings/{recording_id}/export": {
            "parameters": [_RECORDING_ID],
            "post": {
                **operation(
                    "ExportRecording",
                    "Export recording",
                    "Returns one HTML file that plays offline. It is not encrypted.",
                    {"application/octet-stream": {}},
                ),
                "requestBody": {"content": json_object},
            },
        },
    }


def console_paths(statuses: Iterable[int]) -> dict[str, Json]:
    """Return the paths; `statuses` are those of errors, which the document describes."""
    errors = error_responses(statuses)
    return {
        "/console/sessions": {
            "get": {
                "operationId": "ListConsoleSessions",
                "summary": "List console sessions",
                "description": f"Returns the caller's live consoles.{_WHERE}",
                "tags": [TAG],
                "responses": {
                    "200": json_response("The live consoles, oldest first.", _SESSIONS),
                    **errors,
                },
            }
        },
        "/console/sessions/{session_id}/renew": {
            "parameters": [_SESSION_ID],
            "post": {
                "operationId": "RenewConsoleSession",
                "summary": "Renew console session",
                "description": "Lets one of the caller's live consoles follow the token that is"
                f" sent, with its groups. Requires the JWT.{_EXISTS}",
                "tags": [TAG],
                "responses": {
                    "200": json_response("The session follows the token.", {"type": "object"}),
                    **errors,
                },
            },
        },
        "/console/sessions/{session_id}": {
            "parameters": [_SESSION_ID],
            "delete": {
                "operationId": "EndConsoleSession",
                "summary": "End console session",
                "description": f"Ends one of the caller's live consoles.{_WHERE}",
                "tags": [TAG],
                "responses": {
                    "204": {"description": "The session has ended.", "headers": RESPONSE_HEADERS},
                    **errors,
                },
            },
        },
    }
